"""Keep the ledgers of tenants open that are in use, up to a number: the one that was not used for longest is closed first."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from threadledger.domain.errors import InvalidSettings, StoreUnavailable, ThreadledgerError
from threadledger.domain.failures import redact

from .settings import PER_TENANT, TENANT, TENANT_PLACE

if TYPE_CHECKING:
    from .settings import Settings

logger = logging.getLogger("threadledger")

OPEN_LEDGERS = 32
"""Number of ledgers that a process keeps open, unless it is told otherwise."""

WAIT_SECONDS = 5.0
"""How long a caller waits for a ledger to be closed if as many as allowed are in use, in seconds."""

MISSING_SECONDS = 1.0
"""How long it is remembered that a tenant has no ledger that can be opened, in seconds: wrong keys cost no more than that."""

MISSING_MAX = 10_000
"""Maximum number of tenants without a ledger that are remembered."""


class Opened(Protocol):
    """Define what is kept open for a tenant."""

    def is_idle(self) -> bool:
        """Return whether nothing is in progress, so that it may be closed."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


T = TypeVar("T", bound=Opened)


@dataclass
class _Slot(Generic[T]):
    opened: T | None = None
    users: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class TenantLedgers(Generic[T]):
    """Open and close what is needed for tenants. Its methods may be called from any thread."""

    def __init__(self, settings: Settings, open_one: Callable[[Settings], T], most: int = OPEN_LEDGERS) -> None:
        """Prepare it; `open_one` opens what is needed for a tenant, with the settings of the tenant."""
        self._settings = settings
        self._open_one = open_one
        self._most = most
        self._slots: OrderedDict[str, _Slot[T]] = OrderedDict()
        self._changed = threading.Condition()
        self._missing: OrderedDict[str, tuple[float, ThreadledgerError]] = OrderedDict()
        self._is_stopped = False

    @property
    def number_open(self) -> int:
        """Return the number of ledgers that are open now."""
        with self._changed:
            return len(self._slots)

    def start(self) -> None:
        """Do nothing: a ledger is opened when it is first needed."""

    def stop(self) -> None:
        """Close all ledgers."""
        with self._changed:
            self._is_stopped = True
            slots = [*self._slots.values()]
            self._slots.clear()
        closing = [threading.Thread(target=_closed, args=(slot.opened,)) for slot in slots if slot.opened is not None]
        for each in closing:  # each may wait some seconds for what is in progress
            each.start()
        for each in closing:
            each.join()

    @contextmanager
    def lent(self, tenant: str) -> Iterator[T]:
        """Provide what is open for a tenant; it stays open as long.

        Raises:
            ThreadledgerError: the tenant has no ledger, or it cannot be opened.
            StoreUnavailable: as many ledgers as allowed are in use.
        """
        opened = self.take(tenant)
        try:
            yield opened
        finally:
            self.give_back(tenant)

    def take(self, tenant: str) -> T:
        """Return what is open for a tenant; it is not closed before it was given back. Raises as `lent` does."""
        self._raise_missing(tenant)
        slot = self._slot(tenant)
        try:
            with slot.lock:
                if slot.opened is None:
                    slot.opened = self._open_one(self._settings.of_tenant(tenant))
                return slot.opened
        except BaseException as error:
            with self._changed:
                slot.users -= 1
                if slot.opened is None and not slot.users:
                    self._slots.pop(tenant, None)
                if isinstance(error, ThreadledgerError):
                    self._missing[tenant] = (time.monotonic() + MISSING_SECONDS, error)
                    while len(self._missing) > MISSING_MAX:
                        self._missing.popitem(last=False)
                self._changed.notify_all()
            raise

    def give_back(self, tenant: str) -> None:
        """Allow what is open for a tenant to be closed when its place is needed."""
        with self._changed:
            slot = self._slots.get(tenant)
            if slot is not None:
                slot.users -= 1
            self._changed.notify_all()

    def _slot(self, tenant: str) -> _Slot[T]:
        """Return the place of a tenant with one more user, and close that of another one if there are too many."""
        until = time.monotonic() + WAIT_SECONDS
        with self._changed:
            while True:
                if self._is_stopped:
                    raise StoreUnavailable("the process stops: no ledger is opened any more")
                slot = self._slots.get(tenant)
                if slot is not None or len(self._slots) < self._most:
                    slot = self._slots.setdefault(tenant, slot or _Slot())
                    slot.users += 1
                    self._slots.move_to_end(tenant)
                    return slot
                if self._closed_one():
                    continue
                left = until - time.monotonic()
                if left <= 0:
                    raise StoreUnavailable(
                        f"{self._most} ledgers of tenants are in use, which is as many as this process keeps open: try again, "
                        "or let it keep more with --open-ledgers"
                    )
                self._changed.wait(min(left, 0.5))  # what was in progress may end without being given back

    def _closed_one(self) -> bool:
        """Close the idle ledger that was not used for longest, and return whether there was one."""
        for tenant, slot in self._slots.items():
            if not slot.users and slot.opened is not None and slot.opened.is_idle():
                del self._slots[tenant]
                _closed(slot.opened)
                return True
        return False

    def _raise_missing(self, tenant: str) -> None:
        with self._changed:
            until, error = self._missing.get(tenant, (0.0, None))
            if error is not None and time.monotonic() < until:
                raise error
            self._missing.pop(tenant, None)


def require_whole(settings: Settings) -> None:
    """Raise if only some of the addresses are those of a tenant, or if a tenant was chosen and none of them is."""
    names = {key: field.name for key, field in settings.fields.items()}
    named = {key: TENANT_PLACE in address for key in PER_TENANT if (address := getattr(settings, key))}
    wrong = next((key for key, has_place in named.items() if has_place is not named["db"]), None)
    if wrong is not None:
        lacking, having = (wrong, "db") if named["db"] else ("db", wrong)
        raise InvalidSettings(
            f"{names[having]} contains {TENANT_PLACE} and {names[lacking]} does not, so that tenants would share it: write "
            f"{TENANT_PLACE} in both, or in neither"
        )
    if settings.tenant is not None and not named["db"]:
        raise InvalidSettings(
            f"a tenant was chosen ({settings.tenant!r}), and the database is the same for all: write {TENANT_PLACE} in "
            f"{names['db']}, or leave --tenant and {names['tenant']} out"
        )


def environment_of(settings: Settings) -> Mapping[str, str]:
    """Return the variables that have another process use the database of these settings."""
    if settings.tenant is None:
        return {"THREADLEDGER_DB": settings.db}
    return {"THREADLEDGER_DB": settings._pattern, "THREADLEDGER_TENANT": settings.tenant}


def tenants_of(settings: Settings) -> list[str]:
    """Return the tenants that have a ledger, sorted.

    Raises:
        InvalidSettings: they cannot be listed.
        StoreUnavailable: the server cannot be asked.
    """
    from .sql import tenants_with_ledgers

    return tenants_with_ledgers(settings.db, TENANT)


def _closed(opened: Opened) -> None:
    with suppress(ThreadledgerError):
        try:
            opened.close()
        except OSError as error:
            logger.warning("the ledger of a tenant was not closed in order: %s", redact(str(error)))
