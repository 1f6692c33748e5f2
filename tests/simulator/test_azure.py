"""Test the simulator with Azure's client, which uses other paths and another header for the same API."""

import asyncio
import http.client
import json
from urllib.parse import urlsplit

import openai
import pytest
from openai import AsyncAzureOpenAI, AzureOpenAI, OpenAI

from threadledger.adapters.simulator import Simulator

# The SDK warns at each call of the Assistants API; `test_settings.py` checks that our own calls suppress it.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's, of every call of the Assistants API
HELLO = [{"role": "user", "content": "hello there"}]
VERSION = "2026-10-01"


def azure(simulator, key="azure-key", kind=AzureOpenAI):
    return kind(azure_endpoint=simulator.azure_endpoint, api_version=VERSION, api_key=key, max_retries=0)


@pytest.fixture
def client(simulator):
    with azure(simulator) as client:
        yield client


def speak(simulator, method, path, **headers):
    """Send one plain HTTP request, and return status and JSON."""
    address = urlsplit(simulator.azure_endpoint)
    connection = http.client.HTTPConnection(address.hostname, address.port)
    try:
        connection.request(method, path, None, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def test_every_surface_is_served_at_azures_addresses(client, simulator):
    assert client.chat.completions.create(model="my-deployment", messages=HELLO).model == "my-deployment"
    assert list(client.chat.completions.create(model="my-deployment", messages=HELLO, stream=True))
    conversation = client.conversations.create(items=HELLO)
    assert client.responses.create(model="m", conversation=conversation.id).output_text == "You said: hello there"
    assert list(client.responses.create(model="m", input="x", stream=True))[-1].type == "response.completed"
    assistant = client.beta.assistants.create(model="m")
    run = client.beta.threads.create_and_run_poll(assistant_id=assistant.id, thread={"messages": HELLO})
    assert run.status == "completed"
    assert client.models.list().data
    paths = {request.path.split("/")[1] for request in simulator.requests}
    assert paths == {"openai"}
    assert simulator.requests[0].path == "/openai/deployments/my-deployment/chat/completions"


def test_the_async_client_is_served_too(simulator):
    async def ask():
        async with azure(simulator, kind=AsyncAzureOpenAI) as client:
            return await client.chat.completions.create(model="my-deployment", messages=HELLO)

    assert asyncio.run(ask()).choices[0].message.content == "You said: hello there"


def test_both_kinds_of_client_reach_the_same_conversation(client, simulator):
    with OpenAI(base_url=simulator.base_url, api_key="sk-test", max_retries=0) as other:
        conversation = other.conversations.create(items=HELLO)
        assert client.conversations.retrieve(conversation.id).id == conversation.id
    assert simulator.provider.request_counts["GET /conversations/{conversation_id}"] == 1


def test_the_key_goes_in_a_header_of_its_own():
    with Simulator(api_key="right") as simulator:
        with azure(simulator, "right") as client:
            assert client.models.list().data
        with azure(simulator, "wrong") as client, pytest.raises(openai.AuthenticationError) as caught:
            client.models.list()
    assert caught.value.code == "401"
    assert caught.value.body["message"].startswith("Access denied due to invalid subscription key")


def test_that_header_counts_on_azures_addresses_alone(simulator):
    assert speak(simulator, "GET", "/v1/models", api_key="k")[0] == 401
    assert speak(simulator, "GET", f"/openai/models?api-version={VERSION}")[0] == 401
    assert speak(simulator, "GET", f"/openai/models?api-version={VERSION}", authorization="Bearer token")[0] == 200


def test_a_request_without_an_api_version_is_refused(simulator):
    status, body = speak(simulator, "GET", "/openai/models", api_key="k")
    assert (status, body["error"]["message"]) == (404, "Resource not found")
    assert speak(simulator, "GET", "/openai/v1/models", api_key="k")[0] == 200


@pytest.mark.parametrize("path", ["/openai/nowhere", "/openai/deployments/m", "/openai/deployments/m/nowhere"])
def test_an_address_that_azure_has_not_is_named(simulator, path):
    status, body = speak(simulator, "GET", f"{path}?api-version={VERSION}", api_key="k")
    assert (status, body["error"]["message"]) == (404, f"Invalid URL (GET {path})")


def test_faults_and_retired_apis_hold_there_too(client, simulator):
    simulator.add_fault("POST /chat/completions", refuse={"status": 503})
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model="m", messages=HELLO)
    simulator.retire("assistants")
    with pytest.raises(openai.NotFoundError, match="Not found"):
        client.beta.threads.create()
