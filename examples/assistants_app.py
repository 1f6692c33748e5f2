"""Record an app on the Assistants API that falls back to Chat Completions and keeps every message in its thread.

    echo '{"faults": [{"on": "POST /threads/{thread_id}/runs", "fail": {"code": "server_error"}}]}' > faults.json
    threadledger simulate --script faults.json &
    OPENAI_BASE_URL=http://127.0.0.1:8765/v1 OPENAI_API_KEY=any python examples/assistants_app.py

The app's own code is unchanged, except for two lines: `threadledger.record` around the client, and
`threadledger.recording` around a customer's calls. When a run fails, the app calls Chat Completions and adds the answer
to the thread. The ledger holds one question, one answer, and the reason for the fallback.
"""

import os
import warnings

import openai
from openai.types.beta.threads import Message

import threadledger

MODEL = "gpt-6-astra"
INSTRUCTIONS = "You are John, a helpful assistant."
USE_ASSISTANTS_API = os.environ.get("USE_ASSISTANTS_API", "true") != "false"

warnings.simplefilter("ignore", DeprecationWarning)  # the SDK marks the Assistants API as deprecated


def answer(client: openai.OpenAI, thread_id: str, assistant_id: str, question: str) -> str:
    """Answer a question in the thread; if the assistant's run fails, answer with Chat Completions."""
    threads = client.beta.threads
    threads.messages.create(thread_id, role="user", content=question)
    if USE_ASSISTANTS_API:
        run = threads.runs.create_and_poll(thread_id=thread_id, assistant_id=assistant_id)
        if run.status == "completed":
            return text_of(threads.messages.list(thread_id, order="desc").data[0])
        print("run failed:", run.last_error.message if run.last_error else run.status)
    history = [
        {"role": each.role, "content": text_of(each)} for each in threads.messages.list(thread_id, order="asc").data
    ]
    messages = [{"role": "system", "content": INSTRUCTIONS}, *history]
    completion = client.chat.completions.create(model=MODEL, messages=messages)  # type: ignore[arg-type] # plain dicts
    text = completion.choices[0].message.content or ""
    threads.messages.create(thread_id, role="assistant", content=text)
    return text


def text_of(message: Message) -> str:
    """Return the text of a thread's message."""
    return "".join(part.text.value for part in message.content if part.type == "text")


def main() -> None:
    with threadledger.open("sqlite:///assistants_app.db") as ledger:
        client = threadledger.record(openai.OpenAI(), ledger)
        with client, threadledger.recording("customer-42"):
            thread_id = client.beta.threads.create().id
            assistant_id = os.environ.get("OPENAI_ASSISTANT_ID") or client.beta.assistants.create(model=MODEL).id
            print("answer:    ", answer(client, thread_id, assistant_id, "Where is my parcel?"))
        for failure in ledger.failures():
            print("audit:     ", failure.cause.value, "-", failure.next)
        print("memory:    ", ", ".join(each.message.role.value for each in ledger.memory("customer-42").messages))
        ledger.replay.plan_rebuild(["customer-42"], to="assistants").apply()
        for verified in ledger.replay.verify(["customer-42"]):
            print("rebuilt:   ", verified.found.state.value)


if __name__ == "__main__":
    main()
