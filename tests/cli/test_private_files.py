"""Every file that a command creates can be read by its owner alone, whatever the process's umask is."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from threadledger.adapters.private_files import private_file

from .auditing import open_story
from .command_table import TABLE
from .conftest import Done

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes"),
    # The SDK warns at each call of the Assistants API; `test_settings.py` checks that our own calls suppress it.
    pytest.mark.filterwarnings(r"ignore:(The Assistants API is )?deprecated:DeprecationWarning"),
]


@pytest.fixture
def everybody() -> Iterator[None]:
    """Let new files be read and written by everybody, unless their creator says otherwise."""
    before = os.umask(0)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[Path, int]:
    """Return the mode of each file of a folder."""
    return {path: stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("everybody")
def test_every_file_that_a_command_creates_is_private(
    command: Callable[..., Done], provider: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("threadledger.cli.demo._play_story", lambda simulator: None)  # it takes seconds, and only asks
    open_story(f"sqlite:///{tmp_path}/threadledger.db").close()
    for path, entry in TABLE.items():
        if entry.serves:
            continue
        name = "-".join(path)
        places = {"FILE": f"{name}.out", "FOLDER": f"{name}.folder", "URL": f"sqlite:///{name}.db"}
        arguments = [places.get(each, each) for each in (*entry.arguments, *entry.writes)]
        before = modes(tmp_path).keys()
        done = command(*arguments, stdin=b'{"id": "k", "messages": [{"role": "user", "content": "hi"}]}\n')
        made = modes(tmp_path).keys() - before
        asked = [each for each in (*entry.arguments, *entry.writes) if each in places]
        assert made or not asked, (name, done)
        assert not [each for each in made if each.suffix in {".part", ".unfinished"}]
    assert {path.name: oct(mode) for path, mode in modes(tmp_path).items() if mode != 0o600} == {}
    assert {".env", "threadledger.db", "john.toml"} <= {path.name for path in modes(tmp_path)}


@pytest.mark.usefixtures("everybody")
def test_the_files_of_a_database_in_use_and_the_state_of_a_simulator_are_private(tmp_path: Path) -> None:
    from threadledger.adapters import Simulator

    with open_story(f"sqlite:///{tmp_path}/ledger.db"), Simulator(state=tmp_path / "state.db"):
        found = modes(tmp_path)
    assert {"ledger.db", "ledger.db-wal", "ledger.db-shm", "state.db"} <= {path.name for path in found}
    assert set(found.values()) == {0o600}


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_file_is_private_while_it_is_written_and_afterwards(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with private_file(tmp_path / "new") as file:
            file.write("half")
            assert set(modes(tmp_path).values()) == {0o600}
    finally:
        os.umask(before)
    assert modes(tmp_path) == {tmp_path / "new": 0o600}


def test_a_file_that_others_could_read_is_replaced_by_a_private_one(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old")
    (tmp_path / "old").chmod(0o644)
    with private_file(tmp_path / "old", overwrite=True) as file:
        file.write("new")
    assert modes(tmp_path) == {tmp_path / "old": 0o600}


@pytest.mark.parametrize("name", ["out", "out.part"])
def test_a_planted_link_is_replaced_and_not_followed(tmp_path: Path, name: str) -> None:
    (tmp_path / "target").write_text("theirs")
    (tmp_path / name).symlink_to(tmp_path / "target")
    with private_file(tmp_path / "out", overwrite=True) as file:
        file.write("ours")
    assert (tmp_path / "target").read_text() == "theirs"
    assert (tmp_path / "out").read_text() == "ours"
    assert not (tmp_path / "out").is_symlink()


def test_a_link_to_nowhere_counts_as_a_file_that_exists(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError), private_file(tmp_path / "out"):
        pass
    assert not (tmp_path / "nowhere").exists()


def test_the_old_file_stays_if_the_new_one_cannot_be_completed(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("old")
    with pytest.raises(ValueError), private_file(tmp_path / "out", overwrite=True) as file:
        file.write("half")
        raise ValueError
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"out": "old"}


def test_a_pipe_or_a_device_is_written_to(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with private_file(tmp_path / "pipe", overwrite=True) as file:
        file.write("through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
