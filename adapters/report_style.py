"""Provide the CSS of the report, with rules for light and dark themes, narrow screens and print."""

STYLE = """
:root { --ground: #f7f7f5; --card: #ffffff; --ink: #1c1d21; --dim: #63666f; --line: #dedfe3; --accent: #2f6db5;
  --red: #b3372f; --green: #2e7d4f; --amber: #9a6700;
  --c0: #c8553d; --c1: #2f6db5; --c2: #d9a13b; --c3: #3f8f6b; --c4: #8661b5; --c5: #4aa5b8; --c6: #b5507f; --c7: #8b8f98; }
@media (prefers-color-scheme: dark) { :root { --ground: #16171a; --card: #1f2125; --ink: #e7e8ea; --dim: #9da1aa;
  --line: #363940; --accent: #74a9e8; --red: #f08a80; --green: #79c89a; --amber: #e0b052;
  --c0: #e27d66; --c1: #6ba4e6; --c2: #e6b85c; --c3: #68bd95; --c4: #ad8ae0; --c5: #72c8da; --c6: #dc7ba8; --c7: #8d929c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 32px 20px 48px; }
main > header h1 { margin: 0; font-size: 28px; letter-spacing: -0.01em; }
main > header p, footer, .nothing { color: var(--dim); margin: 4px 0 20px; }
h2 { font-size: 16px; margin: 0 0 12px; }
section, .tiles > div { background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
section { padding: 18px 20px; margin: 0 0 16px; min-width: 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 0 0 16px; }
.tiles > div { padding: 12px 16px; }
.tiles dt { color: var(--dim); font-size: 13px; }
.tiles dd { margin: 0; font-size: 26px; font-weight: 600; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tiles small { display: block; font-size: 12px; font-weight: 400; color: var(--dim); line-height: 1.35; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(400px, 100%), 1fr)); gap: 0 16px; }
svg { display: block; width: 100%; height: auto; max-width: 100%; overflow: visible; }
svg text { fill: var(--ink); font: 12px system-ui, "Segoe UI", Roboto, sans-serif; }
svg text.dim { fill: var(--dim); white-space: pre; }
svg.trend { width: 96px; flex: none; }
.pair svg { max-width: 460px; }
.grid { stroke: var(--line); } .track { stroke: var(--line); stroke-width: 2; stroke-linecap: round; }
line.took { stroke: var(--accent); stroke-width: 5; } circle.took { fill: var(--accent); stroke: var(--accent); stroke-width: 2; }
circle.hollow { fill: var(--card); }
.rate { fill: var(--red); } .spark { fill: var(--accent); }
.c0 { fill: var(--c0); background: var(--c0); } .c1 { fill: var(--c1); background: var(--c1); }
.c2 { fill: var(--c2); background: var(--c2); } .c3 { fill: var(--c3); background: var(--c3); }
.c4 { fill: var(--c4); background: var(--c4); } .c5 { fill: var(--c5); background: var(--c5); }
.c6 { fill: var(--c6); background: var(--c6); } .c7 { fill: var(--c7); background: var(--c7); }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 10px 0 0; padding: 0; font-size: 13px; }
.legend i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 6px; }
article { border-top: 1px solid var(--line); padding: 14px 0; break-inside: avoid; }
article:first-of-type { border-top: 0; padding-top: 0; } article:last-of-type { padding-bottom: 0; }
article header { display: flex; flex-wrap: wrap; align-items: baseline; gap: 2px 8px; }
code { font: 12px ui-monospace, "SF Mono", Menlo, Consolas, monospace; color: var(--dim); margin-left: auto; }
.said { margin: 6px 0; font: 13px/1.45 ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.numbers { display: flex; flex-wrap: wrap; align-items: center; gap: 4px 18px; font-size: 13px; color: var(--dim); }
.advice { margin: 8px 0 0; } .note { margin: 4px 0 0; color: var(--dim); font-style: italic; }
.state { font-size: 12px; font-weight: 600; padding: 1px 8px; border-radius: 99px; border: 1px solid currentColor; }
.returned { color: var(--red); } .open { color: var(--amber); } .resolved { color: var(--green); } .muted { color: var(--dim); }
.scroll { overflow-x: auto; } .scroll + .scroll { margin-top: 14px; }
table { border-collapse: collapse; width: 100%; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 10px 5px 0; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child { text-align: left; } thead th { color: var(--dim); font-weight: 500; } tbody th { font-weight: 600; }
tbody tr:last-child > * { border-bottom: 0; }
th:last-child, td:last-child { padding-right: 0; }
@media (max-width: 560px) { main { padding: 20px 12px 32px; } section { padding: 14px; }
  .tiles { grid-template-columns: 1fr 1fr; } code { margin-left: 0; } svg.days text { font-size: 21px; } }
@media print { :root { --ground: #fff; --card: #fff; --ink: #000; --dim: #444; --line: #bbb; --accent: #2f6db5;
  --red: #b3372f; --green: #2e7d4f; --amber: #9a6700;
  --c0: #c8553d; --c1: #2f6db5; --c2: #d9a13b; --c3: #3f8f6b; --c4: #8661b5; --c5: #4aa5b8; --c6: #b5507f; --c7: #8b8f98; }
  body { font-size: 11pt; } main { max-width: none; padding: 0; }
  section { break-inside: auto; } h2 { break-after: avoid; } svg { break-inside: avoid; }
  svg, .legend i, .c0, .rate { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""
