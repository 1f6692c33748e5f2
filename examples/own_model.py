"""Record the runs of an app that calls its own model.

    python examples/own_model.py

No key and no provider are needed: `think` takes the place of your model. It fails once, so that the audit has a failure
to show.
"""

import itertools

import threadledger

attempts = itertools.count(1)


def think(messages: list[dict[str, object]]) -> str:
    """Return an answer to Chat Completions messages; replace this with your model."""
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
