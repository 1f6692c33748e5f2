"""Hold the state of the simulated provider in plain records, which the modules of each API change."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..wire import Json, errors, parts, validation
from .answers import AnswerQueue, ScriptedAnswer, ScriptedOutcome
from .contents import FileContents
from .ids import SeededIds
from .limits import COMPLETIONS_KEPT, POLL_AFTER_DEFAULT_MS
from .tracked_dict import TrackedDict


@dataclass
class SimulatedRun:
    """Hold a run, its steps, and the outcome that a fault requires.

    `answer` is the model's answer once it has begun; `message_id` and `step_id` are the message and the step that
    contain it. While `streaming`, the run advances as its stream is read, not when it is retrieved.
    """

    object: Json
    outcome: ScriptedOutcome | None = None
    steps: dict[str, Json] = field(default_factory=dict)
    answer: ScriptedAnswer | None = None
    message_id: str | None = None
    step_id: str | None = None
    streaming: bool = False


@dataclass
class SimulatedThread:
    """Hold a thread with its messages and runs, each by id in order of creation."""

    object: Json
    messages: TrackedDict[Json] = field(default_factory=TrackedDict[Json])
    runs: TrackedDict[SimulatedRun] = field(default_factory=TrackedDict[SimulatedRun])


@dataclass
class SimulatedConversation:
    """Hold a conversation with its items by id, in order of creation.

    `busy` is the id of the response in progress.
    """

    object: Json
    items: TrackedDict[Json] = field(default_factory=TrackedDict[Json])
    busy: str | None = None


@dataclass
class SimulatedResponse:
    """Hold a response and its input items.

    `object` is its current form, and `final` is how it will end, or None after it has ended.
    """

    object: Json
    input: list[Json] = field(default_factory=list)
    final: Json | None = None
    streamed: bool = False


@dataclass
class SimulatedCompletion:
    """Hold a chat completion and its messages; `kept` says whether the app asked to store it."""

    object: Json
    messages: list[Json] = field(default_factory=list)
    kept: bool = False


@dataclass
class SimulatedFile:
    """Hold an uploaded file without its content, also after it was deleted; `sha256` is of its content."""

    object: Json
    sha256: str
    deleted: bool = False


@dataclass
class ProviderStore:
    """Hold the provider's state.

    `models` maps the known models to their shutdown date; None means that any model is accepted.
    """

    ids: SeededIds
    answers: AnswerQueue
    models: Mapping[str, str | None] | None = None
    retired_models: set[str] = field(default_factory=set)
    poll_after_ms: int = POLL_AFTER_DEFAULT_MS
    clock: Callable[[], float] = time.time
    assistants: TrackedDict[Json] = field(default_factory=TrackedDict[Json])
    threads: TrackedDict[SimulatedThread] = field(default_factory=TrackedDict[SimulatedThread])
    conversations: TrackedDict[SimulatedConversation] = field(default_factory=TrackedDict[SimulatedConversation])
    responses: TrackedDict[SimulatedResponse] = field(default_factory=TrackedDict[SimulatedResponse])
    completions: TrackedDict[SimulatedCompletion] = field(default_factory=TrackedDict[SimulatedCompletion])
    files: TrackedDict[SimulatedFile] = field(default_factory=TrackedDict[SimulatedFile])
    contents: FileContents = field(default_factory=FileContents)

    def seconds(self) -> float:
        """Return the Unix time in seconds.

        Each call reads `clock` again, because a test may replace it.
        """
        return self.clock()

    def now(self) -> int:
        """Return the Unix time in whole seconds, as in all timestamps of the provider."""
        return int(self.clock())

    def clear(self) -> None:
        """Delete every object, every scripted answer and the list of retired models.

        The counter of ids continues, so that no id is used twice.
        """
        kinds: tuple[TrackedDict[Any], ...] = (
            self.assistants,
            self.threads,
            self.conversations,
            self.responses,
            self.completions,
            self.files,
        )
        for file_id in self.files:
            self.contents.drop(file_id)
        for kind in kinds:
            for key in list(kind):
                del kind[key]
        self.answers.replace(())
        self.retired_models.clear()

    def remember(self, record: SimulatedCompletion) -> None:
        """Store a chat completion; delete the oldest one if there are too many."""
        self.completions[record.object["id"]] = record
        if len(self.completions) > COMPLETIONS_KEPT:
            del self.completions[next(iter(self.completions))]

    def file(self, file_id: str) -> SimulatedFile:
        """Return a file by id, or raise the provider's 404."""
        found = self.files.get(file_id)
        if found is None or not self.is_kept(found):
            raise errors.no_such_file(file_id)
        return found

    def is_kept(self, record: SimulatedFile) -> bool:
        """Return whether a file was not deleted and has not expired."""
        expires = record.object["expires_at"]
        return not record.deleted and (expires is None or self.clock() < expires)

    def drop_file(self, record: SimulatedFile) -> None:
        """Delete a file and its content; what was uploaded is still listed for tests."""
        record.deleted = True
        self.contents.drop(record.object["id"])

    def require_file(self, file_id: str, param: str) -> None:
        """Raise the provider's 404 if a file is not there; `param` is the field that names it."""
        record = dict.get(self.files, file_id)
        if record is None or not self.is_kept(record):
            raise errors.no_such_file(file_id, param)

    def require_files(self, content: list[Any], where: str) -> None:
        """Raise the provider's 404 if messages, items or parts name a file that is not there."""
        for file_id, param in self.missing_files(content, where):
            raise errors.no_such_file(file_id, param)

    def missing_files(self, content: list[Any], where: str = "") -> Iterator[tuple[str, str]]:
        """Yield the ids of files that are not there, each with the name of the field that names it."""
        for file_id, param in parts.files_named(content, where):
            record = dict.get(self.files, file_id)
            if record is None or not self.is_kept(record):
                yield file_id, param

    def accept_model(self, model: str) -> str:
        """Return `model`, or raise the provider's 404 if it is retired or unknown."""
        if model in self.retired_models or (self.models is not None and model not in self.models):
            raise errors.unknown_model(model)
        return model

    def assistant(self, assistant_id: str) -> Json:
        """Return an assistant by id, or raise the provider's 404."""
        found = self.assistants.get(validation.identifier(assistant_id, "assistant_id", "asst_"))
        if found is None:
            raise errors.no_such("assistant", assistant_id)
        return found

    def thread(self, thread_id: str) -> SimulatedThread:
        """Return a thread by id, or raise the provider's 404."""
        found = self.threads.get(validation.identifier(thread_id, "thread_id", "thread_"))
        if found is None:
            raise errors.no_such("thread", thread_id)
        return found

    def conversation(self, conversation_id: str) -> SimulatedConversation:
        """Return a conversation by id, or raise the provider's 404."""
        found = self.conversations.get(validation.identifier(conversation_id, "conversation_id", "conv_"))
        if found is None:
            raise errors.not_found("Conversation", conversation_id)
        return found
