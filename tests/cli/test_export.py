"""`threadledger export`: what went in comes out, and a transcript is a transcript whatever was said."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from threadledger.adapters.formats.markdown import as_link, escaped, escaped_line, fenced

Command = Callable[..., Any]

CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "```"}'}}
DATA = "data:image/png;base64,QUJD"
MESSAGES = [
    {"role": "user", "content": "# no heading\n\n```\nno fence\n<script>alert(1)</script>\n\n---\n- no list\n1. no list"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "# ```` nothing"},
    {"role": "user", "content": [
        {"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "https://x/a b.png"}},
        {"type": "image_url", "image_url": {"url": DATA}}, {"type": "image_url", "image_url": {"url": "javascript:x"}},
        {"type": "file", "file": {"file_id": "file-1"}}, {"type": "input_audio", "input_audio": {"data": "x" * 9000}}]},
    {"role": "assistant", "content": None, "refusal": "I will *not*."},
    {"role": "user", "content": "with", "attachments": [{"file_id": "file-2", "bytes": 12, "sha256": "ab12", "name": None}]},
]  # fmt: skip

markdown = MarkdownIt("commonmark").enable(["table", "strikethrough"])


@pytest.fixture
def ledger_with(command: Command, tmp_path: Path) -> Callable[..., None]:
    def make(*conversations: dict[str, Any]) -> None:
        text = "".join(json.dumps(each) + "\n" for each in conversations)
        assert command("import", "-", stdin=text.encode()).code == 0

    return make


def test_a_transcript_has_a_heading_for_each_conversation_and_message_and_no_other(
    command: Command, ledger_with: Callable[..., None]
) -> None:
    ledger_with({"id": "a # key\nof two lines", "messages": MESSAGES}, {"id": "b", "messages": MESSAGES[:1]})
    done = command("export", "--all", "--format", "markdown")
    tokens = markdown.parse(done.out)
    headings = [tokens[i + 1].content for i, token in enumerate(tokens) if token.type == "heading_open"]
    assert [re.sub(r" · .*", "", heading) for heading in headings] == [
        r"a \# key␤of two lines", "user", "assistant", "tool", "user", "assistant", "user", "b", "user"]  # fmt: skip
    assert [token.info for token in tokens if token.type == "fence"] == ["json", "text", "json"]
    assert not any(token.type in {"html_block", "code_block", "ordered_list_open"} for token in tokens)
    assert json.loads(next(token.content for token in tokens if token.type == "fence"))["arguments"] == {"at": "```"}


def test_a_transcript_tells_images_files_and_attachments_by_reference(
    command: Command, ledger_with: Callable[..., None]
) -> None:
    ledger_with({"id": "k", "title": "T", "messages": MESSAGES})
    told = command("export", "k", "--format", "markdown").out
    assert "](<https://x/a%20b.png>)" in told
    assert "QUJD" not in told
    assert (
        "image: type: image/png, bytes: 3, address: sha256:b5d4045c3f466fa91fe2cc6abe79232a1a57cdf104f7a26e716e0a1e2789df78"
        in told
    )
    assert "(<javascript" not in told
    assert "file: file\\_id: file-1" in told
    assert '"bytes": 9000' in told
    assert "xxxxx" not in told
    assert "- attachment: file\\_id: file-2, bytes: 12, sha256: ab12\n" in told
    assert "refused: I will \\*not\\*." in told
    assert '"title": "T"' in told


def shown(text: str) -> str:
    """The words of a document as a reader sees them: a line each, nothing but paragraphs."""
    lines = []
    for token in markdown.parse(text):
        assert token.type in {"paragraph_open", "inline", "paragraph_close"}, token
        for child in token.children or ():
            assert child.type in {"text", "text_special", "softbreak", "hardbreak"}, child
        if token.type == "inline":
            lines.append("".join("\n" if "break" in child.type else child.content for child in token.children or ()))
    return "\n\n".join(lines)


def words(text: str) -> list[str]:
    """What of a text is to be seen, a line each: indents and control characters aside."""
    lines = [re.sub(r"[\x00-\x1f\x7f-\x9f\u2400-\u241f\ufffd]", "", line) for line in re.split(r"\r\n|\r|\n", text)]
    return [line.strip() for line in lines if line.strip()]


MEANT = st.text(
    alphabet=st.sampled_from("`#*_[]<>()|~!&;\\-+=:0123.) \t\na\x00\r/\"'$^{}@") | st.characters(codec="utf-8")
)


@given(MEANT)
@example("text\n===")
@example("0\r\xa0")
@example("[a]: b\n\n[a]")
@example("a | b\n--- | ---\n1 | 2")
@example("&amp; &#35; <!-- <b> https://x.y a@b.c ~~~\n    code\n\tcode\n\n- x\n+ y\n1) z\n> q")
@example("a\\\nb  \nc")
@example("<!-- a\n<script\n<?x\n<![CDATA[")
def test_no_text_can_be_anything_but_text_and_all_of_it_is_seen(text: str) -> None:
    assert words(shown(escaped(text))) == words(text)


@given(MEANT)
def test_a_line_stays_a_line_in_a_heading(text: str) -> None:
    tokens = markdown.parse(f"# {escaped_line(text)}\n\nnext")
    assert [token.type for token in tokens] == [
        "heading_open", "inline", "heading_close", "paragraph_open", "inline", "paragraph_close"]  # fmt: skip


@given(MEANT)
@example("```\n# a")
@example("a\n`````\nb")
def test_no_text_ends_its_fence(text: str) -> None:
    tokens = markdown.parse(f"{fenced(text, 'text')}\n\nnext")
    assert [token.type for token in tokens] == ["fence", "paragraph_open", "inline", "paragraph_close"]


@given(MEANT.map(lambda text: "https://x/" + text))
def test_no_address_leaves_its_link(url: str) -> None:
    (_, inline, _) = markdown.parse(as_link(url))
    kinds = [child.type for child in inline.children or ()]
    assert kinds.count("link_open") <= 1
    assert set(kinds) <= {"link_open", "link_close", "text", "text_special"}


def test_a_transcript_goes_to_a_file(command: Command, ledger_with: Callable[..., None], tmp_path: Path) -> None:
    ledger_with({"id": "k", "messages": MESSAGES})
    done = command("export", "k", "--format", "markdown", "--output", "out.md")
    assert (done.code, done.out, done.err) == (0, "", "1 conversation written to out.md\n")
    assert (tmp_path / "out.md").read_text(encoding="utf-8") == command("export", "k", "--format", "markdown").out
    assert command("export", "nobody", "--format", "markdown").code == 6
    assert sorted(path.name for path in tmp_path.iterdir() if "out" in path.name) == ["out.md"]


def test_an_import_of_an_export_changes_nothing_and_tells_the_same_digest_elsewhere(
    command: Command, ledger_with: Callable[..., None]
) -> None:
    ledger_with({"id": "k", "title": "T", "messages": MESSAGES})
    for kind in ("jsonl", "messages"):
        line = command("export", "k", "--format", kind).out.encode()
        assert '"unchanged"' in command("import", "-", "-o", "json", stdin=line).out
        assert command("--db", f"sqlite:///{kind}.db", "import", "-", stdin=line).code == 0
        again = command("--db", f"sqlite:///{kind}.db", "export", "k", "--format", "messages").out.encode()
        assert again == command("export", "k", "--format", "messages").out.encode()
