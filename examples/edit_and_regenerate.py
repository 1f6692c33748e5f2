"""Record an app whose user edits questions and asks for other answers: memory is what the user sees.

    threadledger simulate &
    OPENAI_BASE_URL=http://127.0.0.1:8765/v1 OPENAI_API_KEY=any python examples/edit_and_regenerate.py

The app keeps the history itself and sends it whole, so an edited question is another history. `threadledger.record` finds
where it leaves the conversation: the run stays aside, and becomes memory with the next question that continues it. Threads at
the provider follow, and nothing is deleted: every variant is listed at the end.
"""

from typing import Any

import openai

import threadledger

KEY = "customer-42"


class ChatWindow:
    """Hold what the user sees, and send all of it with each question."""

    def __init__(self, client: openai.OpenAI) -> None:
        self.client = client
        self.messages: list[Any] = []

    def ask(self, question: str) -> None:
        """Ask a question after what is shown."""
        self.messages.append({"role": "user", "content": question})
        self._answer()

    def edit(self, place: int, question: str) -> None:
        """Ask another question in the place of one; what followed it is no longer shown."""
        del self.messages[place:]
        self.ask(question)

    def regenerate(self) -> None:
        """Replace the last answer by another one."""
        self.messages.pop()
        self._answer()

    def _answer(self) -> None:
        completion = self.client.chat.completions.create(model="gpt-6-astra", messages=self.messages)
        self.messages.append({"role": "assistant", "content": completion.choices[0].message.content})


def show(ledger: threadledger.Ledger, step: str, window: ChatWindow) -> None:
    """Bring both threads up to date, verify them, and print what memory is compared with the window."""
    for kind in ("conversations", "assistants"):
        ledger.replay.plan_rebuild([KEY], to=kind).apply()
    threads = {verified.found.state.value for verified in ledger.replay.verify([KEY])}
    memory = [each.message.text for each in ledger.memory(KEY).messages]
    is_seen = memory == [each["content"] for each in window.messages]
    print(f"{step}: {' | '.join(memory)}")
    print(f"  {'as the user sees it' if is_seen else 'the answer is aside'}; threads: {', '.join(threads)}")


def main() -> None:
    with threadledger.open("sqlite:///edit_and_regenerate.db") as ledger:
        client = threadledger.record(openai.OpenAI(), ledger, key=KEY)
        with client:
            window = ChatWindow(client)
            window.ask("Where is my parcel?")
            window.ask("And the other one?")
            show(ledger, "asked", window)
            window.edit(2, "And the blue one?")
            show(ledger, "edited", window)
            window.ask("When does it arrive?")
            show(ledger, "continued", window)
            window.regenerate()
            show(ledger, "regenerated", window)
            window.ask("Thank you.")
            show(ledger, "continued", window)
        chat = ledger.conversation(KEY)
        for each in ledger.memory(KEY).messages:
            variants = [variant.text for variant in chat.variants(each.message_id)]
            if len(variants) > 1:
                print("variants:", " / ".join(variants))


if __name__ == "__main__":
    main()
