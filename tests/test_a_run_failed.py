"""Run every command of the page "A run failed: what now?", in order, on a ledger with that failure.

The page leads from `Sorry, something went wrong.` to the repaired thread.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import threadledger
from threadledger.domain.errors import AllBackendsFailed

PAGE = Path(__file__).resolve().parents[1] / "docs" / "a-run-failed.md"
SORRY = "Sorry, something went wrong."


@pytest.fixture
def broken(simulator: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Create a ledger in which one customer's thread is lost and another customer's run failed."""
    for name, value in {
        "OPENAI_BASE_URL": simulator.base_url,
        "OPENAI_API_KEY": "sk-test",
        "THREADLEDGER_BACKENDS": "assistants,chat",
        "THREADLEDGER_THREADS": "assistants",
        "THREADLEDGER_RETRIES": "0",
    }.items():
        monkeypatch.setenv(name, value)
    with threadledger.open() as ledger:
        ledger.conversation("customer-1").ask("Where is my parcel?")
        ledger.conversation("customer-2").ask("Good morning")
        simulator.lose(ledger.state("customer-1").links["assistants"].thread_id)
        simulator.add_fault("POST /threads/{thread_id}/runs", fail={})
        simulator.add_fault("POST /chat/completions", refuse={"status": 429, "code": "rate_limit_exceeded"})
        with pytest.raises(AllBackendsFailed, match=SORRY):
            ledger.conversation("customer-2").ask("Can I change the address?")
    return simulator


@pytest.fixture
def commanded(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def call(*arguments: str) -> tuple[int, str]:
        from threadledger.cli import main

        capsys.readouterr()
        code = main(list(arguments))
        told = capsys.readouterr()
        return code, told.out + told.err

    return call


def test_the_page_leads_from_the_failure_to_the_mended_thread(
    broken: Any, commanded: Callable[..., tuple[int, str]]
) -> None:
    with threadledger.open() as ledger:
        failed = {failure.cause.value: failure.run_id for failure in ledger.failures()}
        group = next(each.group for each in ledger.failure_groups() if each.cause.value == "provider_error")
    place = {"RUN": failed["provider_error"][-8:], "KEY": "customer-1", "GROUP": group}
    seen = []
    for line in re.findall(r"^ {4}threadledger (.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE):
        words = [place.get(word, word) for word in shlex.split(line, comments=True)]
        seen.append((" ".join(words), *commanded(*words, *(["--yes"] if "--apply" in words else []))))
    texts = [text for _, _, text in seen]
    codes = [code for _, code, _ in seen]
    assert codes == [4, 0, 0, 0, 4, 4, 0, 0, 0, 0, 0, 0, 0, 0], [(command, code) for command, code, _ in seen]
    assert SORRY in texts[1]
    assert "provider_error" in texts[2]
    assert SORRY in texts[3]
    assert "gone" in texts[4]
    assert "nothing was done" in texts[6]
    assert "1 written and verified" in texts[7]
    assert "gone" not in texts[8]
    assert "nothing was done" in texts[9]
    assert "answered" in texts[10]
    assert "no failures" in texts[11]
    assert "Where is my parcel?" in texts[12]
    with threadledger.open() as ledger:
        assert {found.found.state.value for found in ledger.replay.verify()} == {"same"}
        assert (
            ledger.conversation("customer-2").memory().messages[-1].message.text
            == "You said: Can I change the address?"
        )
