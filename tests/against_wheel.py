"""Run the tests against a built wheel: in an environment of its own, from a folder where the source is out of reach.

python tests/against_wheel.py build/wheel
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
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
        python = _install(wheel, environment)
        # -P and no PYTHONPATH: neither this folder nor the source can stand in for the wheel.
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        command = [str(python), "-P", "-m", "pytest", "-q", "-n", "auto", "-m", "not crash"]
        return subprocess.run(command, cwd=tree, env=env, check=False).returncode


def _install(wheel: Path, environment: Path) -> Path:
    python = environment / "bin" / "python"
    lock = ["--constraint", str(ROOT / "requirements.lock")]
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
