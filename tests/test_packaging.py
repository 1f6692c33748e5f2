"""Check that the wheel contains the same files as the repository, under one import name."""

from __future__ import annotations

import re
import shutil
import zipfile
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {
    "package": "threadledger",
    "domain": "threadledger/domain",
    "adapters": "threadledger/adapters",
    "cli": "threadledger/cli",
}

pytestmark = pytest.mark.skipif(
    not (ROOT / "domain").is_dir(), reason="the tests run against the wheel, without the tree"
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Return the file names in a wheel built from a copy of the repository."""
    from setuptools import build_meta

    place = tmp_path_factory.mktemp("tree")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, place / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, place / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        built = build_meta.build_wheel(str(place / "dist"))
    with zipfile.ZipFile(place / "dist" / built) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_the_wheel_holds_every_file_of_the_tree_and_no_other(wheel: set[str]) -> None:
    tree = {
        f"{target}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, target in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert wheel == tree


def test_init_writes_the_example_that_the_repository_shows() -> None:
    assert (ROOT / "cli" / "env.example").read_text() == (ROOT / ".env.example").read_text()


def test_every_setting_is_explained_in_the_example() -> None:
    from threadledger.adapters import Settings

    example = (ROOT / ".env.example").read_text()
    for field in Settings.fields.values():
        assert f"{field.name}=" in example


def test_the_lock_file_names_no_host_and_every_dependency() -> None:
    import tomllib

    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    locked = {line.split("==")[0].strip().lower() for line in lock.splitlines() if "==" in line}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for dependency in chain(project["dependencies"], *project["optional-dependencies"].values()):
        assert re.split(r"[\[<>]", dependency)[0] in locked
