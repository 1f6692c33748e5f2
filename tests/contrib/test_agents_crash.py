"""An agent that is killed: what a recorded run journaled is in the session of the next process, once."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import openai
import pytest
from agents import Runner, RunState

import threadledger
from threadledger.contrib.agents import Session
from threadledger.domain.conversation import events as e

from .killed_agent import KEY, agent_of

pytestmark = pytest.mark.crash

PAY = {"tool_calls": [{"name": "pay", "arguments": {"amount": 5}}]}
LOOK_UP = {"tool_calls": [{"name": "look_up", "arguments": {"number": 42}}]}


in_soak = pytest.mark.skipif("THREADLEDGER_SOAK" not in os.environ, reason="the other kills happen in `make soak`")


def killed(db_url: str, simulator: Any, *arguments: str) -> str:
    """Run the agent until it dies, and return what it printed."""
    command = [sys.executable, str(Path(__file__).with_name("killed_agent.py")), db_url, simulator.base_url, *arguments]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    return ended.stdout


def messages(ledger: Any) -> list[tuple[str, Any]]:
    events = ledger.conversation(KEY).events()
    return [(each.role, each.content) for each in events if isinstance(each, e.MessageJournaled)]


@pytest.mark.parametrize(
    ("recorded_by", "said"),
    [
        pytest.param("model", "Fine.", id="answer"),
        pytest.param("client", LOOK_UP, id="call", marks=in_soak),
    ],
)
def test_what_a_killed_process_recorded_is_in_the_session_once(
    db_url: str, simulator: Any, recorded_by: str, said: Any
) -> None:
    simulator.answer(said)
    killed(db_url, simulator, recorded_by, "adding")

    async def story() -> list[Any]:
        with threadledger.open(db_url, threads="none") as ledger:
            session = Session(KEY, ledger)
            left = await session.get_items()
            assert [each.get("role", each.get("type")) for each in left] == [
                "user",
                "assistant" if said == "Fine." else "function_call",
            ]
            simulator.answer("Fine.")
            async with openai.AsyncOpenAI(base_url=simulator.base_url, api_key="sk-test", max_retries=0) as client:
                result = await Runner.run(agent_of(ledger, session, client, recorded_by), "yes", session=session)
            assert result.final_output == "Fine."
            assert (await session.get_items())[: len(left)] == left
            return messages(ledger)

    answer = ("assistant", "Fine." if said == "Fine." else None)
    assert asyncio.run(story()) == [("user", "yes"), answer, ("user", "yes"), ("assistant", "Fine.")]
    if said == LOOK_UP:  # the call has no result, and no model is shown it
        sent = simulator.requests[-1].body["input"]
        assert [each["role"] for each in sent] == ["user", "user"]


@pytest.mark.parametrize("recorded_by", [pytest.param("model", marks=in_soak), "client"])
def test_a_run_that_another_process_resumes_has_its_call_once(db_url: str, simulator: Any, recorded_by: str) -> None:
    simulator.answer(PAY)
    printed = killed(db_url, simulator, recorded_by, "approval")

    async def story() -> None:
        with threadledger.open(db_url, threads="none") as ledger:
            session = Session(KEY, ledger)
            simulator.answer("Paid.")
            async with openai.AsyncOpenAI(base_url=simulator.base_url, api_key="sk-test", max_retries=0) as client:
                agent = agent_of(ledger, session, client, recorded_by)
                state = await RunState.from_string(agent, printed)
                state.approve(state.get_interruptions()[0])
                await Runner.run(agent, state, session=session)
            items = await session.get_items()
            assert [each.get("type", each.get("role")) for each in items] == [
                *("user", "function_call", "function_call_output", "message"),
            ]
            assert messages(ledger) == [
                ("user", "yes"),
                ("assistant", None),
                ("tool", "paid 5"),
                ("assistant", "Paid."),
            ]
            runs = [each for each in ledger.conversation(KEY).events() if isinstance(each, e.RunStarted)]
            assert len({each.exchange_id for each in runs}) == 1

    asyncio.run(story())
