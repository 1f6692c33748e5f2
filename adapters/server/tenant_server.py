"""Serve the ledgers of all tenants at one address: the key of a request names its tenant, and that tenant's ledger knows the key.

Each ledger has a server's app of its own, which has no way to another ledger.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Collection
from typing import Any, cast

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from threadledger.domain.errors import StoreError, ThreadledgerError
from threadledger.domain.ledger import ApiKey, ApiKeys, Ledger

from ..settings import BACKENDS, TENANT, Settings
from ..tenant_ledgers import OPEN_LEDGERS, TenantLedgers
from ..wire import ApiError
from ..wire.requests import presented_key
from .access import Access, ServedKey
from .app import Hooks, ServerApp
from .calls import Served
from .handlers import HANDLERS
from .limits import ServerLimits
from .refusals import AGAIN, SERVER_ERROR
from .replies import RequestInProgress
from .request_keys import RequestKeys
from .runner import Runner
from .server import PORT_DEFAULT, Server, ServerListener

logger = logging.getLogger("threadledger.server")

TENANT_KEY = re.compile(rf"tl-({TENANT.pattern})\.[0-9a-f]+")
"""A key that names the tenant whose ledger knows it."""


class NoKey:
    """Find no key, and ask for one all the same, so that nobody is let in."""

    def find(self, key: str) -> ServedKey | None:
        """Return None: there is no such key."""
        return None

    def any_exists(self) -> bool:
        """Return True, so that a key is asked for."""
        return True


class LedgerKeys(NoKey):
    """Find the keys of one ledger; while it has none, nobody is let in."""

    def __init__(self, keys: ApiKeys) -> None:
        self._keys = keys

    def find(self, key: str) -> ApiKey | None:
        """Return what is known of a key; None for one that was never added or was revoked."""
        return self._keys.find(key)


class TenantApp:
    """Serve one tenant's ledger, with an app and a runner of its own."""

    def __init__(self, ledger: Ledger, settings: Settings, limits: ServerLimits, **address: Any) -> None:
        """Start it; `address` has `host`, `port`, `allowed` and `root_path`."""
        self._ledger = ledger
        root_path = address.pop("root_path")
        ledger.journal.blobs.writes_evenly = True
        self._runner = Runner(ledger, limits)
        requests = RequestKeys(self._runner)
        hooks = Hooks(requests.begin, requests.sent, requests.unsent)
        served, access = Served(ledger, settings.serve, self._runner), Access(LedgerKeys(ledger.api_keys), **address)
        self.app = ServerApp(served, HANDLERS, access, root_path=root_path, limits=limits, hooks=hooks)
        self._runner.start()

    def is_idle(self) -> bool:
        """Return whether no exchange is in progress."""
        return not self._runner.counts["exchanges"]

    def close(self) -> None:
        """Close the ledger, after what is in progress was left to other processes."""
        self._runner.stop()
        self.app.stop()
        self._ledger.close()


class TenantsApp:
    """Call the app of the tenant that the key of a request names; requests without such a key are refused."""

    def __init__(self, ledgers: TenantLedgers[TenantApp], limits: ServerLimits, root_path: str, access: Access) -> None:
        self._limits = limits
        self._ledgers = ledgers
        self._apps: set[ServerApp] = set()
        nobodys = cast("Served", None)  # nobody is let in, so that nothing is served from it
        self._nobodys = ServerApp(nobodys, HANDLERS, access, root_path=root_path, limits=limits)

    @property
    def limits(self) -> ServerLimits:
        """Return the limits, which hold for each ledger."""
        return self._limits

    def stop(self) -> None:
        """End the requests in progress because the server stops; called in its event loop."""
        for app in (self._nobodys, *self._apps):
            app.stop()

    def unread(self, refusal: ApiError) -> bytes:
        """Return the answer to a request that could not be read, and log it."""
        return self._nobodys.unread(refusal)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        tenant = _tenant_of(scope)
        if tenant is None:
            await self._nobodys(scope, receive, send)
            return
        try:
            opened = await asyncio.to_thread(self._ledgers.take, tenant)
        except StoreError:
            await self._refuse(scope, receive, send)
            return
        except ThreadledgerError:  # there is no such tenant
            await self._nobodys(scope, receive, send)
            return
        except Exception:
            logger.exception("the ledger of a tenant cannot be opened")
            await self._refuse(scope, receive, send)
            return
        self._apps.add(opened.app)
        try:
            await opened.app(scope, receive, send)
        finally:
            self._apps.discard(opened.app)
            self._ledgers.give_back(tenant)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = RequestInProgress(scope, receive, send, self._limits)
        text = "The ledger of this key cannot be used now: try again."
        await request.refuse(ApiError(503, text, kind=SERVER_ERROR, headers=AGAIN))


def _tenant_of(scope: Scope) -> str | None:
    """Return the tenant that the key of a request names; None if it has no such key."""
    if scope["type"] != "http":
        return None
    headers = Headers(scope=scope)
    given = presented_key(headers, azure="api-key" in headers)
    found = TENANT_KEY.fullmatch(given or "")
    return found[1] if found is not None else None


class TenantServer(Server):
    """Serve the ledgers of all tenants."""

    def __init__(
        self,
        settings: Settings,
        open_ledger: Callable[[Settings], Ledger],
        host: str = "127.0.0.1",
        port: int = PORT_DEFAULT,
        root_path: str = "",
        *,
        allowed_hosts: Collection[str] = (),
        limits: ServerLimits | None = None,
        open_ledgers: int = OPEN_LEDGERS,
    ) -> None:
        """Prepare a server; `open_ledger` opens the ledger of a tenant's settings, and creates none.

        Raises:
            InvalidSettings: the root path is not the beginning of a path, or a route leads to a backend that does not exist.
        """
        settings.serve.require_backends(tuple(dict.fromkeys((*BACKENDS, *settings.named))))
        self.ledgers = TenantLedgers(settings, self._opened, open_ledgers)
        self._open_ledger = open_ledger
        keys, background = NoKey(), [self.ledgers]
        options: dict[str, Any] = {
            "keys": keys,
            "allowed_hosts": allowed_hosts,
            "limits": limits,
            "background": background,
        }
        super().__init__(cast("Served", None), HANDLERS, host, port, root_path, **options)

    def _opened(self, settings: Settings) -> TenantApp:
        ledger = self._open_ledger(settings)
        try:
            address = {"host": self.host, "port": self.port, "allowed": self._allowed_hosts}
            return TenantApp(ledger, settings, self._limits, root_path=self._root_path, **address)
        except BaseException:
            ledger.close()
            raise

    def _made_listener(self, announce: Callable[[], None] = lambda: None) -> ServerListener:
        access = Access(self._keys, self.host, self.port, self._allowed_hosts)
        return ServerListener(TenantsApp(self.ledgers, self._limits, self._root_path, access), announce)
