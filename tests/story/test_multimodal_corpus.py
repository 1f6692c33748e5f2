"""Sixty exchanges with every kind of part: on every backend, streamed and not, asked and recorded, failing and falling back.

What each run was not shown is exact, every request is one that the provider's description allows, and all of them are
rebuilt into both kinds of thread and verified.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

import threadledger
from tests.described import DESCRIPTION, Schemas, request_schema
from threadledger.adapters import Simulator
from threadledger.domain.ledger import Ledger
from threadledger.domain.limits import UPLOAD_BYTES_MIN
from threadledger.domain.threads import ThreadState

pytestmark = pytest.mark.filterwarnings(r"ignore:(The Assistants API is )?deprecated:DeprecationWarning")

Open = Callable[..., Ledger]
EXCHANGES = 60


def data_url(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{b64encode(content).decode()}"


PNG, BMP, PDF, TXT, WAV = (
    b"\x89PNG\r\n\x1a\n" + bytes(60),
    b"BM" + bytes(60),
    b"%PDF-1.7\n" + bytes(60),
    b"Some words.",
    b"RIFF\0\0\0\0WAVE" + bytes(60),
)
PARTS: dict[str, Any] = {
    "png": {"type": "image_url", "image_url": {"url": data_url("image/png", PNG), "detail": "low"}},
    "web image": {"type": "image_url", "image_url": {"url": "https://images.example/a.png"}},
    "pdf": {"type": "file", "file": {"filename": "a.pdf", "file_data": data_url("application/pdf", PDF)}},
    "text file": {"type": "file", "file": {"filename": "a.txt", "file_data": data_url("text/plain", TXT)}},
    "web file": {"type": "file", "file": {"url": "https://files.example/a.pdf"}},
    "wav": {"type": "input_audio", "input_audio": {"data": b64encode(WAV).decode(), "format": "wav"}},
}
QUESTIONS = (
    *((name,) for name in PARTS),
    ("png", "pdf", "wav"),
    ("png", "png"),
    ("web image", "web file", "text file"),
    (),
)
TAKEN = {
    "chat": {"png", "web image", "pdf", "text file", "wav"},
    "responses": {"png", "web image", "pdf", "text file", "web file"},
    "assistants": {"png", "web image"},
    "anthropic": {"png", "web image", "pdf", "text file", "web file"},
    "python": set(PARTS),
}
"""What each kind of backend is shown of these parts."""

FILES = {"pdf", "text file", "web file"}
CHAINS: dict[str, dict[str, Any]] = {
    "chat": {"backends": ("chat", "responses"), "threads": "none"},
    "stateless": {"backends": ("responses", "chat"), "threads": "none"},
    "responses": {"backends": ("responses", "chat"), "threads": "conversations"},
    "assistants": {"backends": ("assistants", "responses"), "threads": "assistants"},
    "anthropic": {"backends": ("claude", "chat"), "threads": "none"},
    "python": {"backends": ("own", "chat"), "threads": "none"},
}
WAYS = ("ask", "stream", "recorded")
OUTCOMES = ("answered", "answered", "falls back")


@dataclass(frozen=True)
class Case:
    """Describe one exchange of the corpus."""

    number: int
    chain: str
    way: str
    outcome: str
    parts: tuple[str, ...]

    @property
    def key(self) -> str:
        return f"{self.number:02} {self.chain} {self.way} {self.outcome}"

    @property
    def question(self) -> Any:
        text = f"Question {self.number}: what is this?"
        return [{"type": "text", "text": text}, *(PARTS[name] for name in self.parts)] if self.parts else text


def corpus() -> Iterator[Case]:
    questions, outcomes = cycle(QUESTIONS), cycle(OUTCOMES)
    made = 0
    while True:
        for chain in CHAINS:
            for way in WAYS:
                if way == "recorded" and chain in {"assistants", "anthropic", "python", "responses"}:
                    continue  # a recorded client has no chain: it is one API
                if made == EXCHANGES:
                    return
                outcome = "answered" if way == "recorded" else next(outcomes)
                yield Case(made, chain, way, outcome, next(questions))
                made += 1


CONFIGURED = """
[backends.claude]
kind = "anthropic"
base_url = "{url}"
api_key_env = "OPENAI_API_KEY"
model = "claude"

[backends.own]
kind = "python"
function = "own_backend:answer"
model = "own"
"""
OWN = """
def answer(request):
    shown = request.memory.as_chat_messages()[-1]["content"]
    return f"I see {shown if isinstance(shown, str) else [part['type'] for part in shown]}."
"""
ROUTES = {
    "chat": "POST /chat/completions",
    "responses": "POST /responses",
    "claude": "POST /messages",
    "assistants": "POST /threads/{thread_id}/runs",
}
BROKEN = {"status": 500, "message": "broken"}


def kind_of(backend: str) -> str:
    return {"claude": "anthropic", "own": "python"}.get(backend, backend)


def lost(case: Case, backend: str) -> dict[str, int]:
    """Return the parts of a question that a backend is not shown."""
    missing = (PARTS[name]["type"] for name in case.parts if name not in TAKEN[kind_of(backend)])
    return dict(Counter(f"part:{kind}" for kind in missing))


def ask(ledger: Ledger, case: Case, simulator: Simulator) -> None:
    first, second = CHAINS[case.chain]["backends"]
    chat = ledger.conversation(case.key)
    if case.way == "recorded":
        record(ledger, case, simulator)
        return
    expected = first
    if case.outcome == "falls back" and first in ROUTES:
        simulator.add_fault(ROUTES[first], refuse=BROKEN)
        expected = second
    answer: Any = chat.ask(case.question) if case.way == "ask" else list(chat.stream(case.question))[-1]
    assert answer.backend == expected, case
    assert answer.losses == lost(case, expected), case
    runs = [run for exchange in ledger.journal.exchanges(case.key).by_id.values() for run in exchange.runs]
    assert [run.losses for run in runs] == [lost(case, run.backend) for run in runs], case


def record(ledger: Ledger, case: Case, simulator: Simulator) -> None:
    """Let an app ask by the SDK itself, with parts that its API takes."""
    import openai

    with openai.OpenAI(base_url=simulator.base_url, api_key="k", max_retries=0) as client:
        recorded: Any = threadledger.record(client, ledger, key=case.key)
        if case.chain == "chat":
            shown = [name for name in case.parts if name in TAKEN["chat"]]
            content: Any = [{"type": "text", "text": "Look."}, *(PARTS[name] for name in shown)]
            recorded.chat.completions.create(model="gpt-5.5", messages=[{"role": "user", "content": content}])
        else:
            items = [{"type": "input_text", "text": "Look."}, *map(responses_part, case.parts)]
            content = [item for item in items if item is not None]
            recorded.responses.create(model="gpt-5.5", input=[{"role": "user", "content": content}])


def responses_part(name: str) -> Any:
    match PARTS[name]:
        case {"image_url": {"url": url}}:
            return {"type": "input_image", "image_url": url, "detail": "auto"}
        case {"file": {"file_data": data, "filename": filename}}:
            return {"type": "input_file", "file_data": data, "filename": filename}
        case {"file": {"url": url}}:
            return {"type": "input_file", "file_url": url}
    return None


@pytest.fixture
def asked(
    open_ledger: Open, simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Ledger, list[Case]]:
    """Ask the whole corpus; return the ledger and the cases."""
    (tmp_path / "own_backend.py").write_text(OWN, encoding="utf-8")
    config = tmp_path / "threadledger.toml"
    config.write_text(CONFIGURED.format(url=simulator.base_url), encoding="utf-8")
    monkeypatch.setenv("THREADLEDGER_CONFIG", str(config))
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    monkeypatch.syspath_prepend(str(tmp_path))
    cases = list(corpus())
    assert len(cases) == EXCHANGES
    for chain, settings in CHAINS.items():
        ledger = open_ledger(**settings, retries=0)
        for case in cases:
            if case.chain == chain:
                ask(ledger, case, simulator)
    return open_ledger(**CHAINS["chat"]), cases


def test_sixty_exchanges_are_answered_with_exact_losses_and_rebuilt_into_both_kinds_of_thread(
    asked: tuple[Ledger, list[Case]], simulator: Simulator
) -> None:
    ledger, cases = asked
    assert b64encode(PNG).decode()[:60] not in "\n".join(json.dumps(each.as_json()) for each in ledger.events())
    assert {each.size for each in ledger.journal.blobs.listed() if each.references} == set(
        map(len, (PNG, PDF, TXT, WAV))
    )
    for to in ("conversations", "assistants"):
        plan = ledger.replay.plan_rebuild(to=to, fresh=True)
        plan.apply()
        assert {item.state for item in plan.items} == {"done"}
        assert all(item.verified for item in plan.items)
        for item in plan.items:
            case = next(each for each in cases if each.key == item.key)
            if case.way != "recorded":
                assert dict(item.losses) == thread_losses(case, to), (case, item.losses)
        assert {found.found.state for found in ledger.replay.verify(to=to)} == {ThreadState.SAME}


def thread_losses(case: Case, to: str) -> dict[str, int]:
    """Return what a thread of a kind cannot hold of a question."""
    taken = TAKEN["responses" if to == "conversations" else "assistants"]
    found = Counter("files" if name in FILES else "other_parts" for name in case.parts if name not in taken)
    return dict(found)


@pytest.mark.skipif(not DESCRIPTION.exists(), reason="OpenAI's OpenAPI description is not here")
def test_every_request_of_the_corpus_is_one_that_the_description_allows(
    asked: tuple[Ledger, list[Case]], simulator: Simulator
) -> None:
    ledger, _ = asked
    large = ledger.attach(PNG * (UPLOAD_BYTES_MIN // len(PNG) + 1))
    ledger.conversation("large").append("user", [{"type": "text", "text": "Look."}, large])
    ledger.conversation("tool").extend(TOOL_TURN)
    for to in ("conversations", "assistants"):
        ledger.replay.plan_rebuild(to=to).apply()
    described = json.loads(DESCRIPTION.read_text(encoding="utf-8"))
    schemas = Schemas(described, strict=True)
    found: dict[str, str] = {}
    checked = Counter[str]()
    for request in simulator.requests:
        schema = request_schema(described, *request.template.split(" ", 1))
        if schema is None or request.body is None:
            continue
        checked[request.template] += 1
        for fault in schemas.faults(request.body, schema):
            found.setdefault(f"{request.template} {fault[:300]}", json.dumps(request.body)[:300])
        unknown = request.body.keys() - schemas.known_fields(schema)
        found |= dict.fromkeys((f"{request.template} has {name}" for name in unknown), "")
    assert "\n".join(found) == ""
    assert checked.keys() >= {
        "POST /chat/completions",
        "POST /responses",
        "POST /conversations/{conversation_id}/items",
    }


RESULT = ("png", "web image", "pdf", "web file", "wav")
TAKEN_IN_RESULTS = {
    "responses": {"png", "web image", "pdf", "web file"},
    "anthropic": {"png", "web image", "pdf", "web file"},
}
"""What the APIs that take parts in the results of tools are shown of these."""

CALL = {"id": "call_1", "type": "function", "function": {"name": "take_picture", "arguments": "{}"}}
TOOL_TURN: list[dict[str, Any]] = [
    {"role": "user", "content": "Take a picture."},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {
        "role": "tool",
        "tool_call_id": "call_1",
        "content": [{"type": "text", "text": "Taken."}, *(PARTS[name] for name in RESULT)],
    },
]


@pytest.mark.parametrize("chain", ["chat", "stateless", "responses", "assistants", "anthropic"])
def test_the_result_of_a_tool_has_its_parts_where_the_api_takes_them_and_they_are_losses_elsewhere(
    open_ledger: Open, simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chain: str
) -> None:
    config = tmp_path / "threadledger.toml"
    config.write_text(CONFIGURED.format(url=simulator.base_url).partition("[backends.own]")[0], encoding="utf-8")
    monkeypatch.setenv("THREADLEDGER_CONFIG", str(config))
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    first = CHAINS[chain]["backends"][0]
    ledger = open_ledger(**CHAINS[chain] | {"backends": (first,)}, retries=0)
    chat = ledger.conversation("k")
    chat.extend(TOOL_TURN)
    answer = chat.ask("What is on it?")
    taken = TAKEN_IN_RESULTS.get(kind_of(first), set())
    assert answer.losses == dict(Counter(f"part:{PARTS[name]['type']}" for name in RESULT if name not in taken))
    (run,) = (run for exchange in ledger.journal.exchanges("k").by_id.values() for run in exchange.runs)
    assert run.rendering == f"{kind_of(first)}/2"
    sent = json.dumps([request.body for request in simulator.requests])
    assert (b64encode(PNG).decode() in sent) is bool(taken)
    for to in ("conversations", "assistants"):
        plan = ledger.replay.plan_rebuild(to=to, fresh=True)
        plan.apply()
        assert [item.verified for item in plan.items] == [True]
        assert {found.found.state for found in ledger.replay.verify(to=to)} == {ThreadState.SAME}
