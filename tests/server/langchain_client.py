"""Ask the server through LangChain's client of the Responses API, and print what it saw as one JSON object.

OPENAI_BASE_URL=http://127.0.0.1:8731/v1 OPENAI_API_KEY=any python langchain_client.py
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

MODEL = {"model": "gpt-4o", "max_retries": 0, "use_responses_api": True}


class Person(BaseModel):
    """A person."""

    name: str


@tool
def weather(place: str) -> str:
    """Return the weather of a place."""
    return f"rain in {place}"


def text_of(message: Any) -> str:
    return str(message.text)


def asked(model: ChatOpenAI) -> dict[str, Any]:
    """Return what single questions are answered with."""
    said = model.invoke([SystemMessage("Be brief."), HumanMessage("Hello")])
    chunks = [*model.stream("Tell me more")]
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    awaited = asyncio.run(model.ainvoke("Hello"))
    usage = said.usage_metadata or {}
    return {
        "said": text_of(said),
        "id": said.response_metadata["id"].startswith("resp_"),
        "usage": usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"] > 0,
        "streamed": ["".join(map(text_of, chunks)), len(chunks) > 3],
        "whole": [text_of(whole), (whole.usage_metadata or {})["total_tokens"] > 0],
        "awaited": text_of(awaited),
        "structured": model.with_structured_output(Person).invoke("json").name,
    }


def called(model: ChatOpenAI) -> dict[str, Any]:
    """Return what comes of a function: its results with the whole history, also in a stream."""
    bound = model.bind_tools([weather])
    history: list[Any] = [HumanMessage("How is the weather?")]
    call = bound.invoke(history)
    results = [ToolMessage(weather.invoke(each["args"]), tool_call_id=each["id"]) for each in call.tool_calls]
    streamed = None
    for chunk in bound.stream(history):
        streamed = chunk if streamed is None else streamed + chunk
    return {
        "calls": [[each["name"], each["args"]] for each in call.tool_calls],
        "answer": text_of(bound.invoke([*history, call, *results])),
        "streamed_calls": [[each["name"], each["args"]] for each in (streamed.tool_calls if streamed else [])],
        "next": text_of(bound.bind(previous_response_id=call.response_metadata["id"]).invoke(results)),
    }


def continued() -> dict[str, Any]:
    """Return what is said when a model sends only what follows the previous response."""
    model = ChatOpenAI(**MODEL, use_previous_response_id=True)
    first = model.invoke("One")
    second = model.invoke([HumanMessage("One"), first, HumanMessage("Two")])
    plain = ChatOpenAI(**MODEL)
    third = plain.invoke("Three", previous_response_id=second.response_metadata["id"])
    return {"continued": [text_of(each) for each in (first, second, third) if isinstance(each, AIMessage)]}


def main() -> None:
    model = ChatOpenAI(**MODEL)
    print(json.dumps(called(model) | continued() | asked(model)))


if __name__ == "__main__":
    main()
