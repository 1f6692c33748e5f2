"""Save the provider's state in a SQLite file.

Changes are written in one transaction per request, before the answer is sent.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..private_files import ensure_private
from ..wire import Json
from .answers import (
    ScriptedAnswer,
    ScriptedEnd,
    ScriptedFailure,
    ScriptedIncompletion,
    ScriptedOutcome,
)
from .faults import FaultState, as_json
from .provider import Provider
from .rates import Bucket
from .responses import end
from .script import parse_answers, parse_fault
from .store import (
    ProviderStore,
    SimulatedCompletion,
    SimulatedConversation,
    SimulatedFile,
    SimulatedResponse,
    SimulatedRun,
    SimulatedThread,
)
from .tracked_dict import TrackedDict

APPLICATION_ID = 0x746C7369  # "tlsi", in the file's header
FORMAT = 1
BUSY_SECONDS = 1.0
TABLES = """
CREATE TABLE object (
    kind TEXT NOT NULL, parent TEXT NOT NULL, id TEXT NOT NULL, json TEXT NOT NULL, UNIQUE (kind, parent, id)
);
CREATE TABLE setting (name TEXT PRIMARY KEY, json TEXT NOT NULL);
"""

# An existing entry keeps its row, and thus its place in the order of creation.
PUT = (
    "INSERT INTO object (kind, parent, id, json) VALUES (?, ?, ?, ?)"
    " ON CONFLICT (kind, parent, id) DO UPDATE SET json = excluded.json"
)
READ = "SELECT parent, id, json FROM object WHERE kind = ? ORDER BY rowid"

Shelf = tuple[str, str, TrackedDict[Any], Callable[[Any], Any]]
"""A collection of the provider: its kind, its parent's id, its entries, and how to write one."""


class StateError(ValueError):
    """Raised when a state file cannot be used.

    The file belongs to another program, is in use, or cannot be written. The message is one sentence.
    """


class StateFile:
    """Manage an open state file, which only one simulator can use at a time.

    Raises `StateError` if the file cannot be used.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = path
        self._settings: dict[str, str] = {}
        ensure_private(Path(path))
        try:
            self._connection = sqlite3.connect(
                path, timeout=BUSY_SECONDS, check_same_thread=False, isolation_level=None
            )
        except sqlite3.Error as error:
            raise StateError(f"the state file {path} cannot be opened: {error}") from error
        try:
            self.is_new = self._prepare()
        except sqlite3.Error as error:
            self._connection.close()
            raise StateError(f"the state file {path} cannot be used: {error}") from error
        except StateError:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def save(self, provider: Provider) -> None:
        """Write what has changed since the last call.

        The caller holds the provider's lock.
        """
        settings = {name: json.dumps(value) for name, value in _settings(provider).items()}
        changed = [(name, text) for name, text in settings.items() if self._settings.get(name) != text]
        self._connection.execute("BEGIN")
        try:
            for shelf in list(_shelves(provider)):
                self._write(shelf)
            self._connection.executemany("INSERT OR REPLACE INTO setting (name, json) VALUES (?, ?)", changed)
            self._connection.execute("COMMIT")
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._settings = settings
        for _kind, _parent, entries, _shown in list(_shelves(provider)):
            entries.settle()

    def load(self, provider: Provider) -> None:
        """Restore the provider's state from the file; streams that were being read have ended."""
        rows = dict(self._connection.execute("SELECT name, json FROM setting"))
        _restore(provider, {name: json.loads(text) for name, text in rows.items()})
        self._fill(provider.store)
        for _kind, _parent, entries, _shown in list(_shelves(provider)):
            entries.settle()
        _cancel_unread_responses(provider.store)

    def _fill(self, store: ProviderStore) -> None:
        for _, key, value in self._rows("assistant"):
            store.assistants[key] = value
        for _, key, value in self._rows("thread"):
            store.threads[key] = SimulatedThread(value)
        for parent, key, value in self._rows("message"):
            store.threads[parent].messages[key] = value
        for parent, key, value in self._rows("run"):
            store.threads[parent].runs[key] = run_of(value)
        for _, key, value in self._rows("conversation"):
            store.conversations[key] = conversation_of(value)
        for parent, key, value in self._rows("item"):
            store.conversations[parent].items[key] = value
        for _, key, value in self._rows("response"):
            store.responses[key] = response_of(value)
        for _, key, value in self._rows("completion"):
            store.completions[key] = completion_of(value)
        for _, key, value in self._rows("file"):
            store.files[key] = SimulatedFile(**value)

    def _prepare(self) -> bool:
        self._connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        [owner] = self._connection.execute("PRAGMA application_id").fetchone()
        [tables] = self._connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if tables and owner != APPLICATION_ID:
            raise StateError(f"the state file {self._path} is another program's database; choose another file")
        [version] = self._connection.execute("PRAGMA user_version").fetchone()
        if tables and version != FORMAT:
            raise StateError(
                f"the state file {self._path} has format {version}; this version reads {FORMAT}: choose another file"
            )
        # Write at once, so that a second simulator on this file fails to open it.
        self._connection.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; BEGIN IMMEDIATE; COMMIT;"
        )
        if not tables:
            marks = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT};"
            self._connection.executescript(f"BEGIN; {TABLES} {marks} COMMIT;")
        return not tables

    def _write(self, shelf: Shelf) -> None:
        kind, parent, entries, shown = shelf
        for key in entries.touched():
            if key in entries:
                self._connection.execute(PUT, (kind, parent, key, json.dumps(shown(dict.__getitem__(entries, key)))))
            else:
                # Deleting a thread also deletes its messages and runs; deleting a conversation also deletes its items.
                self._connection.execute(
                    "DELETE FROM object WHERE kind = ? AND parent = ? AND id = ?", (kind, parent, key)
                )
                self._connection.execute("DELETE FROM object WHERE parent = ?", (key,))

    def _rows(self, kind: str) -> Iterator[tuple[str, str, Any]]:
        for parent, key, text in self._connection.execute(READ, (kind,)):
            yield parent, key, json.loads(text)


def _shelves(provider: Provider) -> Iterator[Shelf]:
    """Yield every collection with changes: its kind, its parent's id, its entries, and how to write one."""
    store = provider.store
    yield "assistant", "", store.assistants, _unchanged
    for key in store.threads.touched():
        thread = dict.get(store.threads, key)
        if thread is not None:
            yield "message", key, thread.messages, _unchanged
            yield "run", key, thread.runs, run_json
    yield "thread", "", store.threads, _object_of
    for key in store.conversations.touched():
        conversation = dict.get(store.conversations, key)
        if conversation is not None:
            yield "item", key, conversation.items, _unchanged
    yield "conversation", "", store.conversations, conversation_json
    yield "response", "", store.responses, response_json
    yield "completion", "", store.completions, completion_json
    yield "file", "", store.files, vars


def _cancel_unread_responses(store: ProviderStore) -> None:
    """End the responses that only continued while their stream was read, because no reader outlives its simulator."""
    for record in store.responses.values():
        if not record.object["background"]:
            end(store, record, "cancelled")
    for conversation in store.conversations.values():
        if conversation.busy not in store.responses:
            conversation.busy = None


def _unchanged(value: Any) -> Any:
    return value


def _object_of(record: SimulatedThread) -> Any:
    return record.object


def _settings(provider: Provider) -> dict[str, Any]:
    store = provider.store
    return {
        "ids": {"seed": store.ids.seed, "count": store.ids.count},
        "answers": [answer_json(answer) for answer in store.answers.left],
        "faults": [as_json(state) for state in provider.faults.states],
        "retired": {"apis": list(provider.retired_apis), "models": sorted(store.retired_models)},
        "request_counts": provider.request_counts,
        "rate_limits": {kind: vars(bucket) for kind, bucket in provider.rates.buckets.items()},
    }


def _restore(provider: Provider, settings: dict[str, Any]) -> None:
    store = provider.store
    store.ids.seed, store.ids.count = settings["ids"]["seed"], settings["ids"]["count"]
    store.answers.replace(answer_of(value) for value in settings["answers"])
    provider.faults.replace(_fault_state(value) for value in settings["faults"])
    provider.restore(settings["retired"]["apis"], settings["request_counts"])
    store.retired_models = set(settings["retired"]["models"])
    provider.rates.buckets = {kind: Bucket(**value) for kind, value in settings["rate_limits"].items()}


def _fault_state(value: dict[str, Any]) -> FaultState:
    seen, fired = value.pop("seen"), value.pop("fired")
    return FaultState(parse_fault(value), seen, fired)


# Records as JSON, for the rows of the file.


def answer_json(answer: ScriptedAnswer) -> Any:
    """Return an answer in the script format: a text, {"tool_calls": […]} or {"output": […]}."""
    more = {"usage": answer.usage} if answer.usage else {}
    if answer.output or answer.audio is not None:
        return {"output": list(answer.output), "audio": answer.audio, **more}
    if not answer.tool_calls:
        return answer.text
    return {"tool_calls": [{"name": call.name, "arguments": call.arguments} for call in answer.tool_calls], **more}


def answer_of(value: Any) -> ScriptedAnswer:
    """Return the answer that `answer_json` wrote."""
    return parse_answers([value], "answers")[0]


def run_json(record: SimulatedRun) -> Json:
    """Return a run with its steps as JSON.

    Whether a stream is being read is not saved, because no reader survives a restart.
    """
    return {
        "object": record.object,
        "outcome": _outcome_json(record.outcome),
        "steps": record.steps,
        "answer": None if record.answer is None else answer_json(record.answer),
        "message_id": record.message_id,
        "step_id": record.step_id,
    }


def run_of(value: Json) -> SimulatedRun:
    """Return the run that `run_json` wrote."""
    answer = None if value["answer"] is None else answer_of(value["answer"])
    outcome = _outcome_of(value["outcome"])
    return SimulatedRun(value["object"], outcome, value["steps"], answer, value["message_id"], value["step_id"])


def conversation_json(record: SimulatedConversation) -> Json:
    """Return a conversation as JSON, without its items, which have their own rows."""
    return {"object": record.object, "busy": record.busy}


def conversation_of(value: Json) -> SimulatedConversation:
    """Return the conversation that `conversation_json` wrote, without items."""
    return SimulatedConversation(value["object"], busy=value["busy"])


def response_json(record: SimulatedResponse) -> Json:
    """Return a response as JSON."""
    return {"object": record.object, "input": record.input, "final": record.final, "streamed": record.streamed}


def response_of(value: Json) -> SimulatedResponse:
    """Return the response that `response_json` wrote."""
    return SimulatedResponse(value["object"], value["input"], value["final"], value["streamed"])


def completion_json(record: SimulatedCompletion) -> Json:
    """Return a chat completion as JSON."""
    return {"object": record.object, "messages": record.messages, "kept": record.kept}


def completion_of(value: Json) -> SimulatedCompletion:
    """Return the chat completion that `completion_json` wrote."""
    return SimulatedCompletion(value["object"], value["messages"], value["kept"])


def _outcome_json(outcome: ScriptedOutcome | None) -> Json | None:
    match outcome:
        case ScriptedFailure(code, message):
            return {"failure": {"code": code, "message": message}}
        case ScriptedIncompletion(reason):
            return {"incomplete": reason}
        case ScriptedEnd(status):
            return {"end": status}
    return None


def _outcome_of(value: Json | None) -> ScriptedOutcome | None:
    if value is None:
        return None
    if "failure" in value:
        return ScriptedFailure(**value["failure"])
    return ScriptedIncompletion(value["incomplete"]) if "incomplete" in value else ScriptedEnd(value["end"])
