"""An app that calls its own model, and lets threadledger record the runs.

    python examples/own_model.py

No key and no provider: `think` stands in for a model of yours. It fails once, so that the audit has something to tell.
"""

import itertools

import threadledger

attempts = itertools.count(1)


def think(messages: list[dict[str, object]]) -> str:
    """Your model: any function from Chat Completions messages to text."""
    if next(attempts) == 1:
        raise TimeoutError("the model did not answer in time")
    return f"I have read {len(messages)} message(s)."


def main() -> None:
    with threadledger.open("sqlite:///own_model.db") as ledger:
        chat = ledger.conversation("visitor-1")
        chat.append("user", "What do you know about me?")
        for _ in range(2):
            try:
                with chat.run(backend="my-llm", model="think-1") as run:
                    run.complete(think(chat.memory().as_chat_messages()))
            except TimeoutError as error:
                print("failed:", error)
        print("answer:", chat.memory(last=1).messages[0].message.text)
        for failure in ledger.failures():
            print("audit: ", failure.cause.value, "-", failure.summary())


if __name__ == "__main__":
    main()
