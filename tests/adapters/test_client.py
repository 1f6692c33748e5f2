"""The SDK's clients: one POST is sent once, to the provider and with the credentials that were given, and nowhere else."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from threadledger.adapters.openai import Client
from threadledger.domain.errors import ProviderRefused
from threadledger.domain.failures import Cause, diagnose

from .serving import Serving

MESSAGES: Any = [{"role": "user", "content": "hello"}]


class Refusing(Serving):
    """A server that refuses every POST with one status, or cuts the connection, and keeps what it was sent."""

    def __init__(self) -> None:
        self.status: int | None = 500
        self.sent: list[tuple[str, dict[str, str]]] = []
        refusing = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                refusing.sent.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                self.close_connection = True
                if refusing.status is not None:
                    self.send_response(refusing.status)
                    self.send_header("content-length", "0")
                    self.end_headers()

        super().__init__(Handler)


@pytest.fixture
def refusing() -> Iterator[Refusing]:
    """A provider that refuses."""
    server = Refusing()
    yield server
    server.stop()


def client_on(url: str, kind: str = "openai") -> Client:
    if kind == "openai":
        return Client(api_key="sk-openai-1", base_url=f"{url}/v1")
    return Client(api_key="azure-key-1", azure_endpoint=url, api_version="2026-01-01")


def post(client: Client, way: str) -> None:
    """One POST that is refused, with the sync client or with the async one."""
    import openai

    async def awaited() -> None:
        try:
            await client.async_sdk.chat.completions.create(model="m", messages=MESSAGES)
        finally:
            await client.aclose()

    with pytest.raises(openai.APIError):
        if way == "async":
            asyncio.run(awaited())
        else:
            try:
                client.sdk.chat.completions.create(model="m", messages=MESSAGES)
            finally:
                client.close()


EVERY = [(kind, way) for kind in ("openai", "azure") for way in ("sync", "async")]


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503, None])
@pytest.mark.parametrize(("kind", "way"), EVERY)
def test_a_post_that_fails_is_sent_exactly_once(refusing, kind, way, status):
    refusing.status = status
    post(client_on(refusing.url, kind), way)
    assert len(refusing.sent) == 1


@pytest.mark.parametrize("way", ["sync", "async"])
def test_azure_is_asked_by_deployment_and_version_with_its_own_key(refusing, way):
    post(client_on(refusing.url, "azure"), way)
    path, headers = refusing.sent[0]
    assert path == "/openai/deployments/m/chat/completions?api-version=2026-01-01"
    assert headers["api-key"] == "azure-key-1"
    assert "authorization" not in headers


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_deployment_that_was_given_is_asked_whatever_the_model_is_called(refusing, way):
    post(replace(client_on(refusing.url, "azure"), azure_deployment="ours"), way)
    assert refusing.sent[0][0] == "/openai/deployments/ours/chat/completions?api-version=2026-01-01"


@pytest.mark.parametrize("way", ["sync", "async"])
def test_an_entra_id_token_goes_before_azures_key(refusing, way):
    post(replace(client_on(refusing.url, "azure"), azure_ad_token="token-1"), way)
    headers = refusing.sent[0][1]
    assert headers["authorization"] == "Bearer token-1"
    assert "api-key" not in headers


@pytest.mark.parametrize(("kind", "way"), EVERY)
def test_no_credentials_are_taken_from_elsewhere_than_the_settings(refusing, monkeypatch, kind, way):
    for name in ("OPENAI_API_KEY", "AZURE_OPENAI_API_KEY", "AZURE_OPENAI_AD_TOKEN"):
        monkeypatch.setenv(name, "sk-somebody-else")
    for name in ("OPENAI_BASE_URL", "AZURE_OPENAI_ENDPOINT"):
        monkeypatch.setenv(name, "http://somebody.invalid")
    post(client_on(refusing.url, kind), way)
    assert "somebody" not in str(refusing.sent)
    assert len(refusing.sent) == 1


NOT_ENOUGH = {
    "no key": (Client(), "OPENAI_API_KEY", False),
    "a token, but no Azure": (Client(azure_ad_token="t"), "OPENAI_API_KEY", False),
    "Azure without a key": (Client(azure_endpoint="https://a.example"), "AZURE_OPENAI_API_KEY", False),
    "Azure without a version": (
        Client(azure_endpoint="https://a.example", azure_ad_token="t"), "OPENAI_API_VERSION", True
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", ["sdk", "async_sdk"])
@pytest.mark.parametrize(("client", "name", "has_credentials"), NOT_ENOUGH.values(), ids=NOT_ENOUGH)
def test_without_what_a_client_needs_the_setting_is_named_and_nobody_is_called(client, name, has_credentials, way):
    with pytest.raises(ProviderRefused) as refused:
        getattr(client, way)
    assert diagnose(refused.value.failure) is Cause.AUTHENTICATION
    assert refused.value.failure.message == f"{name} is not set"
    assert client.has_credentials is has_credentials


def test_the_endpoint_tells_providers_apart_and_keeps_no_secret():
    endpoints = [
        Client().endpoint,
        Client(base_url="https://user:secret@host.example/v1/?key=secret").endpoint,
        Client(azure_endpoint="https://user:secret@a.example/", api_version="1").endpoint,
        Client(azure_endpoint="https://b.example", api_version="1").endpoint,
    ]
    assert endpoints == [
        "https://api.openai.com/v1",
        "https://host.example/v1",
        "https://a.example/openai",
        "https://b.example/openai",
    ]
    one, other = (Client(azure_endpoint="https://a.example", api_version=version) for version in ("1", "2"))
    assert one.endpoint == replace(other, azure_deployment="d").endpoint


def test_secrets_do_not_show_in_a_client():
    shown = repr(Client(api_key="sk-secret", azure_endpoint="https://a.example", azure_ad_token="token-secret"))
    assert "secret" not in shown


@pytest.mark.parametrize("kind", ["openai", "azure"])
def test_closing_closes_the_clients_that_there_are_and_makes_none(kind):
    unused = client_on("http://127.0.0.1:9", kind)
    unused.close()
    asyncio.run(unused.aclose())
    assert not {"sdk", "async_sdk"} & vars(unused).keys()
    client = client_on("http://127.0.0.1:9", kind)
    sdk, async_sdk = client.sdk, client.async_sdk
    client.close()
    assert (sdk.is_closed(), async_sdk.is_closed()) == (True, False)
    asyncio.run(client.aclose())
    assert async_sdk.is_closed()
