"""Check that docstrings, comments, help, messages and docs are in plain English.

Odd turns of an earlier private dialect are counted. A word list alone would be passed by other odd turns, so docstrings
must also start with an imperative verb, and every sentence of them must have a finite verb.
"""

from __future__ import annotations

import ast
import functools
import importlib
import io
import re
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import threadledger

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("domain", "adapters", "cli")
TEXTS = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", ".env.example", "docs", "examples")
ODD_PER_THOUSAND_MAX = 1.0


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ODD = re.compile(
    r"\b(tells?|told|nobody|somebody|whoever|stands|stood|anew|mend(s|ed|ing)?|beside|under way|of (ours|theirs)"
    r"|what (comes|came|becomes|became|has become) of|(go|goes|going|gone|went) on( with)?|taken in|looked (at|for)"
    r"|comes? to the same|as it stands|broken off"
    r"|(model|provider|backend|assistant)s? (is|are|was|were|be|been|being) asked"
    r"|asks? (the|a|an|no) (model|provider|backend))\b",
    re.IGNORECASE,
)
"""Turns that are replaced by the words of the field: `told` by `reported`, `mend` by `repair`, `anew` by `again`."""

IMPERATIVES = words(
    """
    abandon accept add advance align allow answer append apply ask assign audit back bind block bring build call
    cancel carry change chat check choose claim classify clear close commit compare compute connect convert copy
    count create cut decide declare define delete derive describe diagnose discard do draw drop empty encode end
    examine execute explain export extend find fold follow fork format generate give group handle hide hold identify
    ignore implement import index insert inspect install interrupt issue iterate journal keep limit list load log maintain
    make manage map mark mirror name note notify observe open operate order parse pause perform place plan prepare
    prevent print produce prompt provide query queue raise read rebuild receive reconcile record redact register
    rehearse release remove render reopen repair replace report represent rerun reserve reset resolve restore resume
    approve compact cover edit pin put rate regenerate reject retract search
    retire retry return revoke rewrite run save see select send serve set show shut simulate sort speak split start stop store
    submit support switch take track try turn undo upgrade upsert verify wait wake wrap write yield
    """
)
"""Verbs that start the docstrings of this project. A new one may be added if it is a verb."""

AUXILIARIES = words(
    """
    are be can cannot could did do does had has have is may might must should was were will would
    """
)
OTHER_FINITE = words(
    """
    affects answered becomes belong belongs changed contain contains continue contradict decides depends determines
    documents exist exit explains fail fails form get interrupt lasts lets look masks matches mean means named need
    needs override overrides owns pass picks put puts refuses share stay stays stops use uses wait wins
    """
)
"""Further finite forms that are the only verb of a sentence somewhere."""


def third_person(verb: str) -> str:
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ies"
    return verb + ("es" if verb.endswith(("s", "sh", "ch", "x", "o")) else "s")


FINITE = AUXILIARIES | IMPERATIVES | {third_person(verb) for verb in IMPERATIVES} | OTHER_FINITE


class Source:
    """Hold a source file: a short name, its text and its syntax tree."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.text = path.read_text(encoding="utf-8")
        self.tree = ast.parse(self.text)

    def texts(self) -> Iterator[tuple[int, str]]:
        """Yield (line, text) of docstrings, comments and other strings of several words.

        The tables of lazy faces are left out: they hold identifiers.
        """
        tables = {
            id(inner)
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Dict) and "lazy_face" in self.text
            for inner in ast.walk(node)
        }
        for node in ast.walk(self.tree):
            value = node.value if isinstance(node, ast.Constant) and id(node) not in tables else None
            if isinstance(value, str) and " " in value:
                yield node.lineno, value
        for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string

    def public(self) -> Iterator[tuple[str, ast.AST, str]]:
        """Yield (place, node, docstring) of the module and its public functions, classes and methods."""
        if doc := ast.get_docstring(self.tree):
            yield f"{self.name}:1", self.tree, doc
        waiting: list[ast.AST] = [self.tree]
        while waiting:
            for node in getattr(waiting.pop(), "body", ()):
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and node.name[0] != "_":
                    if doc := ast.get_docstring(node):
                        yield f"{self.name}:{node.lineno} {node.name}", node, doc
                    if isinstance(node, ast.ClassDef):
                        waiting.append(node)


@functools.cache
def sources() -> list[Source]:
    found = [Source(f"package/{path.name}", path) for path in Path(threadledger.__path__[0]).glob("*.py")]
    for layer in LAYERS:
        folder = Path(importlib.import_module(f"threadledger.{layer}").__path__[0])
        found += [Source(f"{layer}/{path.relative_to(folder)}", path) for path in sorted(folder.rglob("*.py"))]
    return found


# Odd turns


def all_texts() -> Iterator[tuple[str, str, str]]:
    """Yield (area, place, text) of everything that people read; what is in backquotes is an identifier."""
    for source in sources():
        for line, text in source.texts():
            yield source.name.partition("/")[0], f"{source.name}:{line}", re.sub(r"`[^`]*`", " ", text)
    for area in TEXTS:
        place = ROOT / area
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if path.suffix in {".md", ".py"} or path.name == ".env.example":
                for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                    yield area, f"{path.relative_to(ROOT)}:{number}", re.sub(r"`[^`]*`", " ", line)


def test_at_most_one_odd_turn_in_a_thousand_words() -> None:
    counted, odd = Counter[str](), defaultdict[str, list[str]](list)
    for area, place, text in all_texts():
        counted[area] += len(re.findall(r"[A-Za-z]+", text))
        odd[area] += [f"{place}: {turn.group()}" for turn in ODD.finditer(text)]
    assert counted["domain"] > 10_000
    assert counted["docs"] > 10_000
    # A short area may have one turn.
    offenders = {
        area: found for area, found in odd.items() if len(found) > max(1, ODD_PER_THOUSAND_MAX * counted[area] / 1000)
    }
    assert offenders == {}
    assert sum(map(len, odd.values())) <= ODD_PER_THOUSAND_MAX * counted.total() / 1000, odd


@pytest.mark.parametrize(
    "text",
    [
        "The lock nobody holds.",
        "It is told in the log.",
        "A run of ours is under way.",
        "What became of the exchange.",
        "The exchange is gone on with.",
        "The model is asked.",
        "Written anew; it stands beside the other.",
    ],
)
def test_an_odd_turn_is_found(text: str) -> None:
    assert ODD.search(text)


# Docstrings


def exceptions() -> set[str]:
    """Return the names of our exception classes."""
    bases = {
        node.name: {ast.unparse(base) for base in node.bases}
        for source in sources()
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ClassDef)
    }
    found = {base for its in bases.values() for base in its if re.search(r"(Exception|Error|Abort)$", base)}
    before = 0
    while len(found) > before:
        before = len(found)
        found |= {name for name, its in bases.items() if its & found}
    return found


def test_public_docstrings_start_with_an_imperative_verb() -> None:
    raised, offenders, seen = exceptions(), [], 0
    for source in sources():
        for place, node, doc in source.public():
            seen += 1
            first, second, *_ = [*doc.replace(",", "").split(), "", ""]
            fits = first[0].isupper() and first.lower() in IMPERATIVES and second != "of"  # "Name of", "Count of"
            if not fits and not (first == "Raised" and isinstance(node, ast.ClassDef) and node.name in raised):
                offenders.append(f"{place}: {doc.splitlines()[0]}")
    assert seen > 1_000
    assert not offenders, "\n".join(offenders)


def sentences_of(doc: str) -> Iterator[str]:
    """Yield the sentences of a docstring, without sections (`Args:` and so on) and examples."""
    prose = re.split(r"\n\s*[A-Z][a-z]+:\n", doc)[0]
    prose = "\n".join(line for line in prose.splitlines() if not line.startswith("    "))
    prose = re.sub(r":\n\n\S.*?(\n\n|$)", "\n\n", prose, flags=re.DOTALL)
    for paragraph in prose.split("\n\n"):
        yield from filter(None, re.split(r"(?<=[.!?])\s+(?=[A-Z`])", " ".join(paragraph.split())))


def test_every_sentence_of_a_docstring_has_a_finite_verb() -> None:
    offenders = [
        f"{place}: {sentence}"
        for source in sources()
        for place, _, doc in source.public()
        for sentence in sentences_of(doc.removeprefix("Raised "))
        if not set(re.findall(r"[a-z]+", re.sub(r"`[^`]*`", " ", sentence).lower())) & FINITE
    ]
    assert not offenders, "\n".join(offenders)
