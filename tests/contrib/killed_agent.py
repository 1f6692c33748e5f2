"""Run an agent that is killed in the middle: `python killed_agent.py URL BASE_URL RECORDED_BY MOMENT`.

It dies by SIGKILL when it adds the model's answer, or its call of a tool with the result, to the session: both runs and
messages are committed by then, and the session has not got them. With `approval`, it prints the state of the run and
dies before anything else.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import Any

import openai
from agents import (
    Agent,
    GuardrailFunctionOutput,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    output_guardrail,
    set_tracing_disabled,
)

import threadledger
from threadledger.contrib.agents import Session, recorded_model

KEY = "customer-42"


@function_tool
def look_up(number: int) -> str:
    """Look a parcel up."""
    return f"parcel {number} is in Lyon"


@function_tool(needs_approval=True)
def pay(amount: int) -> str:
    """Pay."""
    return f"paid {amount}"


@output_guardrail
async def allow(context: Any, agent: Any, output: Any) -> GuardrailFunctionOutput:
    """Allow every answer."""
    return GuardrailFunctionOutput(None, tripwire_triggered=False)


def agent_of(ledger: Any, session: Any, client: Any, recorded_by: str) -> Any:
    """Return an agent whose calls are recorded by a client or by a model.

    Because it has a guardrail, and might end with a tool, the SDK adds a call that waits for an approval with its result.
    """
    used = threadledger.record(client, ledger, key=KEY) if recorded_by == "client" else client
    model: Any = OpenAIResponsesModel("gpt-6-astra", used)
    recorded = recorded_model(model, session) if recorded_by == "model" else model
    ends: Any = {"tool_use_behavior": {"stop_at_tool_names": ["no_tool"]}}
    return Agent(name="Ann", model=recorded, tools=[look_up, pay], output_guardrails=[allow], **ends)


class Killed(Session):
    """Kill the process instead of adding what the model said."""

    async def add_items(self, items: Any) -> None:
        if any(each.get("role") != "user" for each in items):
            os.kill(os.getpid(), signal.SIGKILL)
        await super().add_items(items)


async def main(url: str, base_url: str, recorded_by: str, moment: str) -> None:
    """Ask a question, and die."""
    with threadledger.open(url, threads="none") as ledger:
        session = (Session if moment == "approval" else Killed)(KEY, ledger)
        async with openai.AsyncOpenAI(base_url=base_url, api_key="sk-test", max_retries=0) as client:
            result = await Runner.run(agent_of(ledger, session, client, recorded_by), "yes", session=session)
            print(json.dumps(result.to_state().to_json()), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    set_tracing_disabled(True)
    asyncio.run(main(*sys.argv[1:]))
