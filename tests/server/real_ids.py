"""Run the tests of openai-python against a real server: a plugin of pytest that replaces the literal ids in their requests.

Those tests were written for a mock that accepts any id, and ask for `thread_id`, `conv_123`, … Each of them gets new objects,
made when it asks for one. Only ids are replaced: in paths, in `after`, `before` and `run_id` of queries, and in four fields of
bodies. One field is left out: some tests send `conversation` and `previous_response_id` together, which the API refuses. Of
these, the streamed ones send `previous_response_id` alone, the others `conversation` alone.

    TEST_API_BASE_URL=http://127.0.0.1:8731/v1 PYTHONPATH=tests/server python -m pytest -p real_ids tests/api_resources/beta

The server's model must answer an offered function with a call.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

Json = dict[str, Any]

BASE_URL = os.environ.get("TEST_API_BASE_URL", "")
RESULTS = os.environ.get("REAL_IDS_RESULTS")
"""File that gets the outcomes of the tests, as JSON: `{"passed": [names], "failed": {name: why}}`."""

MODEL = "gpt-4o"
FUNCTION = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
QUESTION = {"role": "user", "content": "How is the weather?"}


class RealObjects:
    """Make the objects that one test asks for."""

    def __init__(self, url: str, http: httpx2.Client) -> None:
        self._url = url
        self._http = http

    def named(self, literal: str) -> str:
        """Return the id of a real object in the place of a literal id."""
        match literal:
            case "assistant_id":
                return str(self._post("/assistants", model=MODEL)["id"])
            case "completion_id":
                return self._completions[0]
            case "thread_id":
                return str(self._run["thread_id"] if self._has_run else self._thread)
            case "message_id":
                return self._messages[0]
            case "run_id":
                return str(self._run["id"])
            case "step_id":
                return self._steps[0]
            case "tool_call_id":
                return str(self._run["required_action"]["submit_tool_outputs"]["tool_calls"][0]["id"])
            case "conv_123" | "conversation":
                return self._conversation
            case "msg_abc":
                return self._ids(f"/conversations/{self._conversation}/items")[0]
            case "resp_677efb5139a88190b512bc3fef8e535d" | "response_id" | "previous_response_id":
                return self._response
            case "file_id" | "file-abc123" | "string":
                return self._files[0]
            case "vector_store_id" | "vs_abc123":
                return self._store
            case "batch_id" | "vsfb_abc123":
                return str(self._batch["id"])
            case "after" | "before":
                return self._listed[0 if literal == "after" else -1]
        raise AssertionError(f"no id takes the place of {literal!r}")

    @property
    def _has_run(self) -> bool:
        return "run_id" in self._url or self._url.endswith("/messages") or self._is_waiting

    @property
    def _is_waiting(self) -> bool:
        return self._url.endswith(("/cancel", "/submit_tool_outputs"))

    @cached_property
    def _thread(self) -> str:
        return str(self._post("/threads", messages=[QUESTION])["id"])

    @cached_property
    def _run(self) -> Json:
        """A run that waits for the result of its function, if the test cancels it or gives that result; else it has ended."""
        tools = [FUNCTION] if self._is_waiting else []
        assistant = self._post("/assistants", model=MODEL, tools=tools)["id"]
        run = self._run_of("/threads/runs", assistant_id=assistant, thread={"messages": [QUESTION]})
        assert run["status"] == ("requires_action" if tools else "completed"), run
        return run

    def _run_of(self, path: str, **body: Any) -> Json:
        """Return a run when it has ended or waits: the last object of its stream."""
        with self._http.stream("POST", path, json=body | {"stream": True}) as answer:
            assert answer.status_code == 200, answer.read()
            data = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: ")]
        run: Json = json.loads(data[-2])  # behind it is [DONE]
        return run

    @cached_property
    def _steps(self) -> list[str]:
        return self._ids(f"/threads/{self._run['thread_id']}/runs/{self._run['id']}/steps")

    @cached_property
    def _conversation(self) -> str:
        return str(self._post("/conversations", items=[QUESTION, QUESTION])["id"])

    @cached_property
    def _response(self) -> str:
        """A response with two items of input; its stream can be read, and it can be cancelled, if it is in the background."""
        in_background = self._url.startswith("/responses/")
        body = {"model": MODEL, "input": [QUESTION, QUESTION]}
        path, ended = "/responses", "event: response.completed"
        with self._http.stream("POST", path, json=body | {"background": in_background, "stream": True}) as answer:
            assert answer.status_code == 200, answer.read()
            lines = [*answer.iter_lines()]
        assert ended in lines, lines
        made: Json = json.loads(next(line for line in lines if line.startswith("data: "))[6:])
        return str(made["response"]["id"])

    @cached_property
    def _messages(self) -> list[str]:
        return self._ids(f"/threads/{self.named('thread_id')}/messages")

    @cached_property
    def _completions(self) -> list[str]:
        """Two stored completions; the SDK's type of a stored message knows the role `assistant` alone."""
        messages = [{"role": "assistant", "content": text} for text in ("Hello", "How can I help?")]
        return [self._post("/chat/completions", model=MODEL, messages=messages, store=True)["id"] for _ in range(2)]

    @cached_property
    def _files(self) -> list[str]:
        given = {"files": {"file": ("notes.txt", b"How is the weather?")}, "data": {"purpose": "assistants"}}
        return [str(self._made(self._http.post("/files", **given))["id"]) for _ in range(2)]

    @cached_property
    def _store(self) -> str:
        return str(self._post("/vector_stores", file_ids=self._files)["id"])

    @cached_property
    def _batch(self) -> Json:
        return self._post(f"/vector_stores/{self._store}/file_batches", file_ids=self._files)

    @property
    def _listed(self) -> list[str]:
        """The ids in the list that a test reads, oldest first."""
        if self._url.endswith("/files"):
            _ = self._batch if "/file_batches/" in self._url else self._store if self._url != "/files" else ""
            return self._files
        if self._url.endswith("/vector_stores"):
            return [str(self._post("/vector_stores")["id"]) for _ in range(2)]
        path = self._url
        for literal in ("thread_id", "conv_123", "response_id"):
            path = path.replace(f"/{literal}", f"/{self.named(literal)}") if f"/{literal}" in path else path
        if path.endswith("/runs"):
            return [str(self._another_run(path)["id"]) for _ in range(2)]
        if path.endswith("/assistants"):
            return [self.named("assistant_id") for _ in range(2)]
        if path.endswith("/chat/completions"):
            return self._completions
        if "/completion_id" in path:
            return self._ids(path.replace("/completion_id", f"/{self.named('completion_id')}"))
        return self._ids(path.replace("/run_id", f"/{self.named('run_id')}"))

    def _another_run(self, path: str) -> Json:
        return self._run_of(path, assistant_id=self.named("assistant_id"), additional_messages=[QUESTION])

    def _ids(self, path: str) -> list[str]:
        answer = self._http.get(path, params={"order": "asc"})
        assert answer.status_code == 200, answer.text
        return [str(each["id"]) for each in answer.json()["data"]]

    def _post(self, path: str, **body: Any) -> Json:
        return self._made(self._http.post(path, json=body))

    @staticmethod
    def _made(answer: httpx2.Response) -> Json:
        assert answer.status_code == 200, answer.text
        made: Json = answer.json()
        return made


LITERALS = frozenset({
    "assistant_id", "completion_id", "thread_id", "message_id", "run_id", "step_id", "tool_call_id",
    "conv_123", "msg_abc", "resp_677efb5139a88190b512bc3fef8e535d", "response_id",
    "file_id", "file-abc123", "vector_store_id", "vs_abc123", "batch_id", "vsfb_abc123",
})  # fmt: skip
CURSORS = frozenset({"after", "before", "run_id"})


def replace_ids(url: str, query: Any, body: Any, real: Any) -> tuple[str, Any, Any]:
    """Return the path, query and body of a request with real ids; `real` returns the id for a literal."""
    segments = (real(each) if each in LITERALS else each for each in url.split("/"))
    path = "/".join(segments)
    query = {name: real(value) if name in CURSORS and value == name else value for name, value in query.items()}
    if isinstance(body, dict):
        body = dict(body)
        if body.get("assistant_id") == "assistant_id":
            body["assistant_id"] = real("assistant_id")
        if "tool_outputs" in body:
            body["tool_outputs"] = [_with_call(each, real) for each in body["tool_outputs"]]
        if "conversation" in body and "previous_response_id" in body:
            del body["conversation" if body.get("stream") else "previous_response_id"]
        if body.get("conversation") == "string":
            body["conversation"] = real("conversation")
        if body.get("previous_response_id") in ("previous_response_id", "resp_123"):
            body["previous_response_id"] = real("previous_response_id")
        body = _with_files(body, real)
    return path, query, body


def _with_files(value: Any, real: Any) -> Any:
    """Return a body with real ids of files and vector stores, wherever it names one."""
    if isinstance(value, list):
        return [_with_files(each, real) for each in value]
    if not isinstance(value, dict):
        return value
    found = {name: each if name == "metadata" else _with_files(each, real) for name, each in value.items()}
    for name, kind in (("file_ids", "file_id"), ("vector_store_ids", "vector_store_id")):
        if found.get(name) == ["string"]:
            found[name] = [real(kind)]
    return found | ({"file_id": real("file_id")} if found.get("file_id") == "file_id" else {})


def _with_call(output: Any, real: Any) -> Any:
    return output | {"tool_call_id": real("tool_call_id")} if output.get("tool_call_id") == "tool_call_id" else output


@pytest.fixture(scope="session")
def _http() -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=BASE_URL, headers={"authorization": "Bearer any"}, timeout=30) as http:
        yield http


@pytest.fixture(autouse=True)
def _real_ids(_http: httpx2.Client, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "respx2_mock" in request.fixturenames:  # the test answers its request itself
        return

    def replaced(options: Any) -> Any:
        objects = RealObjects(options.url, _http)
        url, query, body = replace_ids(options.url, options.params, options.json_data, objects.named)
        return options.model_copy(update={"url": url, "params": query, "json_data": body})

    prepare, prepare_async = openai.OpenAI._prepare_options, openai.AsyncOpenAI._prepare_options

    def prepared(self: Any, options: Any) -> Any:
        return prepare(self, replaced(options))

    async def prepared_async(self: Any, options: Any) -> Any:
        return await prepare_async(self, replaced(options))

    monkeypatch.setattr(openai.OpenAI, "_prepare_options", prepared)
    monkeypatch.setattr(openai.AsyncOpenAI, "_prepare_options", prepared_async)


class Outcomes:
    """Collect the outcomes of the tests, and write them to a file at the end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.passed: list[str] = []
        self.failed: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed[report.nodeid] = report.longreprtext
        elif report.when == "call" and report.passed:
            self.passed.append(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        self.path.write_text(json.dumps({"passed": self.passed, "failed": self.failed}), encoding="utf-8")


def pytest_configure(config: pytest.Config) -> None:
    """Write the outcomes, if a file is named."""
    if RESULTS is not None:
        config.pluginmanager.register(Outcomes(Path(RESULTS)))
