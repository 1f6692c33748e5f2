"""Use OpenAI's Conversations and Responses with any model that only speaks Chat Completions.

    threadledger serve                                      # its backend is the model, see docs/settings.md
    export OPENAI_BASE_URL=http://127.0.0.1:8731/v1 OPENAI_API_KEY=any
    python examples/responses_app.py

The app keeps no history: the server remembers the conversation. A question is answered in the background, its stream is left
and resumed, and another answer to the first question goes on a branch of its own.
"""

import os

from openai import OpenAI

MODEL = os.environ.get("MODEL", "llama3:8b")

client = OpenAI()

conversation = client.conversations.create(items=[{"type": "message", "role": "user", "content": "My name is Ada."}])
first = client.responses.create(model=MODEL, input="Who am I?", conversation=conversation.id)
print("answer >", first.output_text)

heard, after, response_id = "", -1, ""
with client.responses.create(
    model=MODEL, input="And who was she?", conversation=conversation.id, background=True, stream=True
) as stream:
    for event in stream:
        after = event.sequence_number
        if event.type == "response.created":
            response_id = event.response.id
        elif event.type == "response.output_text.delta":
            heard += event.delta
            break  # the connection is lost

with client.responses.retrieve(response_id, stream=True, starting_after=after) as stream:
    for event in stream:
        if event.type == "response.output_text.delta":
            heard += event.delta
print("stream >", heard)

again = client.responses.create(model=MODEL, input="Say it in French.", previous_response_id=first.id)
print("branch >", again.output_text)
print("items  >", len(client.conversations.items.list(conversation.id).data))
