"""Compare the fields of responses with OpenAI's OpenAPI description, if it is available."""

import json
from pathlib import Path

import pytest

from threadledger.adapters.simulator import Simulator

from .helpers import refused

DESCRIPTION = Path(__file__).parents[3] / "shared" / "data" / "openai-openapi.json"
pytestmark = [
    # The SDK warns at each call of the Assistants API; `test_settings.py` checks that our own calls suppress it.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # the SDK's, of every call of the Assistants API
    pytest.mark.skipif(not DESCRIPTION.exists(), reason="OpenAI's OpenAPI description is not here"),
]
TOOL = {"tool_calls": [{"name": "weather", "arguments": {}}]}
BETA = {"headers": {"OpenAI-Beta": "assistants=v2"}}


@pytest.fixture
def simulator():
    with Simulator(seed=7) as running:
        yield running


@pytest.fixture(scope="module")
def schemas():
    return json.loads(DESCRIPTION.read_text(encoding="utf-8"))["components"]["schemas"]


def required(schema, schemas):
    """Return the required keys of a schema, following references and combined schemas."""
    if "$ref" in schema:
        schema = schemas[schema["$ref"].rpartition("/")[2]]
    return set(schema.get("required", [])).union(*(required(part, schemas) for part in schema.get("allOf", [])))


@pytest.fixture
def conforms(schemas):
    def check(value, name):
        missing = required(schemas[name], schemas) - set(value)
        assert not missing, f"{name} lacks {sorted(missing)}"

    return check


def test_the_assistants_surface_has_every_required_key(client, simulator, conforms):
    assistant = client.beta.assistants.create(model="any-model")
    thread = client.beta.threads.create(messages=[{"role": "user", "content": "hello"}])
    simulator.answer(TOOL)
    run = client.beta.threads.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id)
    steps = client.get(f"/threads/{thread.id}/runs/{run.id}/steps", cast_to=object, options=BETA)
    messages = client.get(f"/threads/{thread.id}/messages", cast_to=object, options=BETA)
    provider = simulator.provider
    conforms(provider.assistants[assistant.id], "AssistantObject")
    conforms(provider.threads[thread.id], "ThreadObject")
    conforms(provider.messages[thread.id][0], "MessageObject")
    conforms(provider.messages[thread.id][0]["content"][0], "MessageContentTextObject")
    conforms(provider.runs[run.id], "RunObject")
    conforms(provider.runs[run.id]["required_action"]["submit_tool_outputs"]["tool_calls"][0], "RunToolCallObject")
    conforms(steps["data"][0], "RunStepObject")
    conforms(steps, "ListRunStepsResponse")
    conforms(messages, "ListMessagesResponse")
    for address, name in ((f"/threads/{thread.id}", "Thread"), (f"/assistants/{assistant.id}", "Assistant")):
        conforms(client.delete(address, cast_to=object, options=BETA), f"Delete{name}Response")


def test_the_conversations_surface_has_every_required_key(client, simulator, conforms):
    call = {"type": "function_call", "call_id": "c", "name": "weather", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "c", "output": "sunny"}
    made = client.conversations.create(items=[{"role": "user", "content": "hello"}, call, output])
    conforms(simulator.provider.conversations[made.id], "ConversationResource")
    listed = client.get(f"/conversations/{made.id}/items", cast_to=object)
    conforms(listed, "ConversationItemList")
    names = ("Message", "FunctionToolCallResource", "FunctionToolCallOutputResource")
    for item, name in zip(reversed(listed["data"]), names, strict=True):
        conforms(item, name)
    conforms(client.delete(f"/conversations/{made.id}", cast_to=object), "DeletedConversationResource")


def test_the_responses_surface_has_every_required_key(client, simulator, conforms):
    for _ in range(2):
        made = client.responses.create(model="any-model", input="x")
        response = simulator.provider.responses[made.id]
        conforms(response, "Response")
        conforms(response["usage"], "ResponseUsage")
        conforms(response["output"][0], "FunctionToolCall" if "call_id" in response["output"][0] else "OutputMessage")
        simulator.answer(TOOL)
    conforms(client.get(f"/responses/{made.id}/input_items", cast_to=object), "ResponseItemList")


def test_completions_and_models_have_every_required_key(client, simulator, conforms):
    client.chat.completions.create(model="any-model", messages=[{"role": "user", "content": "x"}])
    [completion] = simulator.provider.completions
    conforms(completion, "CreateChatCompletionResponse")
    conforms(completion["usage"], "CompletionUsage")
    conforms(completion["choices"][0]["message"], "ChatCompletionResponseMessage")
    models = client.get("/models", cast_to=object)
    conforms(models, "ListModelsResponse")
    conforms(models["data"][0], "Model")


def test_an_error_has_every_required_key(client, conforms):
    error = refused(client.conversations.retrieve, "conv_x")
    conforms(error.body, "Error")
    conforms(error.response.json(), "ErrorResponse")


def test_every_field_of_the_description_is_accepted_and_no_other(client, schemas):
    """Check every documented field: the simulator rejects unknown fields by name, so it must know all documented ones."""
    for address, name in (("/responses", "CreateResponse"), ("/chat/completions", "CreateChatCompletionRequest")):
        error = refused(client.post, address, body=dict.fromkeys(properties(schemas[name], schemas)), cast_to=object)
        assert error.code != "unknown_parameter", error.message


def properties(schema, schemas):
    if "$ref" in schema:
        schema = schemas[schema["$ref"].rpartition("/")[2]]
    return set(schema.get("properties", {})).union(*(properties(part, schemas) for part in schema.get("allOf", [])))
