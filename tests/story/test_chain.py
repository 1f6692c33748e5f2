"""Test the fallback chain: what a backend lacks is dropped and reported, and the chain may leave the provider."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from threadledger.adapters import Simulator
from threadledger.domain import limits
from threadledger.domain.conversation import Profile, parse_message
from threadledger.domain.errors import AllBackendsFailed
from threadledger.domain.exchange import Answer, Delta, StartedOver
from threadledger.domain.failures import Cause
from threadledger.domain.ledger import AsyncLedger, Ledger
from threadledger.domain.memory import Memory

RESPONSES, CHAT = "POST /responses", "POST /chat/completions"
BROKEN = {"status": 500, "code": "server_error", "message": "The server had an error."}
HOSTED = """
[[tools]]
type = "web_search"
[[tools]]
type = "file_search"
vector_store_ids = ["vs_1"]
[[tools]]
name = "look_up"
"""
DROPPED = ["tool:file_search", "tool:web_search"]
Open = Callable[..., Any]


@pytest.fixture
def other() -> Iterator[Simulator]:
    """Start the server of another provider."""
    with Simulator(seed=8) as running:
        yield running


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Return a function that writes a module of the app into the working folder and returns its name."""
    monkeypatch.setattr(sys, "path", [*sys.path])

    def write(code: str) -> str:
        name = f"app_{uuid4().hex}"
        Path(f"{name}.py").write_text(code, encoding="utf-8")
        return name

    return write


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Return a function that runs a command as it is typed."""
    from threadledger.cli import main

    class Done:
        def __init__(self, code: int, out: str, err: str) -> None:
            self.code, self.out, self.err = code, out, err

        @property
        def json(self) -> Any:
            return json.loads(self.out)

    def call(*arguments: str) -> Done:
        capsys.readouterr()
        code = main(list(arguments))
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        return Done(code, told.out, told.err)

    return call


def configure(text: str) -> None:
    Path("threadledger.toml").write_text(text, encoding="utf-8")


def profile(text: str) -> Path:
    path = Path("mine.toml")
    path.write_text(text, encoding="utf-8")
    return path


def events(ledger: Ledger, topic: str) -> list[Any]:
    return [each.event for each in ledger.events(types=[topic])]


def bodies(simulator: Simulator, template: str) -> list[Any]:
    return [request.body for request in simulator.requests if request.template == template]


# What a backend lacks


def test_a_fallback_runs_without_the_hosted_tools_that_it_lacks_and_everything_says_so(
    open_ledger: Open, simulator: Simulator, command: Any, db_url: str
) -> None:
    simulator.add_fault(RESPONSES, refuse=BROKEN)
    ledger = open_ledger(threads="none", retries=0, profile=profile(HOSTED), tools={"look_up": lambda: "found"})
    answer = ledger.conversation("k").ask("Where is it?")
    assert (answer.backend, list(answer.dropped)) == ("chat", DROPPED)
    assert events(ledger, "FallbackUsed")[0].dropped == DROPPED
    [sent] = bodies(simulator, CHAT)
    assert [tool["type"] for tool in sent["tools"]] == ["function"]
    assert [run.dropped for run in ledger.exchanges("k").runs.values()] == [(), DROPPED]
    shown = command("--db", db_url, "audit", "show", answer.run_id, "-o", "json").json
    assert (shown["dropped"], [step["dropped"] for step in shown["exchange"]]) == (DROPPED, [[], DROPPED])
    assert "tool:file_search, tool:web_search" in command("--db", db_url, "audit", "show", answer.run_id).out
    assert ledger.memory("k").digest() != events(ledger, "RunStarted")[1].memory_hash  # the answer came since
    assert events(ledger, "RunStarted")[0].memory_hash == events(ledger, "RunStarted")[1].memory_hash


def test_the_first_backend_of_the_chain_refuses_tools_that_it_lacks_before_any_call(
    open_ledger: Open, simulator: Simulator
) -> None:
    chain = {"backends": ("chat", "responses"), "threads": "none", "retries": 0}
    answer = open_ledger(profile=profile(HOSTED), **chain).conversation("k").ask("Where is it?")
    assert (answer.backend, list(answer.dropped)) == ("responses", [])
    [refused] = answer.failures
    assert (refused.cause, refused.facts.status) == (Cause.TOOL_NOT_SUPPORTED, "refused")
    assert "'file_search', 'web_search'" in refused.facts.message
    assert bodies(simulator, CHAT) == []


def test_a_strict_fallback_refuses_tools_that_it_lacks(open_ledger: Open, simulator: Simulator) -> None:
    simulator.add_fault(RESPONSES, refuse=BROKEN)
    ledger = open_ledger(threads="none", retries=0, profile=profile(HOSTED), fallback="strict")
    with pytest.raises(AllBackendsFailed) as failed:
        ledger.conversation("k").ask("Where is it?")
    assert [each.cause for each in failed.value.failures] == [Cause.PROVIDER_ERROR, Cause.TOOL_NOT_SUPPORTED]
    assert events(ledger, "FallbackUsed")[0].dropped == []


def test_a_stream_announces_what_is_dropped_also_at_the_retry_of_the_fallback(
    open_ledger: Open, simulator: Simulator
) -> None:
    simulator.add_fault(RESPONSES, refuse=BROKEN)
    simulator.add_fault(CHAT, refuse=BROKEN)
    ledger = open_ledger(threads="none", retries=1, profile=profile(HOSTED))
    simulator.add_fault(RESPONSES, refuse=BROKEN)
    parts = list(ledger.conversation("k").stream("Where is it?"))
    announced = [(part.backend, list(part.dropped)) for part in parts if isinstance(part, StartedOver)]
    assert announced == [("responses", []), ("chat", DROPPED), ("chat", DROPPED)]
    assert isinstance(parts[-1], Answer)
    assert list(parts[-1].dropped) == DROPPED
    assert [run.dropped for run in ledger.exchanges("k").runs.values()] == [(), (), DROPPED, DROPPED]


def test_the_same_question_again_returns_the_answer_with_what_was_dropped(
    open_ledger: Open, simulator: Simulator
) -> None:
    simulator.add_fault(RESPONSES, refuse=BROKEN)
    chat = open_ledger(threads="none", retries=0, profile=profile(HOSTED)).conversation("k")
    first, again = (chat.ask("Where is it?", idempotency_key="q1") for _ in range(2))
    assert list(first.dropped) == list(again.dropped) == DROPPED
    assert first.run_id == again.run_id


@pytest.mark.parametrize("into", ["tail", "fork", "shadow"])
def test_a_rerun_drops_what_its_fallback_lacks(open_ledger: Open, simulator: Simulator, into: str) -> None:
    ledger = open_ledger(threads="none", retries=0, profile=profile(HOSTED))
    simulator.add_fault(RESPONSES, refuse=BROKEN, times=2)
    simulator.add_fault(CHAT, refuse=BROKEN)
    with pytest.raises(AllBackendsFailed):
        ledger.conversation("k").ask("Where is it?")
    plan = ledger.replay.plan_rerun(failed=True, into=into)
    plan.apply()
    assert [(item.state, item.backend) for item in plan.items] == [("answered", "chat")]
    assert [event.dropped for event in events(ledger, "FallbackUsed")] == [DROPPED, DROPPED]


def test_a_backend_of_an_app_that_does_not_say_what_it_lacks_gets_everything(
    open_ledger: Open, simulator: Simulator
) -> None:
    from dataclasses import replace

    from threadledger.domain.conversation import Completion
    from threadledger.domain.conversation.messages import Message, Role
    from threadledger.domain.exchange import Candidate

    class Old:
        name, thread, takes_unsent = "old", None, False
        profile: Profile | None = None

        def preflight(self, request: Any) -> None:
            return None

        def answer(self, request: Any) -> Any:
            self.profile = request.profile
            yield from ()
            return Completion((Message(Role.ASSISTANT, "From the old one."),))

    simulator.add_fault(RESPONSES, refuse=BROKEN)
    opened, old = open_ledger(threads="none", retries=0, profile=profile(HOSTED)), Old()
    policy = replace(opened.services.policy, candidates=(Candidate("responses", "m"), Candidate("old", "m")))
    backends = {"responses": opened.services.backends["responses"], "old": old}
    ledger = Ledger(opened.journal, replace(opened.services, policy=policy, backends=backends))
    answer = ledger.conversation("k").ask("Where is it?")
    assert (answer.text, answer.dropped) == ("From the old one.", ())
    assert old.profile == opened.services.profile


# A chain that leaves the provider


def chain_of(other: Simulator, module: str, function: str = "answer") -> None:
    configure(f"""
chain = ["responses", "elsewhere", "local"]

[backends.elsewhere]
kind = "chat"
base_url = "{other.base_url}"
api_key_env = "ELSEWHERE_KEY"
model = "their-model"
retries = 0

[backends.local]
kind = "python"
function = "{module}:{function}"
""")


ANSWERS = """
def answer(request):
    return f"Local: {request.memory.messages[-1].message.text}"
"""


def test_two_servers_are_down_and_a_function_of_the_app_answers(
    open_ledger: Open, simulator: Simulator, other: Simulator, app: Any, command: Any, db_url: str, monkeypatch: Any
) -> None:
    monkeypatch.setenv("ELSEWHERE_KEY", "sk-of-elsewhere")
    chain_of(other, module := app(ANSWERS))
    simulator.add_fault(RESPONSES, refuse=BROKEN)
    other.add_fault(CHAT, refuse={"status": 503, "code": "overloaded", "message": "Come back later."})
    ledger = open_ledger(retries=0)
    answer = ledger.conversation("k").ask("Where is it?")
    assert (answer.text, answer.backend, answer.model) == ("Local: Where is it?", "local", f"{module}:answer")
    places = {"responses": simulator.base_url, "elsewhere": other.base_url, "local": f"python:{module}:answer"}
    assert [(each.backend, each.endpoint) for each in answer.failures] == [*places.items()][:2]
    assert [(event.backend, event.endpoint) for event in events(ledger, "RunStarted")] == [*places.items()]
    failures = command("--db", db_url, "audit", "failures", "-o", "json").json
    assert [each["endpoint"] for each in failures] == [simulator.base_url, other.base_url]
    shown = command("--db", db_url, "audit", "show", answer.failures[1].run_id)
    assert other.base_url in shown.out
    assert [(each.from_backend, each.to_backend) for each in events(ledger, "FallbackUsed")] == [
        ("responses", "elsewhere"),
        ("elsewhere", "local"),
    ]
    assert bodies(other, CHAT)[0]["model"] == "their-model"
    [thread] = ledger.state("k").links.values()
    assert thread.endpoint == simulator.base_url


MESSAGES = "POST /messages"


@pytest.mark.parametrize("how", ["answers", "is down", "is down in a stream"])
def test_a_chain_from_responses_to_anthropic_to_a_function(
    open_ledger: Open, simulator: Simulator, other: Simulator, app: Any, monkeypatch: Any, how: str
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-of-elsewhere")
    module = app(ANSWERS)
    configure(f"""
chain = ["responses", "claude", "local"]
retries = 0
[backends.claude]
kind = "anthropic"
base_url = "{other.base_url}"
model = "claude-test"
extra = {{ temperature = 0.2 }}
[backends.local]
kind = "python"
function = "{module}:answer"
""")
    simulator.add_fault(RESPONSES, refuse=BROKEN)
    if how != "answers":
        other.add_fault("POST /messages", refuse={"status": 529, "type": "overloaded_error", "message": "Overloaded"})
    other.answer("From Claude.")
    chat = open_ledger(profile=profile(HOSTED)).conversation("k")
    answer: Any = list(chat.stream("Where is it?"))[-1] if "stream" in how else chat.ask("Where is it?")
    expected = ("claude", "From Claude.") if how == "answers" else ("local", "Local: Where is it?")
    assert (answer.backend, answer.text, list(answer.dropped)) == (*expected, DROPPED)
    places = [(each.backend, each.endpoint) for each in answer.failures]
    assert places == [("responses", simulator.base_url), ("claude", other.base_url.removesuffix("/v1"))][: len(places)]
    [sent] = bodies(other, MESSAGES)
    assert (sent["model"], sent["temperature"]) == ("claude-test", 0.2)


def test_an_exchange_on_a_named_backend_is_not_exported_as_a_test(
    open_ledger: Open, app: Any, command: Any, db_url: str
) -> None:
    configure(f'[backends.local]\nkind = "python"\nfunction = "{app(ANSWERS)}:answer"\n')
    answer = open_ledger(backends=("local",), threads="none").conversation("k").ask("Where is it?")
    done = command("--db", db_url, "audit", "export", answer.run_id, "--output", "tests")
    assert done.code == 2
    assert "was made on the named backend 'local'" in done.err


def test_without_the_file_no_endpoint_is_stored(open_ledger: Open) -> None:
    ledger = open_ledger(threads="none")
    ledger.conversation("k").ask("Where is it?")
    assert [event.endpoint for event in events(ledger, "RunStarted")] == [None]


def test_an_outage_of_one_name_does_not_cool_another_of_the_same_kind(
    open_ledger: Open, simulator: Simulator, other: Simulator
) -> None:
    configure(
        f'[backends.one]\nkind = "chat"\nbase_url = "{other.base_url}"\n\n'
        f'[backends.two]\nkind = "chat"\nbase_url = "{simulator.base_url}"\n'
    )
    other.add_fault(CHAT, refuse=BROKEN, times=limits.BREAKER_FAILURES)
    ledger = open_ledger(backends=("one", "two"), threads="none", retries=0)
    for number in range(limits.BREAKER_FAILURES):
        assert ledger.conversation(f"k{number}").ask("When?").backend == "two"
    [passed_over] = ledger.conversation("k").ask("When?").failures
    assert passed_over.facts.message.startswith("cooling down until ")
    assert {each.backend: each.cooling_until is not None for each in ledger.health()} == {"one": True, "two": False}


HEARD = {"type": "text", "text": "What is this?"}
PICTURE = {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}}
FILE_PART = [{"type": "text", "text": "What is this?"}, {"type": "file", "file": {"file_id": "file-abc"}}]


@pytest.mark.parametrize("kind", ["chat", "responses"])
def test_ids_of_threads_and_files_stay_at_their_endpoint(
    open_ledger: Open, simulator: Simulator, other: Simulator, kind: str
) -> None:
    configure(f'[backends.elsewhere]\nkind = "{kind}"\nbase_url = "{other.base_url}"\n')
    ledger = open_ledger(backends=("responses", "elsewhere"), retries=0)
    chat = ledger.conversation("k")
    chat.ask("Hello.")
    [link] = ledger.state("k").links.values()
    chat.append("user", FILE_PART)
    simulator.add_fault(RESPONSES, refuse=BROKEN)
    answer = chat.ask("And now?")
    assert (answer.backend, list(answer.dropped)) == ("elsewhere", ["part:file"])
    sent = json.dumps([request.body for request in other.requests])
    assert len(other.requests) == 1
    assert "What is this?" in sent
    assert "[file not shown: it is stored at another provider]" in sent
    assert "file-abc" not in sent
    assert link.thread_id not in sent
    assert list(ledger.state("k").links.values()) == [link]


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        ("responses", {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}),
        ("anthropic", {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}),
        ("anthropic", {"type": "file", "file": {"file_data": "AAAA", "filename": "a.pdf"}}),
        ("anthropic", {"type": "image_url", "image_url": {"url": "data:image/bmp;base64,AAAA"}}),
        ("chat", {"type": "video_url", "video_url": {"url": "https://x.test/a.mp4"}}),
    ],
)
def test_a_part_that_a_kind_of_backend_does_not_take_is_dropped_and_named(kind: str, part: Any) -> None:
    memory = Memory().with_messages([parse_message({"role": "user", "content": [part, HEARD]})])
    assert memory.lost_parts(kind)[1] == [f"part:{part['type']}"]
    memory = Memory().with_messages([parse_message({"role": "user", "content": [HEARD, PICTURE]})])
    assert memory.lost_parts(kind)[1] == []


def test_an_answer_says_which_parts_its_fallback_was_not_given(open_ledger: Open, simulator: Simulator) -> None:
    chat = open_ledger(backends=("chat", "responses"), threads="none", retries=0).conversation("k")
    chat.append("user", [HEARD, {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}])
    simulator.add_fault(CHAT, refuse=BROKEN)
    answer = chat.ask("And now?")
    assert (answer.backend, list(answer.dropped)) == ("responses", ["part:input_audio"])


def test_tools_that_name_files_are_not_sent_to_another_endpoint(
    open_ledger: Open, simulator: Simulator, other: Simulator
) -> None:
    configure(f'[backends.elsewhere]\nkind = "responses"\nbase_url = "{other.base_url}"\n')
    simulator.add_fault(RESPONSES, refuse=BROKEN)
    given = {"threads": "none", "retries": 0, "profile": profile(HOSTED)}
    answer = open_ledger(backends=("responses", "elsewhere"), **given).conversation("k").ask("Hello.")
    assert (answer.backend, list(answer.dropped)) == ("elsewhere", ["tool:file_search"])
    assert [tool["type"] for tool in bodies(other, RESPONSES)[0]["tools"]] == ["web_search"]
    first = open_ledger(backends=("elsewhere", "responses"), **given).conversation("k2").ask("Hello.")
    assert first.failures[0].facts.message.startswith("tools of type 'file_search' name files")


def test_threads_may_live_at_a_named_backend(open_ledger: Open, simulator: Simulator, other: Simulator) -> None:
    configure(f'threads_backend = "there"\n\n[backends.there]\nkind = "responses"\nbase_url = "{other.base_url}"\n')
    ledger = open_ledger(backends=("there", "responses"), retries=0)
    ledger.conversation("k").ask("Hello.")
    [link] = ledger.state("k").links.values()
    assert link.endpoint == other.base_url
    other.add_fault(RESPONSES, refuse=BROKEN)
    answer = ledger.conversation("k").ask("And now?")
    assert answer.backend == "responses"
    assert link.thread_id not in json.dumps([request.body for request in simulator.requests])
    assert {request.template for request in simulator.requests} == {RESPONSES}


def test_a_named_assistants_backend_answers_in_a_thread_of_its_own(
    open_ledger: Open, simulator: Simulator, other: Simulator
) -> None:
    configure(f'[backends.old]\nkind = "assistants"\nbase_url = "{other.base_url}"\n')
    simulator.add_fault(RESPONSES, refuse=BROKEN)
    ledger = open_ledger(backends=("responses", "old"), retries=0, openai_assistant_id="asst_of_home")
    other.answer("From the old server.")
    answer = ledger.conversation("k").ask("Hello.")
    assert (answer.backend, answer.text) == ("old", "From the old server.")
    assert "asst_of_home" not in json.dumps([request.body for request in other.requests])
    assert {link.endpoint for link in ledger.state("k").links.values()} == {simulator.base_url}


def test_a_built_in_name_can_be_changed_and_extra_parameters_are_sent(open_ledger: Open, simulator: Simulator) -> None:
    configure("""
[backends.responses]
model = "small"
extra = { temperature = 0.2, text = { verbosity = "low" } }
[backends.chat]
extra = { temperature = 0.3 }
""")
    ledger = open_ledger(retries=0)
    ledger.conversation("k").ask("Hello.")
    [link] = ledger.state("k").links.values()
    assert link.endpoint == simulator.base_url
    [sent] = bodies(simulator, RESPONSES)
    assert (sent["model"], sent["temperature"], sent["text"]) == ("small", 0.2, {"verbosity": "low"})
    assert "conversation" in sent
    simulator.add_fault(RESPONSES, refuse=BROKEN, times=2)
    ledger.conversation("k").ask("Hello again.")
    [*_, streamed] = ledger.conversation("k").stream("And again.")
    assert isinstance(streamed, Answer)
    assert [sent["temperature"] for sent in bodies(simulator, CHAT)] == [0.3, 0.3]


def test_limits_of_a_named_backend_are_its_own(open_ledger: Open, simulator: Simulator, other: Simulator) -> None:
    configure(f"""
[backends.patient]
kind = "chat"
base_url = "{other.base_url}"
retries = 3
timeout_seconds = 7.0
""")
    other.add_fault(CHAT, refuse=BROKEN, times=9)
    simulator.add_fault(CHAT, refuse=BROKEN, times=9)
    ledger = open_ledger(backends=("patient", "chat"), threads="none", retries=0)
    with pytest.raises(AllBackendsFailed) as failed:
        ledger.conversation("k").ask("Hello.")
    tried = [each.backend for each in failed.value.failures]
    assert tried == ["patient"] * 4 + ["chat"]
    policy = ledger.services.policy
    assert [(each.timeout_seconds, each.retries) for each in policy.candidates] == [(7.0, 3), (None, None)]
    assert ledger.replay.plan_rerun(failed=True).runs_at_most() == 4 + 1


def test_a_function_is_given_the_time_limit_of_its_backend(open_ledger: Open, app: Any) -> None:
    module = app("def answer(request):\n    return f'{request.timeout_seconds:g}'\n")
    configure(f'[backends.local]\nkind = "python"\nfunction = "{module}:answer"\ntimeout_seconds = 7\n')
    assert open_ledger(backends=("local",), threads="none").conversation("k").ask("How long?").text == "7"


def test_a_named_backend_outside_the_chain_can_be_asked_for_by_name(open_ledger: Open, other: Simulator) -> None:
    configure(f'[backends.spare]\nkind = "chat"\nbase_url = "{other.base_url}"\nmodel = "their-model"\nretries = 0\n')
    ledger = open_ledger(threads="none")
    answer = ledger.conversation("k").ask("Hello.", backend="spare")
    assert (answer.backend, bodies(other, CHAT)[0]["model"]) == ("spare", "their-model")
    ledger.conversation("k").ask("Hello.", backend="spare", model="another")
    assert bodies(other, CHAT)[1]["model"] == "another"


class Listening(ThreadingHTTPServer):
    """Answer every chat completion and keep the headers of the requests."""

    def __init__(self) -> None:
        self.seen: list[dict[str, str]] = []
        seen = self.seen

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                seen.append({name.lower(): value for name, value in self.headers.items()})
                self.rfile.read(int(self.headers["content-length"]))
                message = {"role": "assistant", "content": "fine"}
                body = json.dumps({"id": "c1", "choices": [{"message": message, "finish_reason": "stop"}]}).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.fixture
def listening() -> Iterator[Listening]:
    with Listening() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_each_endpoint_gets_its_own_key_and_no_other(open_ledger: Open, listening: Listening, monkeypatch: Any) -> None:
    monkeypatch.setenv("OWN_KEY", "sk-own-0123456789")
    # the SDK reads these from the environment if no value is passed
    monkeypatch.setenv("OPENAI_ORG_ID", "org-home")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-home")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "x-team: home\nauthorization: Bearer sk-home-0123456789")
    address = f"http://127.0.0.1:{listening.server_address[1]}/v1"
    configure(f"""
[backends.keyed]
kind = "chat"
base_url = "{address}"
api_key_env = "OWN_KEY"
[backends.open]
kind = "chat"
base_url = "{address}"
""")
    given = {"openai_api_key": "sk-home-0123456789", "openai_org_id": "org-home", "threads": "none", "retries": 0}
    for number, backend in enumerate(("keyed", "open")):
        assert open_ledger(backends=(backend,), **given).conversation(f"k{number}").ask("Hello.").text == "fine"
    assert [headers["authorization"] for headers in listening.seen] == ["Bearer sk-own-0123456789", "Bearer no-key"]
    assert "home" not in json.dumps(listening.seen)


def test_a_key_that_is_not_set_is_a_failure_that_names_its_variable(open_ledger: Open, simulator: Simulator) -> None:
    configure(f'[backends.keyed]\nkind = "chat"\nbase_url = "{simulator.base_url}/other"\napi_key_env = "UNSET_KEY"\n')
    answer = open_ledger(backends=("keyed", "chat"), threads="none", retries=0).conversation("k").ask("Hello.")
    [failure] = answer.failures
    assert (failure.facts.code, failure.facts.message) == ("missing_credentials", "UNSET_KEY is not set")
    assert answer.backend == "chat"


# Functions of the app

FUNCTIONS = """
import asyncio
from threadledger.domain.conversation.messages import Message, Role, ToolCall

def text(request):
    return "one two"

def message(request):
    return Message(Role.ASSISTANT, "one two")

def pieces(request):
    yield "one "
    yield "two"

async def awaited(request):
    await asyncio.sleep(0)
    return "one two"

class Awaited:
    async def __call__(self, request):
        return await awaited(request)

awaited_object = Awaited()

def awaited_late(request):
    return awaited(request)

class Waited:
    def __await__(self):
        return awaited(None).__await__()

def awaitable(request):
    return Waited()

def slow_late(request):
    return slow(request)

def halves(request):
    yield "one \\ud83d"
    yield "\\ude00"

async def awaited_pieces(request):
    yield "one "
    await asyncio.sleep(0)
    yield "two"

def iterator(request):
    return iter(["one ", "two"])

def raises(request):
    raise LookupError("no model is loaded")

def breaks(request):
    yield "one "
    raise ConnectionError("gone")

async def breaks_awaited(request):
    yield "one "
    raise ConnectionError("gone")

def empty(request):
    return "  "

def number(request):
    return 42

def numbers(request):
    yield 42

def question(request):
    return Message(Role.USER, "And you?")

async def slow(request):
    await asyncio.sleep(60)

def late(request):
    raise TimeoutError("the model took too long")

def stops(request):
    raise StopIteration

def calls(request):
    last = request.memory.messages[-1].message
    if last.role is Role.TOOL:
        return f"It is {last.text}."
    return Message(Role.ASSISTANT, "Let me see.", (ToolCall("c1", "look_up", '{"what": "parcel"}'),))

def calls_for_ever(request):
    return Message(Role.ASSISTANT, None, (ToolCall("c1", "look_up", "{}"),))
"""


def ask_local(open_ledger: Open, app: Any, function: str, how: str, **given: Any) -> tuple[Ledger, list[Any]]:
    """Ask a function in the given way; return the ledger and the parts of the stream, or the answer alone."""
    configure(f'[backends.local]\nkind = "python"\nfunction = "{app(FUNCTIONS)}:{function}"\n')
    tools = given.pop("tools", None)
    ledger = open_ledger(tools, backends=("local",), threads="none", retries=0, **given)

    async def streamed() -> list[Any]:
        return [part async for part in AsyncLedger(ledger).conversation("k").stream("Where?")]

    async def asked() -> list[Any]:
        return [await AsyncLedger(ledger).conversation("k").ask("Where?")]

    ways: dict[str, Callable[[], list[Any]]] = {
        "ask": lambda: [ledger.conversation("k").ask("Where?")],
        "stream": lambda: list(ledger.conversation("k").stream("Where?")),
        "async ask": lambda: asyncio.run(asked()),
        "async stream": lambda: asyncio.run(streamed()),
    }
    return ledger, ways[how]()


ASYNCHRONOUS = ("awaited_object", "awaited_late", "awaitable")
WAYS = ("ask", "stream", "async ask", "async stream")


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize(
    "function", ["text", "message", "pieces", "awaited", "awaited_pieces", "iterator", *ASYNCHRONOUS]
)
def test_a_function_answers_at_once_or_in_pieces_blocking_or_not(
    open_ledger: Open, app: Any, function: str, how: str
) -> None:
    ledger, parts = ask_local(open_ledger, app, function, how)
    assert parts[-1].text == "one two"
    assert ledger.memory("k").messages[-1].message.text == "one two"
    deltas = [part.text for part in parts if isinstance(part, Delta)]
    in_pieces = "pieces" in function or function == "iterator"
    assert deltas == ([] if "ask" in how else ["one ", "two"] if in_pieces else ["one two"])


@pytest.mark.parametrize("how", ["ask", "stream"])
@pytest.mark.parametrize("function", ["awaited", "awaited_pieces", *ASYNCHRONOUS])
def test_a_ledger_that_blocks_calls_asynchronous_functions_inside_an_event_loop(
    open_ledger: Open, app: Any, function: str, how: str
) -> None:
    async def in_a_notebook() -> list[Any]:
        return ask_local(open_ledger, app, function, how)[1]

    assert asyncio.run(in_a_notebook())[-1].text == "one two"


@pytest.mark.parametrize("how", ["stream", "async stream"])
def test_half_a_character_waits_for_its_other_half(open_ledger: Open, app: Any, how: str) -> None:
    parts = ask_local(open_ledger, app, "halves", how)[1]
    assert [part.text for part in parts] == ["one ", "\U0001f600", "one \U0001f600"]


REFUSALS = {
    "raises": ("error", None, "LookupError", "no model is loaded"),
    "breaks": ("error", None, "ConnectionError", "gone"),
    "breaks_awaited": ("error", None, "ConnectionError", "gone"),
    "empty": ("incomplete", "empty_answer", None, "the function of local returned no text"),
    "number": ("error", None, "TypeError", "the function of local returned int: "),
    "numbers": ("error", None, "TypeError", "a piece is int: "),
    "question": ("error", None, "TypeError", "the function of local returned a message of role user: "),
    "slow": ("timed_out", None, None, None),
    "slow_late": ("timed_out", None, None, None),
    "late": ("timed_out", None, None, "the model took too long"),
    "stops": ("error", None, "RuntimeError", "the function raised StopIteration"),
}


@pytest.mark.parametrize("how", ["stream", "async stream"])
@pytest.mark.parametrize("function", REFUSALS)
def test_what_goes_wrong_in_a_function_is_a_failure_of_its_run(
    open_ledger: Open, app: Any, function: str, how: str
) -> None:
    with pytest.raises(AllBackendsFailed) as failed:
        ask_local(open_ledger, app, function, how, timeout_seconds=0.05 if "slow" in function else 5.0)
    [failure] = failed.value.failures
    status, code, kind, message = REFUSALS[function]
    facts = failure.facts
    assert (facts.status, facts.code, facts.type) == (status, code, kind)
    assert (facts.message or "").startswith(message or "")
    assert facts.partial_text == ("one " if function.startswith("breaks") else None)


@pytest.mark.parametrize("how", WAYS)
def test_calls_of_a_function_are_answered_with_the_bound_tools(open_ledger: Open, app: Any, how: str) -> None:
    found = profile('[[tools]]\nname = "look_up"\n')
    ledger, parts = ask_local(
        open_ledger, app, "calls", how, profile=found, tools={"look_up": lambda what: f"a {what}"}
    )
    assert parts[-1].text == "It is a parcel."
    roles = [each.message.role.value for each in ledger.memory("k").messages]
    assert roles == ["user", "assistant", "tool", "assistant"]


def test_a_function_that_never_stops_calling_is_stopped(open_ledger: Open, app: Any) -> None:
    with pytest.raises(AllBackendsFailed) as failed:
        ask_local(open_ledger, app, "calls_for_ever", "ask", tools={"look_up": lambda: "x"})
    assert failed.value.failures[0].facts.code == "tool_failed"


def test_a_blocking_function_does_not_block_the_event_loop(open_ledger: Open, app: Any) -> None:
    """The function waits for what the loop does meanwhile."""
    module = app(
        "import threading\ngo = threading.Event()\ndef answer(request):\n    assert go.wait(30)\n    return 'done'\n"
    )
    configure(f'[backends.local]\nkind = "python"\nfunction = "{module}:answer"\n')
    ledger = open_ledger(backends=("local",), threads="none", retries=0)

    async def main() -> str:
        asking = asyncio.create_task(AsyncLedger(ledger).conversation("k").ask("Where?"))
        while not hasattr(sys.modules.get(module), "go"):
            await asyncio.sleep(0)
        sys.modules[module].go.set()
        return str((await asking).text)

    assert asyncio.run(main()) == "done"


CLOSING = """
closed = []
def answer(request):
    try:
        yield "one "
        yield "two"
    finally:
        closed.append(1)
"""


def test_a_stream_that_nobody_reads_any_more_closes_the_function(open_ledger: Open, app: Any) -> None:
    module = app(CLOSING)
    configure(f'[backends.local]\nkind = "python"\nfunction = "{module}:answer"\n')
    parts = open_ledger(backends=("local",), threads="none", retries=0).conversation("k").stream("Where?")
    assert next(parts).text == "one "
    parts.close()
    assert sys.modules[module].closed == [1]


BAD_FUNCTIONS = {
    "no module": ("nowhere_at_all:answer", "there is no module 'nowhere_at_all'"),
    "no function": ("MODULE:other", "has no function 'other'"),
    "broken": ("BROKEN:answer", "cannot be imported (ValueError: broken)"),
}


@pytest.mark.parametrize("case", BAD_FUNCTIONS)
def test_a_function_that_cannot_be_imported_is_the_failure_of_its_run(open_ledger: Open, app: Any, case: str) -> None:
    name, message = BAD_FUNCTIONS[case]
    name = name.replace("MODULE", app(ANSWERS)).replace("BROKEN", app("raise ValueError('broken')"))
    configure(f'[backends.local]\nkind = "python"\nfunction = "{name}"\n')
    ledger = open_ledger(backends=("local", "responses"), threads="none")
    ledger.conversation("k").append("system", "Be brief.")
    answer = ledger.conversation("k").ask("Where?")
    assert answer.backend == "responses"
    [failure] = answer.failures
    assert failure.cause is Cause.ASSISTANT_MISCONFIGURED
    assert message in failure.facts.message
    assert failure.facts.message.startswith("[backends.local] function: ")


@pytest.mark.parametrize("how", ["first", "strict", "fallback"])
def test_a_function_refuses_hosted_tools_unless_it_is_a_fallback(
    open_ledger: Open, app: Any, simulator: Simulator, how: str
) -> None:
    configure(f'[backends.local]\nkind = "python"\nfunction = "{app(ANSWERS)}:answer"\n')
    simulator.add_fault(RESPONSES, refuse=BROKEN)
    ledger = open_ledger(
        backends=("local",) if how == "first" else ("responses", "local"),
        fallback="strict" if how == "strict" else "drop",
        threads="none",
        retries=0,
        profile=profile(HOSTED),
    )
    if how == "fallback":
        assert list(ledger.conversation("k").ask("Where?").dropped) == DROPPED
        return
    with pytest.raises(AllBackendsFailed) as failed:
        ledger.conversation("k").ask("Where?")
    assert failed.value.failures[-1].cause is Cause.TOOL_NOT_SUPPORTED
    assert failed.value.failures[-1].facts.message.startswith(
        "local is a function and does not have tools of type 'file_s"
    )


# A stream that breaks after text is continued

BREAK = {"truncate": {"events": 7, "kind": "broken", "done": False}}
SAID = "Your parcel is on its way to Zürich, and will be there on Monday."
KINDS: dict[str, dict[str, Any]] = {
    "assistants": {"backends": ("responses", "assistants"), "threads": "assistants", "stateless": True},
    "responses": {"backends": ("chat", "responses")},
    "stateless responses": {"backends": ("chat", "responses"), "stateless": True},
    "background responses": {"backends": ("chat", "responses"), "background": True},
    "chat": {"backends": ("responses", "chat")},
}
# The SDK warns at each Assistants call; test_settings.py checks that our own calls suppress the warning.
CONTINUED = pytest.mark.filterwarnings(r"ignore:(The Assistants API is )?deprecated:DeprecationWarning")


def break_first(simulator: Simulator, kind: str) -> None:
    broken = CHAT if KINDS[kind]["backends"][0] == "chat" else RESPONSES
    simulator.add_fault(broken, **BREAK)
    simulator.answer(SAID, " It continues.")


@CONTINUED
@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_stream_is_continued_by_the_next_backend(
    open_ledger: Open, simulator: Simulator, command: Any, db_url: str, kind: str
) -> None:
    break_first(simulator, kind)
    ledger = open_ledger(stream_fallback="continue", retries=0, **KINDS[kind])
    parts = list(ledger.conversation("k").stream("Where is it?"))
    [over] = [part for part in parts if isinstance(part, StartedOver)]
    said = "".join(part.text for part in parts[: parts.index(over)])
    answer = parts[-1]
    assert isinstance(answer, Answer)
    assert (over.continues, answer.fallback) == (True, True)
    assert said
    assert SAID.startswith(said)
    assert answer.text == f"{said} It continues." == "".join(part.text for part in parts if isinstance(part, Delta))
    assert [each.message.text for each in ledger.memory("k").messages] == ["Where is it?", answer.text]
    first, second = events(ledger, "RunStarted")
    assert (second.continues_run_id, second.continued_chars) == (first.run_id, len(said))
    assert events(ledger, "RunFailed")[0].partial_text == said
    assert (first.continues_run_id, first.continued_chars) == (None, 0)
    shown = command("--db", db_url, "audit", "show", second.run_id, "-o", "json").json
    assert (shown["continues_run_id"], shown["continued_chars"]) == (first.run_id, len(said))
    simulator.answer("Bye.")
    assert ledger.conversation("k").ask("Thanks.").text == "Bye."
    assert [each.as_json()["state"] for each in ledger.replay.verify(["k"])] == ["same"]


def test_by_default_the_next_backend_answers_again_from_the_start(open_ledger: Open, simulator: Simulator) -> None:
    break_first(simulator, "chat")
    parts = list(open_ledger(retries=0, **KINDS["chat"]).conversation("k").stream("Where is it?"))
    assert [part.continues for part in parts if isinstance(part, StartedOver)] == [False]
    assert parts[-1].text == " It continues."


PARTS = """
def first(request):
    yield "one "
    raise ConnectionError("gone")

def silent(request):
    raise ConnectionError("gone")
    yield

def second(request):
    yield "two "
    raise ConnectionError("gone")

seen = []

def third(request):
    seen.extend((each.message.role.value, each.message.text) for each in request.memory.messages)
    return "three"
"""


def test_a_text_may_be_continued_more_than_once(open_ledger: Open, app: Any) -> None:
    module = app(PARTS)
    names = ("first", "silent", "second", "third")
    configure("".join(f'[backends.{name}]\nkind = "python"\nfunction = "{module}:{name}"\n' for name in names))
    ledger = open_ledger(backends=names, threads="none", retries=0, stream_fallback="continue")
    parts = list(ledger.conversation("k").stream("Where is it?"))
    assert parts[-1].text == "one two three"
    assert [part.continues for part in parts if isinstance(part, StartedOver)] == [True, True, True]
    runs = list(ledger.exchanges("k").runs.values())
    continued = [(run.continues_run_id, run.continued_chars) for run in runs]
    assert continued == [(None, 0), (runs[0].run_id, 4), (runs[0].run_id, 4), (runs[2].run_id, 8)]
    asked, said, instruction = sys.modules[module].seen
    assert (asked, said) == (("user", "Where is it?"), ("assistant", "one two "))
    assert instruction[0] == "user"
    assert instruction[1].startswith("Your last message was cut off.")
    assert [run.memory_hash for run in runs] == [runs[0].memory_hash] * 4


def test_the_beginning_of_a_continued_text_comes_before_the_tool_calls_of_the_run_that_continues_it(
    open_ledger: Open, simulator: Simulator
) -> None:
    simulator.add_fault(RESPONSES, **BREAK)
    simulator.answer(SAID, {"tool_calls": [{"name": "look_up", "arguments": {}}]}, "It is in Bern.")
    given = {"threads": "none", "retries": 0, "stream_fallback": "continue"}
    look_up = profile('[[tools]]\nname = "look_up"\n')
    ledger = open_ledger({"look_up": lambda: "found"}, backends=("responses", "chat"), profile=look_up, **given)
    parts = list(ledger.conversation("k").stream("Where is it?"))
    [over] = [part for part in parts if isinstance(part, StartedOver)]
    said = "".join(part.text for part in parts[: parts.index(over)])
    texts = [each.message.text for each in ledger.memory("k").messages]
    assert said
    assert over.continues
    assert texts == ["Where is it?", said, "found", "It is in Bern."]
    assert parts[-1].text == "It is in Bern."


def test_a_filtered_text_and_one_after_a_tool_call_are_not_continued(
    open_ledger: Open, simulator: Simulator, app: Any
) -> None:
    module = app(
        "from threadledger.domain.errors import ProviderRefused\n"
        "from threadledger.domain.failures import Failure\n"
        "def filtered(request):\n"
        "    yield 'one '\n"
        "    raise ProviderRefused(Failure('incomplete', details={'finish_reason': 'content_filter'}))\n"
    )
    configure(f'[backends.filtered]\nkind = "python"\nfunction = "{module}:filtered"\n')
    given = {"threads": "none", "retries": 0, "stream_fallback": "continue"}
    simulator.answer("From the start.")
    parts = list(open_ledger(backends=("filtered", "chat"), **given).conversation("k").stream("Where is it?"))
    assert [part.continues for part in parts if isinstance(part, StartedOver)] == [False]
    assert parts[-1].text == "From the start."
    simulator.answer({"tool_calls": [{"name": "look_up", "arguments": {}}]}, SAID, "From the start.")
    simulator.add_fault(RESPONSES, **BREAK, after=1)
    tools = {"look_up": lambda: "found"}
    look_up = profile('[[tools]]\nname = "look_up"\n')
    ledger = open_ledger(tools, backends=("responses", "chat"), profile=look_up, **given)
    parts = list(ledger.conversation("k2").stream("Where is it?"))
    assert [part.continues for part in parts if isinstance(part, StartedOver)] == [False]
    assert parts[-1].text == "From the start."


def test_the_command_continues_the_line(
    open_ledger: Open, app: Any, command: Any, db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THREADLEDGER_TRUST_DIR", str(Path.cwd()))
    module = app(PARTS)
    names = ("first", "third")
    configure(
        f'chain = ["first", "third"]\nstream_fallback = "continue"\nretries = 0\nthreads = "none"\ndb = "{db_url}"\n'
        + "".join(f'[backends.{name}]\nkind = "python"\nfunction = "{module}:{name}"\n' for name in names)
    )
    done = command("ask", "k", "Where is it?", "--stream")
    assert done.out == "one three\n"
    assert "which continues the text" in done.err
