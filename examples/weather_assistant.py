"""Run an assistant with a function on OpenAI's Assistants API, as apps did in 2024.

    export OPENAI_API_KEY=...       # and OPENAI_BASE_URL, if another server speaks the API
    python examples/weather_assistant.py

The app makes an assistant and a thread, polls the run of its first question, and streams the second one: its event handler
prints the text as it arrives, and submits the results of the function that the model calls.
"""

import json
from typing import Any

from openai import AssistantEventHandler, OpenAI
from typing_extensions import override

client = OpenAI()

MODEL = "gpt-4o"
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a place.",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string", "description": "A city, as in Lyon"}},
            "required": ["place"],
        },
    },
}


def get_weather(place: str) -> str:
    """Look up the weather of a place."""
    return f"57 degrees and rain in {place}"


class EventHandler(AssistantEventHandler):
    """Print what the assistant says, and call the functions that it asks for."""

    @override
    def on_event(self, event: Any) -> None:
        if event.event == "thread.run.requires_action":
            self.handle_requires_action(event.data)

    @override
    def on_text_created(self, text: Any) -> None:
        print("assistant > ", end="", flush=True)

    @override
    def on_text_delta(self, delta: Any, snapshot: Any) -> None:
        print(delta.value, end="", flush=True)

    @override
    def on_text_done(self, text: Any) -> None:
        print()

    def handle_requires_action(self, run: Any) -> None:
        """Call the functions, and stream the rest of the run."""
        outputs: list[Any] = []
        for call in run.required_action.submit_tool_outputs.tool_calls:
            if call.function.name == "get_weather":
                print(f"function  > get_weather({call.function.arguments})")
                outputs.append({"tool_call_id": call.id, "output": get_weather(**json.loads(call.function.arguments))})
        with client.beta.threads.runs.submit_tool_outputs_stream(
            thread_id=run.thread_id, run_id=run.id, tool_outputs=outputs, event_handler=EventHandler()
        ) as stream:
            stream.until_done()


def main() -> None:
    assistant = client.beta.assistants.create(
        name="Weather assistant", instructions="You answer questions about the weather.", model=MODEL
    )
    thread = client.beta.threads.create()
    client.beta.threads.messages.create(thread_id=thread.id, role="user", content="Hello!")
    run = client.beta.threads.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id)
    print(f"run       > {run.status}")

    client.beta.assistants.update(assistant.id, tools=[WEATHER])
    client.beta.threads.messages.create(thread_id=thread.id, role="user", content="How is the weather in Lyon?")
    with client.beta.threads.runs.stream(
        thread_id=thread.id, assistant_id=assistant.id, event_handler=EventHandler()
    ) as stream:
        stream.until_done()

    for message in client.beta.threads.messages.list(thread_id=thread.id, order="asc"):
        for part in message.content:
            if part.type == "text":
                print(f"{message.role:9} > {part.text.value}")


if __name__ == "__main__":
    main()
