"""Test `threadledger simulate`: a provider started from the command line, with its state in a file."""

import signal
import subprocess
import sys

import pytest
from openai import OpenAI

COMMAND = [sys.executable, "-c", "from threadledger.cli import main; raise SystemExit(main())"]


def serve(*options):
    return subprocess.Popen(
        [*COMMAND, "simulate", "--port", "0", *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_what_one_kept_the_next_one_has(tmp_path):
    kept = []
    for _ in range(2):
        with serve("--state", str(tmp_path / "provider.db")) as process:
            with OpenAI(base_url=process.stdout.readline().strip(), api_key="sk-test", max_retries=0) as client:
                kept.append(client.conversations.create().id)
                for conversation in kept:
                    assert client.conversations.retrieve(conversation).id == conversation
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=30)
            assert process.returncode == 0
    assert len(set(kept)) == 2


@pytest.mark.parametrize("name", ["notes.txt", "nowhere/provider.db"])
def test_a_state_file_that_cannot_be_used_is_refused_in_one_sentence(tmp_path, name):
    (tmp_path / "notes.txt").write_text("somebody's notes\n" * 100)
    with serve("--state", str(tmp_path / name)) as process:
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (1, "")
    assert name in err
    assert "choose another one with --state" in err
    assert "Traceback" not in err
