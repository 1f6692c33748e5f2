"""Read the provider's state for tests and the control endpoints, and delete single objects."""

from __future__ import annotations

from threading import RLock
from typing import Any

from ..wire import Json
from .store import ProviderStore


class ProviderViews:
    """Return copies of the provider's collections under the lock.

    The objects in them belong to the provider and must not be changed.
    """

    def __init__(self, store: ProviderStore, lock: RLock) -> None:
        self.store = store
        self.lock = lock

    @property
    def assistants(self) -> dict[str, Json]:
        """Return the assistants by id."""
        with self.lock:
            return dict(self.store.assistants)

    @property
    def threads(self) -> dict[str, Json]:
        """Return the threads by id."""
        with self.lock:
            return {key: record.object for key, record in self.store.threads.items()}

    @property
    def messages(self) -> dict[str, list[Json]]:
        """Return the messages by thread id, oldest first."""
        with self.lock:
            return {key: list(record.messages.values()) for key, record in self.store.threads.items()}

    @property
    def runs(self) -> dict[str, Json]:
        """Return the runs of all threads by id."""
        with self.lock:
            return {key: run.object for record in self.store.threads.values() for key, run in record.runs.items()}

    @property
    def conversations(self) -> dict[str, Json]:
        """Return the conversations by id."""
        with self.lock:
            return {key: record.object for key, record in self.store.conversations.items()}

    @property
    def items(self) -> dict[str, list[Json]]:
        """Return the items by conversation id, oldest first."""
        with self.lock:
            return {key: list(record.items.values()) for key, record in self.store.conversations.items()}

    @property
    def responses(self) -> dict[str, Json]:
        """Return the stored responses by id."""
        with self.lock:
            return {key: record.object for key, record in self.store.responses.items()}

    @property
    def completions(self) -> list[Json]:
        """Return the latest chat completions, oldest first."""
        with self.lock:
            return [record.object for record in self.store.completions.values()]

    @property
    def files(self) -> dict[str, Json]:
        """Return every upload by id, oldest first: the file, the `sha256` of its content, and whether it is `deleted`."""
        with self.lock:
            return {
                key: {**record.object, "sha256": record.sha256, "deleted": not self.store.is_kept(record)}
                for key, record in self.store.files.items()
            }

    def lose(self, identifier: str) -> None:
        """Delete an assistant, a thread, a conversation, a response or a file, which answers 404 from now on.

        Raises `KeyError` if there is no object with this id.
        """
        with self.lock:
            kinds: tuple[dict[str, Any], ...] = (
                self.store.assistants,
                self.store.threads,
                self.store.conversations,
                self.store.responses,
            )
            for kind in kinds:
                if identifier in kind:
                    del kind[identifier]
                    return
            if identifier in self.store.files:
                self.store.drop_file(self.store.files[identifier])
                return
        raise KeyError(identifier)
