"""Start, script and inspect the simulator from Python."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from ..listener import url_of
from ..wire import objects
from .answers import AnswerQueue, ScriptedAnswer
from .faults import Fault
from .ids import SeededIds
from .limits import POLL_AFTER_DEFAULT_MS
from .provider import Provider
from .requests import RecordedRequest
from .script import Script, parse_answers, parse_fault, parse_limits
from .server import ServerThread
from .state_file import StateFile
from .store import ProviderStore, SimulatedFile

SEED_BITS = 32


class Simulator:
    """Run a provider on loopback that speaks OpenAI's wire protocol, with scripted answers and faults.

    `port` 0 picks a free port. `script` is a `Script`, or a mapping in the script format. With `api_key`, requests with
    any other key are refused. `models` maps the known models to their shutdown date (ISO 8601) or None; without it, any
    model is accepted except those that the script retires. `clock` returns Unix seconds; rate limits and expiry use it.

    `seed` overrides the script's seed. Without a seed, ids differ from one simulator to the next, as a restarted
    provider never gives an old thread's id to a new thread.

    With `state`, a SQLite file, the next simulator on the file resumes where this one stopped. It takes its ids,
    answers and faults with their counts from the file; the script and the seed only apply to a new file.

    Raises `ScriptError` if the script is invalid.

        with Simulator() as simulator:
            client = OpenAI(base_url=simulator.base_url, api_key="sk-test", max_retries=0)
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        script: Script | Mapping[str, Any] | None = None,
        api_key: str | None = None,
        poll_after_ms: int = POLL_AFTER_DEFAULT_MS,
        *,
        models: Mapping[str, str | None] | None = None,
        seed: int | None = None,
        state: str | Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        wanted = script if isinstance(script, Script) else Script.parse(script or {})
        chosen = next((s for s in (seed, wanted.seed) if s is not None), None)
        self.seed = secrets.randbits(SEED_BITS) if chosen is None else chosen
        store = ProviderStore(
            SeededIds(self.seed), AnswerQueue(wanted.answers), models, set(wanted.retired_models), poll_after_ms, clock
        )
        self.provider = Provider(store, api_key)
        self._host, self._port = host, port
        self._server: ServerThread | None = None
        self._state = state
        self._file: StateFile | None = None
        self._loaded = False
        self.add_faults(wanted.faults)
        for api in wanted.retired_apis:
            self.retire(api)
        self.provider.rates.set(wanted.rate_limits)

    def start(self) -> Simulator:
        """Start listening and return the simulator.

        Raises `OSError` if the address cannot be bound, `RuntimeError` if the simulator is already running, and
        `StateError` if the state file cannot be used.
        """
        if self._server is not None:
            raise RuntimeError("the simulator is already running; call stop() first")
        self._open_state()
        try:
            self._server = ServerThread(self.provider, self._host, self._port)
        except BaseException:
            self._close_state()
            raise
        return self

    def stop(self) -> None:
        """Close every connection; the state is kept, and a later start() serves it again."""
        server, self._server = self._server, None
        if server is not None:
            server.stop()
        self._close_state()

    def serve_forever(self, announce: Callable[[], None] = lambda: None) -> None:
        """Serve until Ctrl-C, which stops the simulator cleanly; start it first if necessary.

        `announce` is called once the simulator is listening: from then on, Ctrl-C is handled.
        """
        if self._server is None:
            self.start()
        try:
            announce()
            if self._server is not None:
                self._server.wait()
        except KeyboardInterrupt:
            pass
        finally:
            self.stop()

    @property
    def base_url(self) -> str:
        """Return the base URL for clients: `http://127.0.0.1:PORT/v1`.

        Raises `RuntimeError` if the simulator is not running.
        """
        return f"{self.control_url.removesuffix('/_simulator')}/v1"

    @property
    def azure_endpoint(self) -> str:
        """Return the endpoint for Azure clients: `http://127.0.0.1:PORT`.

        Raises `RuntimeError` if the simulator is not running.
        """
        return self.control_url.removesuffix("/_simulator")

    @property
    def control_url(self) -> str:
        """Return the URL of the control endpoints: `http://127.0.0.1:PORT/_simulator`.

        Raises `RuntimeError` if the simulator is not running.
        """
        if self._server is None:
            raise RuntimeError("the simulator is not running; call start() first")
        return f"{url_of(self._server.host, self._server.port)}/_simulator"

    @property
    def requests(self) -> list[RecordedRequest]:
        """Return the recorded requests of clients, oldest first; control requests are not included."""
        return self.provider.requests

    def add_fault(self, fault: Fault | str, **action: Any) -> None:
        """Add a fault, given as a `Fault`, or as its `on` and the other keys of the script format.

        For example, `add_fault("POST /responses", refuse={"status": 429}, times=2)` refuses two requests.
        """
        parsed = parse_fault({"on": fault, **action} if isinstance(fault, str) else fault)
        with self.provider.lock:
            self.provider.faults.add(parsed)
        self.provider.save()

    def add_faults(self, faults: Iterable[Fault | Mapping[str, Any]]) -> None:
        """Add several faults in this order, or none if one is invalid."""
        parsed = [parse_fault(fault, f"faults[{index}]") for index, fault in enumerate(faults)]
        with self.provider.lock:
            for fault in parsed:
                self.provider.faults.add(fault)
        self.provider.save()

    def clear_faults(self) -> None:
        """Remove all faults."""
        with self.provider.lock:
            self.provider.faults.clear()
        self.provider.save()

    def answer(self, *answers: ScriptedAnswer | str | Mapping[str, Any]) -> None:
        """Append answers to the queue: texts, {"tool_calls": [{"name": …, "arguments": {…}}]}, or {"output": [items]}."""
        parsed = parse_answers(answers, "answers")
        with self.provider.lock:
            self.provider.store.answers.add(parsed)
        self.provider.save()

    def add_file(
        self,
        content: bytes = b"",
        filename: str = "file.bin",
        purpose: str = "user_data",
        *,
        file_id: str | None = None,
    ) -> str:
        """Add a file without a request, as if an app had uploaded it earlier, and return its id.

        `file_id` sets the id, for a history that names one.
        """
        with self.provider.lock:
            store = self.provider.store
            size, sha256 = len(content), hashlib.sha256(content).hexdigest()
            added = objects.file(file_id or store.ids.short("file-"), store.now(), filename, size, purpose, None)
            path = store.contents.new()
            path.write_bytes(content)
            store.contents.keep(added["id"], path)
            store.files[added["id"]] = SimulatedFile(added, sha256)
        self.provider.save()
        return str(added["id"])

    def lose(self, identifier: str) -> None:
        """Delete an assistant, a thread, a conversation, a response or a file, which answers 404 from now on.

        Raises `KeyError` if there is no object with this id.
        """
        self.provider.lose(identifier)
        self.provider.save()

    def retire(self, api: str) -> None:
        """Shut an API down, as the Assistants API was on 2026-08-26: `retire("assistants")`.

        Raises `ValueError` for an unknown API.
        """
        self.provider.retire(api)
        self.provider.save()

    def retire_model(self, model: str) -> None:
        """Retire a model: requests for it are answered with 404 model_not_found from now on."""
        with self.provider.lock:
            self.provider.store.retired_models.add(model)
        self.provider.save()

    def limit_rates(self, requests_per_minute: int | None = None, tokens_per_minute: int | None = None) -> None:
        """Set the rate limits, which start full; None removes a limit."""
        limits = parse_limits({"requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute})
        with self.provider.lock:
            self.provider.rates.set(limits)
        self.provider.save()

    def reset(self) -> None:
        """Delete all objects, recorded requests, counts, scripted answers, faults, limits and retirements."""
        self.provider.reset()
        self.provider.save()

    def _open_state(self) -> None:
        if self._state is None:
            return
        opened = StateFile(self._state)
        with self.provider.lock:
            # The file is read only once; afterwards the state in memory is authoritative.
            if not opened.is_new and not self._loaded:
                opened.load(self.provider)
                self.seed = self.provider.store.ids.seed
            self._loaded = True
            self._file = opened
            self.provider.keeper = partial(opened.save, self.provider)
            self.provider.save()

    def _close_state(self) -> None:
        with self.provider.lock:
            opened, self._file, self.provider.keeper = self._file, None, None
            if opened is not None:
                opened.save(self.provider)
                opened.close()

    def __enter__(self) -> Simulator:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
