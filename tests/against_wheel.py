"""Run the tests against a built wheel in a separate environment and from a folder that does not contain the source.

    python tests/against_wheel.py build/wheel

The environment has the locked versions, except for SQLAlchemy, which is from the oldest supported release series.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OLDEST_SQLALCHEMY = "sqlalchemy>=2.0.40,<2.1"
ON_ANOTHER_SQLALCHEMY = (
    *(
        "audit_figures",
        "follow",
        "job_claims",
        "notebooks",
        "opening",
        "postgres",
        "schema",
        "search",
        "upkeep",
        "views",
    ),
    *("store", "store_conformance", "store_outages"),
)
"""Tests of adapters that depend on the version of SQLAlchemy, by the name of their file."""
OF_THE_WHEEL = (
    *("test_a_run_failed.py", "test_examples.py", "test_readme.py", "adapters/test_settings.py"),
    *("cli/test_contract.py", "cli/test_reference.py"),
)
"""Tests that use the package as its users do: by its commands, examples and documents. All others have run against the source;
what they prove depends neither on the wheel nor on the version of a library."""
IMPORT_ALL = """
import importlib, pkgutil, sys
import threadledger
assert threadledger.__file__.startswith(sys.prefix), threadledger.__file__
for module in pkgutil.walk_packages(threadledger.__path__, "threadledger."):
    importlib.import_module(module.name)
"""
"""Program that imports every module of the wheel."""
BESIDE = ("README.md", "pyproject.toml", "requirements.lock", ".env.example", "CHANGELOG.md")


def main(place: str) -> int:
    wheel = next(Path(place).resolve().glob("*.whl"))
    with tempfile.TemporaryDirectory(prefix="threadledger-wheel-") as scratch:
        tree, environment = Path(scratch, "tree"), Path(scratch, "venv")
        shutil.copytree(ROOT / "tests", tree / "tests", ignore=shutil.ignore_patterns("__pycache__"))
        for folder in ("docs", "examples", "profiles"):
            shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
        for name in BESIDE:
            shutil.copy(ROOT / name, tree / name)
        constraints = Path(scratch, "constraints.txt")
        constraints.write_text(_with_oldest_sqlalchemy((ROOT / "requirements.lock").read_text()))
        python = _install(wheel, environment, constraints)
        # With -P and without PYTHONPATH, neither this folder nor the source can be imported instead of the wheel.
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        subprocess.run([str(python), "-P", "-c", IMPORT_ALL], cwd=tree, env=env, check=True)
        command = [
            str(python),
            "-P",
            "-m",
            "pytest",
            "-q",
            "-n",
            "auto",
            "--dist",
            "worksteal",
            "-m",
            "not crash and not matrix",
            *(f"tests/adapters/test_{name}.py" for name in ON_ANOTHER_SQLALCHEMY),
            *(f"tests/{name}" for name in OF_THE_WHEEL),
        ]
        return subprocess.run(command, cwd=tree, env=env, check=False).returncode


def _with_oldest_sqlalchemy(lock: str) -> str:
    constraints, replaced = re.subn(r"^sqlalchemy==\S+", OLDEST_SQLALCHEMY, lock, flags=re.MULTILINE)
    assert replaced == 1, "requirements.lock does not pin sqlalchemy"
    return constraints


def _install(wheel: Path, environment: Path, constraints: Path) -> Path:
    python = environment / "bin" / "python"
    lock = ["--constraint", str(constraints)]
    uv = shutil.which("uv")
    if uv:
        subprocess.run([uv, "venv", "--quiet", "--seed", "--python", sys.executable, environment], check=True)
        install = [uv, "pip", "install", "--quiet", "--python", python, *lock]
    else:
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--upgrade", "pip>=25.1"], check=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *lock]
    subprocess.run([*install, wheel, "--group", f"{ROOT / 'pyproject.toml'}:test"], check=True)
    return python


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
