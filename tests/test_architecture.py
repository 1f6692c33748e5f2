"""Check the rules of the house on the source: layers, rooms, faces, sizes, names, and what is loaded when.

Each test collects all offenders. Imports inside functions and for type checkers count, unless a test says otherwise.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

LAYERS = ("domain", "adapters", "cli")
ROOMS = ("failures", "conversation", "memory", "effects", "journal", "threads", "exchange", "replay", "ledger")
"""Rooms of the domain; an import goes to the left. Modules at the root of the domain are below all rooms."""
OPEN_MODULES = {
    *(
        f"threadledger.domain.conversation.{name}"
        for name in (
            "events",
            "messages",
            "parts",
            "attachments",
            "items",
            "native",
            "session_items",
            "tool_secrets",
            "run_filters",
            "description",
            "listing",
            "decisions",
            "tenants",
            "assistants",
            "completions",
            "files",
            "file_text",
        )
    ),
    *(
        f"threadledger.domain.journal.{name}"
        for name in (
            "blobs",
            "budgets",
            "uploads",
            "places",
            "descriptions",
            "outcomes",
            "lookups",
            "served_notes",
            "worker_notes",
            "webhooks",
            "file_lists",
        )
    ),
    *(f"threadledger.domain.memory.{name}" for name in ("rendering", "sending", "tree")),
    *(
        f"threadledger.domain.exchange.{name}"
        for name in ("recorded_tools", "served", "served_responses", "client_memory", "provider_limits")
    ),
    "threadledger.domain.failures.shared_health",
}
OPEN_ROOM = "threadledger.adapters.wire"
"""Modules that a room shows in addition to its face, and a room of which all modules are shown."""

FUNCTION_LINES_MAX = 70
FACE_NAMES_MAX = 30
DOMAIN_FACE_NAMES_MAX = 80
ROOM_PAIRS_MAX = 30
LOADED_LINES_MAX = 16_500
"""Maximum lines of our modules that `open()` and one question load, which replace SQLAlchemy and pydantic on SQLite."""

FAMILIES = {"httpx2": "openai", "h11": "uvicorn"}
"""Libraries that are part of the interface of another one, which installs them."""
FOREIGN = {
    *("eventsourcing", "sqlalchemy", "openai", "click", "rich", "starlette", "uvicorn"),
    *("genai_prices", "opentelemetry", "dotenv", "anthropic", "msgspec", "psycopg", "fsspec", "agents"),
    *("procrastinate", "croniter"),
}
SLOW = {
    *("sqlalchemy", "openai", "anthropic", "eventsourcing", "pydantic", "dotenv"),
    *("rich", "uvicorn", "starlette"),
}

CALLING = {
    *("exchange.exchange", "exchange.runs", "exchange.conversing", "exchange.repeat", "exchange.recorded_tools"),
    "exchange.branching",
    *("ledger.chat", "ledger.ledger", "ledger.awaited", "replay.rerun"),
}
"""Modules of the domain from which a backend can be called."""

EARLIER_NAMES = """
    ADVICE BACKEND_UNWELL BY_FAILURE CATCH_UP_ATTEMPTS_MAX CONVERSATION DIAGNOSIS_VERSION IMPORTED LEFT_IN_THREAD
    LOGGERS RULE_VERSION RUN_TOPICS STATE_SCHEMA SUMMARY_BY TREND_PARTS ActiveRuns AllBackendsFailed Answer Appending
    Asking AsyncChat AsyncDriver AsyncLedger AsyncOwnRun Backend BackendEnd BackendHealth BackendRequest Call Candidate
    Cause Chat Comparison Completion Conflict Conversation ConversationBusy ConversationChanged ConversationNotFound
    ConversationState Conversing Cooling CorruptEvent DatabaseMissing DecideAppend Decision Delivered Delta Difference
    Doubt DoubtedItem Effect Effects EventLog EventMapper ExchangeAnswered ExchangeEnd ExchangeRecord Exchanges Failure
    FailureFilter FailureGroup FailureGroups Fate File FileMissing FileRebuildPlan Finding ForeignDatabase GroupName
    GroupNotFound GroupState Health IdempotencyConflict Image InvalidInput InvalidKey InvalidMessage InvalidProfile
    InvalidSettings JobClaims JobState Jobs Journal JournaledMessage LaggingThread Lags Ledger LoggedEvent LoggedRow
    Memory MemoryChange MemoryDiff MemoryFile Mend Message MirrorHead MirrorHeads NewerSchema NotFound NotedThread
    Observer Outbox Outside OwnRun Part Pause PlainJSON Plan Policy Profile ProviderRefused RebuildItem RebuildPlan
    ReconcileItem ReconcilePlan RecordedExchange RecordedFailure RecordedRun Redacting Rendering Replay RerunItem
    RerunPlan Role Row RunEnd RunLog RunNotFound RunNotOpen RunPlan RunRecord SeenRun ShownMemory SideBySide Source
    StartedOver StoreError StoreUnavailable StoredRow StreamHead StreamPart SummaryRow Tell Text ThreadItem ThreadMirror
    ThreadState ThreadledgerError ToolCall ToolFunction ToolUse Upkeep Usage Use Verbatim Verification Views Work advise
    attended bring_up common_prefix compare cooling_after defined_profile diagnose diff_memories differences digest
    errors estimate_tokens events evolve exchange facts_of fields_of fold_exchanges fold_memory follow_failures from_iso
    group_id health_of heard in_order is_uncertain is_worth_a_retry keep_secret key_of lacking limits
    may_succeed_when_retried memory_shown named_group new_id normalised not_bound now open_doubts parse_message
    parse_profile percentile perform recorded_answer recorded_exchange recorded_failure redact redact_details
    response_items restore restore_message retried said sent_again state_of stream_of surplus taken_out tallied tells
    text_message threads_behind to_iso tool_names whole_text
"""
"""Names that `threadledger.domain` offered before it had rooms. Apps may import them for ever."""

EARLIER_MEMBERS = "AsyncDriver.heard Fate.CAME Fate.WENT Lags.looked_at Ledger.outside Memory.mended"
"""Members of these classes that have another name now."""

EARLIER_ADAPTERS = {
    "formats": "Found ImportSource",
    "openai": "SeenAssistant",
    "simulator": "Failure RawReply RecordedRequest Refusal",
    "sql": "Processor Recorder Tracker leaf_hash",
}
"""The same for rooms of the adapters: names that their faces no longer list."""


@dataclass(frozen=True)
class Import:
    """Describe one import: an absolute module, the name imported from it, if any, and when it happens."""

    module: str
    name: str | None
    at_load: bool
    for_types: bool
    relative: bool

    @property
    def within(self) -> tuple[str, ...]:
        """Return the parts of the module's name after the layer."""
        return tuple(self.module.split(".")[2:])


@dataclass(frozen=True)
class Source:
    """Hold one source file by the name of its module."""

    module: str
    path: Path

    @property
    def layer(self) -> str:
        return self.module.split(".")[1]

    @property
    def room(self) -> str | None:
        """Return the folder of the layer that the file is in, or None for a file at the root."""
        parts = self.module.split(".")[2:]
        return parts[0] if len(parts) > 1 or (parts and self.is_face) else None

    @property
    def is_face(self) -> bool:
        return self.path.name == "__init__.py"

    @property
    def package(self) -> str:
        return self.module if self.is_face else self.module.rpartition(".")[0]

    @functools.cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @functools.cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @functools.cached_property
    def imports(self) -> list[Import]:
        at_load = {id(node) for node in self.tree.body}
        for_types = {
            id(inner)
            for node in ast.walk(self.tree)
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            for inner in ast.walk(node)
        }
        found = []
        for node in ast.walk(self.tree):
            when = (id(node) in at_load, id(node) in for_types)
            if isinstance(node, ast.Import):
                found += [Import(alias.name, None, *when, relative=False) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                module = "." * node.level + (node.module or "")
                resolved = importlib.util.resolve_name(module, self.package)
                found += [Import(resolved, alias.name, *when, relative=bool(node.level)) for alias in node.names]
        return found


@functools.cache
def sources() -> Mapping[str, Source]:
    """Return all source files of the layers by module."""
    found = {}
    for layer in LAYERS:
        folder = Path(importlib.import_module(f"threadledger.{layer}").__path__[0])
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            module = ".".join(("threadledger", layer, *(part for part in parts if part != "__init__")))
            found[module] = Source(module, path)
    return found


def sources_of(*layers: str) -> list[Source]:
    return [source for source in sources().values() if source.layer in layers]


def foreign_of(source: Source) -> set[str]:
    roots = {each.module.split(".")[0] for each in source.imports}
    return {FAMILIES.get(root, root) for root in roots} - set(sys.stdlib_module_names) - {"threadledger"}


def nodes_of(source: Source, *kinds: type[ast.AST]) -> Iterator[Any]:
    return (node for node in ast.walk(source.tree) if isinstance(node, kinds))


# Layers


def test_the_domain_imports_only_the_standard_library_and_its_event_library() -> None:
    offenders = {
        source.module: (foreign_of(source) - {"eventsourcing", "msgspec"}, [each.module for each in outward])
        for source in sources_of("domain")
        for outward in [
            [each for each in source.imports if each.module.startswith("threadledger") and not each.relative]
        ]
        if foreign_of(source) - {"eventsourcing", "msgspec"} or outward
    }
    assert not offenders


def test_an_adapter_knows_one_foreign_library_and_no_command() -> None:
    offenders = {}
    for source in sources_of("adapters"):
        libraries, upward = (
            foreign_of(source),
            [each.module for each in source.imports if "cli" in each.module.split(".")],
        )
        if libraries - FOREIGN or len(libraries - {"eventsourcing", "msgspec"}) > 1 or upward:
            offenders[source.module] = (libraries, upward)
    assert not offenders


def test_layers_import_each_other_downwards_and_only_by_their_faces() -> None:
    offenders = []
    for source in sources().values():
        for each in source.imports:
            if not each.module.startswith("threadledger."):
                continue
            met = each.module.split(".")[1]
            if met not in LAYERS:  # `threadledger._version`
                continue
            if LAYERS.index(met) > LAYERS.index(source.layer):
                offenders.append(f"{source.module} imports {each.module}, which is above it")
            elif met == source.layer and not each.relative:
                offenders.append(f"{source.module} imports {each.module} by its full name inside a layer")
            elif met != source.layer and not is_shown(each):
                offenders.append(f"{source.module} imports {each.name} from {each.module}, not from a face")
    assert not offenders


def is_shown(each: Import) -> bool:
    """Return whether an import from elsewhere goes to the root of a layer, a room's face or a module that it shows."""
    if each.module not in sources():
        return False
    met = sources()[each.module]
    if each.module in OPEN_MODULES or met.package == OPEN_ROOM or (met.room is None and not met.is_face):
        return True
    named = f"{each.module}.{each.name}"
    if named in sources() and named not in OPEN_MODULES:
        return met.room is None  # a module or room at the root of a layer
    return named in OPEN_MODULES or each.name in face_names(met)


# Rooms


def test_a_room_imports_the_faces_of_lower_rooms_and_few_pairs_of_rooms_know_each_other() -> None:
    offenders, pairs = [], set()
    for source in sources_of("domain"):
        for each in source.imports:
            met = each.within[0] if each.within else each.name
            if not each.relative or met not in ROOMS or source.room == met or source.module == "threadledger.domain":
                continue
            if source.room not in ROOMS:  # below all rooms, so it may only name their types
                offenders += [] if each.for_types else [f"{source.module} imports {met}, which is above it"]
                continue
            pairs.add((source.room, met))
            if ROOMS.index(met) > ROOMS.index(source.room):
                offenders.append(f"{source.module} imports {met}, which is above it")
            if not is_shown(each):
                offenders.append(f"{source.module} imports {each.name} from {each.module}, not from its face")
    assert not offenders
    assert not {pair for pair in pairs if pair[::-1] in pairs}
    assert len(pairs) <= ROOM_PAIRS_MAX, sorted(pairs)


def test_adapters_import_each_other_only_by_their_faces() -> None:
    offenders = [
        f"{source.module} imports {each.name} from {each.module}"
        for source in sources_of("adapters")
        if source.module != "threadledger.adapters"
        for each in source.imports
        if each.relative and each.within and each.within[0] != source.room and not is_shown(each)
    ]
    assert not offenders


# Faces


def face_names(source: Source) -> list[str]:
    """Return `__all__` of a face as it is written."""
    for node in source.tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return []


@functools.cache
def lazy_table(source: Source) -> dict[str, str]:
    """Return the names that a face loads on first use, each with its module relative to the face."""
    named = {
        ast.unparse(node.targets[0]): node.value
        for node in source.tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)
    }
    if "_PLACES" in named:  # name to module
        return {name: home.lstrip(".") for name, home in ast.literal_eval(named["_PLACES"]).items()}
    calls = [call for call in nodes_of(source, ast.Call) if ast.unparse(call.func) == "lazy_face"]
    tables = [named.get(ast.unparse(call.args[1]), call.args[1]) for call in calls]  # without names of earlier versions
    return {name: home for table in tables for home, names in ast.literal_eval(table).items() for name in names.split()}


def lazy_faces() -> list[Source]:
    return [source for source in sources().values() if source.is_face and lazy_table(source)]


def test_a_face_has_few_names() -> None:
    sizes = {source.module: len(face_names(source)) for source in lazy_faces() if source.room}
    assert {f"threadledger.domain.{room}" for room in ROOMS} <= sizes.keys()
    assert {module: size for module, size in sizes.items() if size > FACE_NAMES_MAX} == {}


def test_the_types_the_names_and_the_lazy_table_of_a_face_agree() -> None:
    offenders = {}
    for source in lazy_faces():
        typed = {
            each.name: each.module.removeprefix(source.module).lstrip(".")
            for each in source.imports
            if each.for_types and not each.module.endswith(".faces")
        }
        loaded, listed = lazy_table(source), face_names(source)
        plain = {each.name for each in source.imports if each.at_load}
        problems = {
            "typed, not loaded": typed.items() - loaded.items(),
            "loaded, not typed": loaded.items() - typed.items(),
            "listed, not loaded": set(listed) - loaded.keys() - plain,
            "loaded, not listed": loaded.keys() - set(listed),
            "listed twice": [name for name, count in Counter(listed).items() if count > 1],
            "missing": [name for name in listed if not hasattr(importlib.import_module(source.module), name)],
        }
        offenders[source.module] = {problem: names for problem, names in problems.items() if names}
    assert {module: problems for module, problems in offenders.items() if problems} == {}


def test_no_name_of_a_face_is_the_name_of_a_module_of_its_room() -> None:
    """Importing the module would replace the name."""
    offenders = {
        source.module: both
        for source in lazy_faces()
        if (both := {name for name in lazy_table(source) if f"{source.module}.{name}" in sources()})
    }
    assert offenders == {}


def test_the_domain_has_a_small_face_and_every_name_that_it_ever_offered() -> None:
    domain = importlib.import_module("threadledger.domain")
    assert len(domain.__all__) <= DOMAIN_FACE_NAMES_MAX
    assert [name for name in EARLIER_NAMES.split() if not hasattr(domain, name)] == []
    assert [
        name for name in EARLIER_MEMBERS.split() if not hasattr(getattr(domain, name.split(".")[0]), name.split(".")[1])
    ] == []
    assert isinstance(domain.events, ModuleType)


def test_a_room_of_the_adapters_still_offers_what_it_ever_offered() -> None:
    rooms = {room: importlib.import_module(f"threadledger.adapters.{room}") for room in EARLIER_ADAPTERS}
    missing = [
        f"{room}.{name}"
        for room, names in EARLIER_ADAPTERS.items()
        for name in names.split()
        if not hasattr(rooms[room], name)
    ]
    assert missing == []


# Sizes and names


def test_a_function_fits_a_screen() -> None:
    offenders = {
        f"{source.module}.{node.name}": lines
        for source in sources().values()
        for node in nodes_of(source, ast.FunctionDef, ast.AsyncFunctionDef)
        if (lines := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LINES_MAX
    }
    assert offenders == {}


def test_a_class_name_stands_for_one_class() -> None:
    homes = defaultdict(list)
    for source in sources_of("domain", "adapters"):
        for node in nodes_of(source, ast.ClassDef):
            homes[node.name].append(source.module)
    assert {name: modules for name, modules in homes.items() if len(modules) > 1} == {}


def test_work_is_only_yielded_where_its_result_has_a_type() -> None:
    """`x = yield from work(...)` has the type of the function's result; `yield Work(...)` has none."""
    offenders = []
    for source in sources_of("domain", "adapters"):
        typed = {
            id(inner) for node in nodes_of(source, ast.FunctionDef) if node.name == "work" for inner in ast.walk(node)
        }
        offenders += [
            f"{source.module}:{node.lineno}"
            for node in nodes_of(source, ast.Yield)
            if id(node) not in typed
            and isinstance(node.value, ast.Call)
            and ast.unparse(node.value.func).split(".")[-1] == "Work"
        ]
    assert not offenders, "\n".join(offenders)


# What is loaded, and what can be reached


def test_a_command_loads_nothing_heavy_before_it_runs() -> None:
    heavy = SLOW | {"threadledger.domain", "threadledger.adapters"}
    offenders = [
        f"{source.module} imports {each.module}"
        for source in sources_of("cli")
        for each in source.imports
        if each.at_load and ({each.module.split(".")[0], ".".join(each.module.split(".")[:2])} & heavy)
    ]
    assert not offenders, "\n".join(offenders)


def homes_of(each: Import) -> Iterator[str]:
    """Yield the modules that provide what an import names: through a face, the home of the name."""
    yield each.module
    named = f"{each.module}.{each.name}"
    if named in sources():
        yield named
    elif each.module in sources() and (home := lazy_table(sources()[each.module]).get(each.name or "")):
        yield f"{each.module}.{home}"


def test_rebuild_and_reconcile_have_no_backend_to_call() -> None:
    domain = "threadledger.domain"
    reached: dict[str, str] = {}
    waiting = [(f"{domain}.replay.rebuild", ""), (f"{domain}.replay.reconcile", "")]
    while waiting:
        module, by = waiting.pop()
        if module in reached or module not in sources():
            continue
        reached[module] = by
        if not sources()[module].is_face:  # a face loads only what is named
            inner = (each for each in sources()[module].imports if not each.for_types)
            waiting += [(home, module) for each in inner for home in homes_of(each)]
    assert {module: reached[f"{domain}.{module}"] for module in CALLING if f"{domain}.{module}" in reached} == {}
    assert {f"{domain}.threads.{name}" for name in ("outbox", "delivery")} <= reached.keys()
    writing = ("delivery", "linked_thread", "outbox", "verification")
    for name in ("replay.rebuild", "replay.reconcile", *(f"threads.{name}" for name in writing)):
        source = sources()[f"{domain}.{name}"]
        words = {
            node.id if isinstance(node, ast.Name) else node.attr for node in nodes_of(source, ast.Name, ast.Attribute)
        }
        assert not words & {"backends", "Backend", "answer", "Exchange", "Runs", "services", "Services"}, name


NOT_LOADED_BY = {
    "import threadledger": ("openai", "sqlalchemy", "eventsourcing", "pydantic", "click"),
    "import threadledger.domain": ("openai", "sqlalchemy", "pydantic", "click"),
    "import threadledger; threadledger.open('sqlite:///x.db').close()": (
        *("openai", "anthropic", "click", "starlette", "uvicorn", "psycopg"),
        *(
            "threadledger.adapters.sql.postgres",
            "threadledger.adapters.simulator",
            "threadledger.domain.replay.rebuild",
        ),
    ),
    "import threadledger.cli; threadledger.cli.main(['--version'])": ("openai", "sqlalchemy", "eventsourcing", "rich"),
    "import threadledger.cli; threadledger.cli.main(['--help'])": ("openai", "sqlalchemy", "eventsourcing", "rich"),
}


def test_nothing_heavy_is_loaded_before_it_is_needed(tmp_path: Path) -> None:
    offenders = {}
    for statement, absent in NOT_LOADED_BY.items():
        check = f"{statement}\nimport sys\nprint('LOADED', *[name for name in {absent!r} if name in sys.modules])"
        loaded = run_python(check, cwd=tmp_path).splitlines()[-1].split()
        assert loaded[0] == "LOADED"
        offenders[statement] = loaded[1:]
    assert {statement: loaded for statement, loaded in offenders.items() if loaded} == {}


LIGHT_COMMANDS = (
    ("show", "k", "-o", "json"),
    ("events", "-o", "json"),
    ("append", "k", "user", "Hello again."),
    ("list", "-o", "json"),
    ("audit", "failures", "-o", "json"),
    ("db", "status", "-o", "json"),
)
"""Commands that start in a few times the time of a bare click command."""


def test_the_commands_of_every_day_load_no_slow_library_on_sqlite(tmp_path: Path) -> None:
    store = """
import threadledger
with threadledger.open("sqlite:///threadledger.db") as ledger:
    ledger.conversation("k").append("user", "Hello.")
    with ledger.conversation("k").run("own", "m") as run:
        run.complete("Hi.")
"""
    run_python(store, cwd=tmp_path)
    slow = {"sqlalchemy", "pydantic", "pydantic_settings", "dotenv", "openai", "rich", "asyncio", "ssl"}
    offenders = {}
    for arguments in LIGHT_COMMANDS:
        program = f"import sys, threadledger.cli\nassert threadledger.cli.main({arguments!r}) == 0\nprint(*sys.modules)"
        loaded = run_python(program, cwd=tmp_path).splitlines()[-1].split()
        offenders[arguments] = slow & set(loaded)
    assert {arguments: loaded for arguments, loaded in offenders.items() if loaded} == {}


READING_COMMANDS = (("list",), ("list", "--search", "word"), ("show", "k"), ("audit", "failures"), ("audit", "summary"))
NOT_LOADED_BY_READING = (
    *("openai", "starlette", "uvicorn", "threadledger.adapters.simulator", "threadledger.adapters.openai"),
    *("threadledger.adapters.formats", "threadledger.adapters.sql.upkeep", "threadledger.adapters.sql.notebooks"),
    *("threadledger.domain.exchange", "threadledger.domain.threads", "threadledger.domain.replay"),
)


def test_a_command_that_reads_loads_neither_backends_nor_threads_nor_replay(tmp_path: Path) -> None:
    store = (
        "import threadledger; threadledger.open('sqlite:///threadledger.db').conversation('k').append('user', 'Hello.')"
    )
    run_python(store, cwd=tmp_path)
    for arguments in READING_COMMANDS:
        program = f"import sys, threadledger.cli\nassert threadledger.cli.main({arguments!r}) == 0\nprint(*sys.modules)"
        loaded = run_python(program, cwd=tmp_path).splitlines()[-1].split()
        assert "threadledger.domain.journal" in loaded
        assert not set(loaded) & set(NOT_LOADED_BY_READING), arguments


ONE_QUESTION = """
import pathlib, sys
import threadledger
with threadledger.open("sqlite:///x.db", openai_base_url=sys.argv[1], openai_api_key="k", **OPTIONS) as ledger:
    ledger.conversation("k").ask("Where is it?")
ours = {module.__file__ for name, module in sys.modules.items() if name.split(".")[0] == "threadledger"}
for path in ours:
    print(len(pathlib.Path(path).read_text(encoding="utf-8").splitlines()), path)
"""
CHAT_ONLY = {"backends": ("chat",), "threads": "none"}


def test_opening_a_ledger_and_asking_loads_few_lines(tmp_path: Path, simulator: Any) -> None:
    run_python("import threadledger\nthreadledger.open('sqlite:///x.db').close()", cwd=tmp_path)  # it is created once
    printed = run_python(ONE_QUESTION.replace("OPTIONS", repr(CHAT_ONLY)), simulator.base_url, cwd=tmp_path)
    loaded = sorted(((int(line.split()[0]), line.split()[1]) for line in printed.splitlines()), reverse=True)
    assert len(loaded) > len(ROOMS)
    assert sum(lines for lines, _ in loaded) <= LOADED_LINES_MAX, loaded


FIRST_RUN = """
import sys, threadledger
class Observer:
    def run_started(self, run):
        print("openai.resources.chat.completions" in sys.modules)
    def run_ended(self, end): pass
    def exchange_ended(self, end): pass
given = {"openai_base_url": sys.argv[1], "openai_api_key": "k", "backends": ("chat",), "threads": "none"}
with threadledger.open("sqlite:///x.db", observer=Observer(), **given) as ledger:
    print("openai" in sys.modules)
    ledger.conversation("k").ask("Where is it?")
"""


def test_the_sdk_is_loaded_after_the_ledger_is_opened_and_before_a_run_starts(tmp_path: Path, simulator: Any) -> None:
    assert run_python(FIRST_RUN, simulator.base_url, cwd=tmp_path).split() == ["False", "True"]


def run_python(program: str, *arguments: str, cwd: Path) -> str:
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, text=True, check=True).stdout


# The way of a question


UNCOUNTED = {"ids", "limits", "keys", "faces"}
"""Small modules that are used everywhere."""
ENTERED_MAX = {"append": 16, "ask": 26}


@pytest.mark.parametrize("verb", ENTERED_MAX)
def test_a_second_call_passes_through_few_files(verb: str, db_url: str, simulator: Any) -> None:
    """Count files of which a function is entered in the caller's thread, on a chat-only ledger on the SDK's backend."""
    import threadledger

    folders = {str(Path(threadledger.__path__[0])): "package"} | {
        importlib.import_module(f"threadledger.{layer}").__path__[0]: layer for layer in LAYERS
    }
    entered: dict[str, None] = {}

    def enter(frame: Any, event: str, _argument: Any) -> None:
        path = Path(frame.f_code.co_filename)
        folder = next((folder for folder in folders if path.is_relative_to(folder)), None)
        if event == "call" and folder and path.stem not in UNCOUNTED and path.name != "__init__.py":
            entered[f"{folders[folder]}/{path.relative_to(folder)}"] = None

    with threadledger.open(db_url, openai_base_url=simulator.base_url, openai_api_key="k", **CHAT_ONLY) as ledger:
        chat = ledger.conversation("k")
        calls = {"append": lambda: chat.append("user", "Hello."), "ask": lambda: chat.ask("Where is it?")}
        calls["append"](), calls["ask"]()
        sys.setprofile(enter)
        try:
            calls[verb]()
        finally:
            sys.setprofile(None)
    assert len(entered) > 5
    assert len(entered) <= ENTERED_MAX[verb], "\n".join(entered)
