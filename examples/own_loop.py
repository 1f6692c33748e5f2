"""Record every call of an app that runs its own loop on the openai SDK.

    threadledger simulate &
    OPENAI_BASE_URL=http://127.0.0.1:8765/v1 OPENAI_API_KEY=any python examples/own_loop.py

This takes two lines: `threadledger.record` around the client, and `threadledger.recording` around a customer's calls.
"""

import json
from typing import Any

import openai

import threadledger

TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "find_parcel",
            "parameters": {"type": "object", "properties": {"id": {"type": "integer"}}},
        },
    }
]


def find_parcel(id: int = 0) -> str:  # noqa: A002 - the model uses this name
    """Return where a parcel is; this is the app's tool."""
    return f"parcel {id} is in Lyon"


def answer(client: openai.OpenAI, question: str) -> str:
    """Answer a question in the app's own loop: call the model, run the tools that it requests, call it again."""
    messages: list[Any] = [{"role": "user", "content": question}]
    while True:
        said = client.chat.completions.create(model="gpt-6-astra", messages=messages, tools=TOOLS).choices[0].message
        messages.append(said)
        if not said.tool_calls:
            return said.content or ""
        for call in said.tool_calls:
            if call.type == "function":
                result = find_parcel(**json.loads(call.function.arguments))
                messages.append({"role": "tool", "tool_call_id": call.id, "content": result})


def main() -> None:
    with threadledger.open("sqlite:///own_loop.db") as ledger:
        client = threadledger.record(openai.OpenAI(), ledger)
        with client, threadledger.recording("customer-42"):
            print("answer:", answer(client, "Where is my parcel?"))
        for run in ledger.exchanges("customer-42").runs.values():
            print("run:   ", run.backend, run.state, "attempt", run.attempt)
        for failure in ledger.failures():
            print("audit: ", failure.cause.value, "-", failure.next)
        print("memory:", ", ".join(each.message.role.value for each in ledger.memory("customer-42").messages))


if __name__ == "__main__":
    main()
