"""`threadledger serve` as a process: what it prints, how it is stopped, when it does not start."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import pytest
from openai import OpenAI

from threadledger.adapters.server import require_path
from threadledger.domain.errors import InvalidSettings

from .chat_only import ChatOnly
from .speaking import SECONDS_MAX, accepts, connected, head, read, until

HELLO: Any = [{"role": "user", "content": "Hello"}]
COMMAND = "from threadledger.cli import main; raise SystemExit(main())"
WAITING = f"""
import sys
from threadledger.adapters.server import handlers
def wait(served, call):
    print("entered", file=sys.stderr, flush=True)
    sys.stdin.readline()
    return {{"done": True}}
handlers.HANDLERS = {{"create_thread": wait}}
{COMMAND}
"""
"""The command with one handler, which waits for a line on standard input."""


@dataclass
class Running:
    process: subprocess.Popen[str]
    base_url: str

    @property
    def host(self) -> str:
        return urlsplit(self.base_url).hostname or ""

    @property
    def port(self) -> int:
        return urlsplit(self.base_url).port or 0


@contextmanager
def running(
    *options: str, program: str = COMMAND, env: Mapping[str, str] = MappingProxyType({}), errors: Any = subprocess.PIPE
) -> Iterator[Running]:
    """Yield the command once it has printed its address; `env` is added to the environment, and stderr goes to `errors`."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
    command = [sys.executable, "-c", program, "serve", "--port", "0", *options]
    with subprocess.Popen(command, text=True, env={**os.environ, **env}, **pipes) as process:
        try:
            assert process.stdout is not None
            yield Running(process, process.stdout.readline().strip())
        finally:
            process.kill()


def test_it_prints_its_address_alone_and_ctrl_c_ends_it_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-in-the-environment")
    with running("--root-path", "/ledger") as server:
        assert server.base_url == f"http://127.0.0.1:{server.port}/ledger/v1"
        with OpenAI(base_url=server.base_url, api_key="sk-planted-in-a-request", max_retries=0) as client:
            assert client.models.list().data
        server.process.send_signal(signal.SIGINT)
        out, err = server.process.communicate(timeout=SECONDS_MAX)
    assert (server.process.returncode, out) == (0, "")
    first, line = err.splitlines()
    assert first.startswith(f"set OPENAI_BASE_URL={server.base_url} ")
    assert line.startswith("INFO GET /models 200, key -, ")
    assert "planted" not in err


@contextmanager
def waiting() -> Iterator[tuple[Running, object]]:
    with running(program=WAITING) as server, connected(server) as line:
        line.sendall(head(server, "POST", "/v1/threads"))
        assert server.process.stderr is not None
        until(lambda: server.process.stderr.readline() == "entered\n")  # type: ignore[union-attr] # it is a pipe
        yield server, line


def test_sigterm_lets_a_request_in_progress_finish() -> None:
    with waiting() as (server, line):
        server.process.send_signal(signal.SIGTERM)
        until(lambda: not accepts(server))
        assert server.process.poll() is None
        server.process.stdin.write("\n")  # type: ignore[union-attr] # it is a pipe
        server.process.stdin.flush()  # type: ignore[union-attr] # it is a pipe
        assert read(line).json == {"done": True}  # type: ignore[arg-type] # it was sent
        _, err = server.process.communicate(timeout=SECONDS_MAX)
    assert server.process.returncode == 0
    assert "POST /threads 200" in err


def test_a_second_signal_ends_it_at_once() -> None:
    with waiting() as (server, _):
        server.process.send_signal(signal.SIGTERM)
        until(lambda: not accepts(server))
        server.process.send_signal(signal.SIGINT)
        server.process.wait(timeout=5)  # the request could take ten seconds
    assert server.process.returncode == 130


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's, of every call of the Assistants API
def test_a_second_signal_ends_it_at_once_also_while_runs_end(upstream: ChatOnly) -> None:
    given = {"OPENAI_BASE_URL": upstream.base_url, "OPENAI_API_KEY": "sk-test", "THREADLEDGER_BACKENDS": "chat"}
    with running(env=given) as server, upstream.held():
        with OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client:
            assistant = client.beta.assistants.create(model="gpt-5.5")
            client.beta.threads.create_and_run(assistant_id=assistant.id, thread={"messages": HELLO})
        upstream.wait_for(1)
        server.process.send_signal(signal.SIGTERM)
        until(lambda: not accepts(server))
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(timeout=SECONDS_MAX)
    assert server.process.returncode == 130  # 0, if it had waited until its run was broken off


ROOT_PATHS = (
    "/a?b",
    "/a#b",
    "/a\nb",
    "/a\x7fb",
    "/a b",
    "/ä",
    "//a",
    "/a//b",
    "/a/../b",
    "/.",
    "/a%2",
    "/a\\b",
    "/<a>",
    "http://a",
)


@pytest.mark.parametrize("path", ["", "/", "/ledger", "/ledger/", "/a/b-1.2_3~/...", "/a%20b", "/(a);b=1,2"])
def test_the_beginning_of_a_path_is_a_root_path(path: str) -> None:
    require_path(path)


@pytest.mark.parametrize("path", ROOT_PATHS)
def test_nothing_else_is_a_root_path(path: str) -> None:
    with pytest.raises(InvalidSettings, match="is not the beginning of a URL's path: give one like /ledger"):
        require_path(path)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--host", "0.0.0.0"), 2, "without a key"),
        (("--host", "::"), 2, "without a key"),
        (("--port", "70000"), 2, "70000 is not in the range"),
        (("--root-path", "ledger"), 2, "give one like /ledger"),
        (("--root-path", "/a?b"), 2, "give one like /ledger"),
        (("--host", "203.0.113.1.invalid"), 2, "without a key"),
        (("nothing",), 2, "there is no command 'nothing'"),
    ],
)
def test_it_does_not_start_with_options_that_cannot_be_used(
    options: tuple[str, ...], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from threadledger.cli import main

    assert main(["serve", *options]) == code
    done = capsys.readouterr()
    assert (done.out, words in done.err, "Traceback" in done.err) == ("", True, False)
    assert not Path("threadledger.db").exists() or "--root-path" not in options


@pytest.mark.parametrize(
    "host", ["unknown.invalid", "a" * 70 + ".invalid", "a b", "::zz", "[::1]", "127.0.0.1%nowhere", "a\0b"]
)
def test_a_host_that_cannot_be_found_is_refused_in_one_sentence(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    from threadledger.cli import main

    assert main(["serve", "keys", "add", "shop"]) == 0  # without a key, it would not listen there
    capsys.readouterr()
    assert main(["serve", "--port", "0", "--host", host]) == 1
    done = capsys.readouterr()
    assert (done.out, done.err.count("\n")) == ("", 1)
    assert done.err.startswith("threadledger: the server cannot listen on ")
    assert done.err.endswith("; choose another host or port, with --host or --port\n")


def test_a_taken_port_and_an_unknown_backend_are_refused_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    from threadledger.cli import main

    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 1
    assert f"port {port}: " in capsys.readouterr().err
    Path("threadledger.toml").write_text('[serve.models]\na = "nowhere"\n')
    assert main(["serve", "--port", "0"]) == 2
    assert "names the backend 'nowhere', which does not exist" in capsys.readouterr().err


def test_a_folder_that_is_not_trusted_is_not_served(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from threadledger.cli import main

    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-in-the-environment")
    Path(".env").write_text("OPENAI_BASE_URL=http://127.0.0.1:9/v1\n")
    assert main(["serve", "--port", "0"]) == 2
    assert "then run: threadledger trust" in capsys.readouterr().err
    assert not Path("threadledger.db").exists()
