"""Check the layer rules on the imports: domain → eventsourcing; adapters → domain; cli → everything."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

LAYERS = ("domain", "adapters", "cli")

FOREIGN = {
    "eventsourcing",
    "sqlalchemy",
    "openai",
    "click",
    "rich",
    "starlette",
    "uvicorn",
    "genai_prices",
    "opentelemetry",
    "pydantic_settings",
}
FAMILIES = {"pydantic": "pydantic_settings", "dotenv": "pydantic_settings", "httpx2": "openai"}
"""Libraries that are part of the interface of another one, which installs them."""


ASKING_MODULES = {
    "asking",
    "async_chat",
    "async_ledger",
    "chat",
    "conversing",
    "ledger",
    "own_runs",
    "recorded_tools",
    "rerun",
}
"""Modules of the domain from which a backend can be called."""


def modules_of(layer: str) -> list[Path]:
    package = importlib.import_module(f"threadledger.{layer}")
    return sorted(Path(package.__path__[0]).rglob("*.py"))


def imports_of(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield (module, whether it is imported at import time) for each import in a file; relative imports keep their dots."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    at_load = {id(node) for node in at_load_time(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in at_load) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield ("." * node.level + (node.module or ""), id(node) in at_load)


def at_load_time(tree: ast.Module) -> Iterator[ast.AST]:
    for node in tree.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node


def foreign_of(path: Path) -> set[str]:
    roots = {name.split(".")[0] for name, _ in imports_of(path) if not name.startswith(".")}
    return {FAMILIES.get(root, root) for root in roots} - set(sys.stdlib_module_names) - {"threadledger", "__future__"}


ALL = [(layer, path) for layer in LAYERS for path in modules_of(layer)]
NAMES = [f"{layer}/{path.name}" for layer, path in ALL]


@pytest.mark.parametrize("path", modules_of("domain"), ids=lambda path: path.name)
def test_the_domain_imports_only_the_standard_library_and_eventsourcing(path: Path) -> None:
    assert foreign_of(path) <= {"eventsourcing"}
    assert not any(name.startswith("threadledger") for name, _ in imports_of(path))


@pytest.mark.parametrize("path", modules_of("adapters"), ids=lambda path: path.name)
def test_an_adapter_knows_one_foreign_library_and_no_command(path: Path) -> None:
    libraries = foreign_of(path)
    assert libraries <= FOREIGN
    assert len(libraries - {"eventsourcing"}) <= 1, f"{path.name} knows {libraries}"
    assert not any(name.startswith("threadledger.cli") for name, _ in imports_of(path))


@pytest.mark.parametrize(("layer", "path"), ALL, ids=NAMES)
def test_layers_meet_only_at_their_public_face(layer: str, path: Path) -> None:
    for name, _ in imports_of(path):
        if name.startswith("threadledger."):
            _, met, *deeper = name.split(".")
            assert met != layer, f"{path.name} imports its own layer by {name}: inside a layer imports are relative"
            assert not deeper, f"{path.name} imports {name}: across layers only the public face"


@pytest.mark.parametrize("path", modules_of("cli"), ids=lambda path: path.name)
def test_a_command_loads_nothing_heavy_before_it_runs(path: Path) -> None:
    heavy = {"sqlalchemy", "openai", "eventsourcing", "pydantic", "pydantic_settings", "rich", "uvicorn", "starlette"}
    loaded = {name for name, at_load in imports_of(path) if at_load}
    assert not {name.split(".")[0] for name in loaded} & heavy
    assert not {"threadledger.domain", "threadledger.adapters"} & loaded


def test_rebuild_has_no_backend_to_call() -> None:
    domain = Path(importlib.import_module("threadledger.domain").__path__[0])
    reached, waiting = set(), ["rebuild"]
    while waiting:
        name = waiting.pop()
        if name in reached:
            continue
        reached.add(name)
        tree = ast.parse((domain / f"{name}.py").read_text(encoding="utf-8"))
        waiting += [
            node.module
            for node in at_load_time(tree)
            if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module
        ]
    assert not reached & ASKING_MODULES
    for name in ("rebuild", "delivery"):
        words = {
            node.id if isinstance(node, ast.Name) else node.attr
            for node in ast.walk(ast.parse((domain / f"{name}.py").read_text(encoding="utf-8")))
            if isinstance(node, (ast.Name, ast.Attribute))
        }
        assert not words & {"backends", "Backend", "answer", "Asking"}


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import threadledger", ["openai", "sqlalchemy", "eventsourcing", "pydantic", "click"]),
        ("import threadledger.domain", ["openai", "sqlalchemy", "pydantic", "click"]),
        (
            "import threadledger; threadledger.open('sqlite:///x.db').close()",
            ["openai", "click", "starlette", "uvicorn", "psycopg"],
        ),
        (
            "import threadledger.cli; threadledger.cli.main(['--version'])",
            ["openai", "sqlalchemy", "eventsourcing", "rich"],
        ),
        (
            "import threadledger.cli; threadledger.cli.main(['--help'])",
            ["openai", "sqlalchemy", "eventsourcing", "rich"],
        ),
    ],
)
def test_nothing_heavy_is_loaded_before_it_is_needed(statement: str, absent: list[str], tmp_path: Path) -> None:
    check = f"{statement}\nimport sys\nprint('LOADED', [name for name in {absent!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED []"


@pytest.mark.parametrize(("layer", "path"), ALL, ids=NAMES)
def test_a_file_has_one_subject_and_a_function_fits_a_screen(layer: str, path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert (node.end_lineno or 0) - node.lineno < 70, node.name
