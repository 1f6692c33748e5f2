"""An app on the provider's SDK with one assistant and one thread, as tests of runs use it."""

from __future__ import annotations

from typing import Any

from openai import OpenAI

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}
CALL: dict[str, Any] = {"tool_calls": [{"name": "weather", "arguments": {"city": "Bern"}}]}
ENDS = {"completed", "failed", "cancelled", "expired", "incomplete", "requires_action"}


class App:
    """An old app: one assistant and one thread."""

    def __init__(self, client: OpenAI, **assistant: Any) -> None:
        self.client, self.runs = client, client.beta.threads.runs
        self.messages = client.beta.threads.messages
        self.assistant = client.beta.assistants.create(model="gpt-5.5", tools=[WEATHER], **assistant)  # type: ignore[list-item] # the SDK's own types
        self.thread = client.beta.threads.create(messages=[{"role": "user", "content": "Hello"}])

    def run(self, **options: Any) -> Any:
        run = self.runs.create_and_poll(
            thread_id=self.thread.id, assistant_id=self.assistant.id, poll_interval_ms=10, **options
        )
        assert run.status in ENDS
        return run

    def again(self, run: Any) -> Any:
        return self.runs.retrieve(run.id, thread_id=self.thread.id)

    def give(self, run: Any, text: str = "sunny") -> Any:
        calls = run.required_action.submit_tool_outputs.tool_calls
        outputs: Any = [{"tool_call_id": call.id, "output": text} for call in calls]
        return self.runs.submit_tool_outputs_and_poll(
            run_id=run.id, thread_id=self.thread.id, tool_outputs=outputs, poll_interval_ms=10
        )

    @property
    def said(self) -> list[str]:
        listed = self.messages.list(self.thread.id, order="asc")
        return [each.content[0].text.value for each in listed]  # type: ignore[union-attr] # every content here is text
