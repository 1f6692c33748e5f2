"""What tests and the control endpoints read of the provider's state, and how a thing is lost."""

from threading import RLock
from typing import Any

from .call import Json
from .store import Store


class Views:
    """Copies of the lists under the lock; the objects in them are the provider's own and must not be changed."""

    def __init__(self, store: Store, lock: "RLock") -> None:
        self.store = store
        self.lock = lock

    @property
    def assistants(self) -> dict[str, Json]:
        """Assistants by id."""
        with self.lock:
            return dict(self.store.assistants)

    @property
    def threads(self) -> dict[str, Json]:
        """Threads by id."""
        with self.lock:
            return {key: record.object for key, record in self.store.threads.items()}

    @property
    def messages(self) -> dict[str, list[Json]]:
        """Messages, oldest first, by thread id."""
        with self.lock:
            return {key: list(record.messages.values()) for key, record in self.store.threads.items()}

    @property
    def runs(self) -> dict[str, Json]:
        """Runs of all threads by id."""
        with self.lock:
            return {key: run.object for record in self.store.threads.values() for key, run in record.runs.items()}

    @property
    def conversations(self) -> dict[str, Json]:
        """Conversations by id."""
        with self.lock:
            return {key: record.object for key, record in self.store.conversations.items()}

    @property
    def items(self) -> dict[str, list[Json]]:
        """Items, oldest first, by conversation id."""
        with self.lock:
            return {key: list(record.items.values()) for key, record in self.store.conversations.items()}

    @property
    def responses(self) -> dict[str, Json]:
        """Stored responses by id."""
        with self.lock:
            return {key: record.object for key, record in self.store.responses.items()}

    @property
    def completions(self) -> list[Json]:
        """The latest chat completions, oldest first."""
        with self.lock:
            return [record.object for record in self.store.completions.values()]

    def lose(self, identifier: str) -> None:
        """Forget an assistant, a thread, a conversation or a response: 404 from now on. KeyError if there is none."""
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
        raise KeyError(identifier)
