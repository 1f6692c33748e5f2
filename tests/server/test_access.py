"""Who may send a request: keys, tenants, loopback, web pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai
import pytest
from openai import AzureOpenAI, OpenAI

from threadledger.adapters.server.access import Access, NoKeys
from threadledger.adapters.server.calls import ServedCall
from threadledger.adapters.server.server import Server
from threadledger.adapters.wire import ApiError
from threadledger.domain.errors import InvalidSettings

from .speaking import OTHER_KEY, OWN_KEY, READ_KEY, Keys, bearer, connected, head, read, say

Serve = Callable[..., Any]


def whoami(_served: Any, call: ServedCall) -> Any:
    return {"name": call.caller.name, "tenant": call.caller.tenant, "actor": call.caller.actor}


HANDLERS = {"retrieve_thread": whoami, "modify_thread": whoami, "delete_thread": whoami}
PATH = "/v1/threads/t"


def test_a_key_names_its_caller_and_its_tenant(serve: Serve, keys: Keys) -> None:
    server = serve(HANDLERS, keys=keys)
    assert say(server, "GET", PATH, **bearer(OWN_KEY)).json == {"name": "own", "tenant": "acme", "actor": "key:own"}
    assert say(server, "POST", PATH, {}, **bearer(OTHER_KEY)).json == {
        "name": "other",
        "tenant": "",
        "actor": "key:other",
    }
    assert say(server, "GET", PATH, Authorization=f"bearer  {OWN_KEY} ").status == 200


@pytest.mark.parametrize(
    "given", [{}, {"Authorization": f"Basic {OWN_KEY}"}, {"Authorization": "Bearer "}, {"api_key": OWN_KEY}]
)
def test_without_a_key_a_request_is_401_in_the_providers_words(serve: Serve, keys: Keys, given: dict[str, str]) -> None:
    for path in (PATH, "/v1/nowhere"):
        refused = say(serve(HANDLERS, keys=keys), "GET", path, **given)
        assert (refused.status, refused.error["message"][:33]) == (401, "You didn't provide an API key. Yo")


@pytest.mark.parametrize("sized", ["Content-Length: 65537", "Transfer-Encoding: chunked"])
def test_a_large_body_is_not_read_before_the_key_is_known(serve: Serve, keys: Keys, sized: str) -> None:
    server = serve({"create_thread": lambda *_: {}}, keys=keys)
    with connected(server) as line:
        line.sendall(head(server, "POST", "/v1/threads", "Content-Type: application/json", sized))
        assert read(line).status == 401


def test_a_wrong_key_is_401_and_is_not_shown(serve: Serve, keys: Keys) -> None:
    server = serve(HANDLERS, keys=keys)
    ours = OpenAI(base_url=server.base_url, api_key="sk-wrong-and-secret-1234", max_retries=0)
    with ours as client, pytest.raises(openai.AuthenticationError) as refused:
        client.models.list()
    assert refused.value.code == "invalid_api_key"
    assert "secret" not in str(refused.value.body)
    assert "serve keys add" in str(refused.value.body)
    azure = AzureOpenAI(
        azure_endpoint=f"http://{server.host}:{server.port}", api_key="no", api_version="1", max_retries=0
    )
    with azure as client, pytest.raises(openai.AuthenticationError) as refused:
        client.models.list()
    assert refused.value.code == "401"


def test_a_key_that_may_only_read_reads(serve: Serve, keys: Keys) -> None:
    server = serve(HANDLERS, keys=keys)
    assert say(server, "GET", PATH, **bearer(READ_KEY)).status == 200
    for method in ("POST", "DELETE"):
        refused = say(server, method, PATH, {} if method == "POST" else None, **bearer(READ_KEY))
        assert (refused.status, refused.error["code"]) == (403, "read_only_key")


def test_a_key_that_is_added_or_revoked_counts_at_once(serve: Serve) -> None:
    keys = Keys({})
    server = serve(HANDLERS, keys=keys)
    assert say(server, "GET", PATH).json["name"] == ""
    keys.known |= Keys().known
    assert say(server, "GET", PATH).status == 401
    assert say(server, "GET", PATH, **bearer(OWN_KEY)).status == 200
    del keys.known[OWN_KEY]
    assert say(server, "GET", PATH, **bearer(OWN_KEY)).status == 401


HOSTS = {
    "localhost:{port}": 200,
    "LOCALHOST:{port}": 200,
    "127.0.0.1:{port}": 200,
    "127.9.9.9:{port}": 200,
    "[::1]:{port}": 200,
    "localhost": 421,
    "localhost:1": 421,
    "attacker.example:{port}": 421,
    "localhost.attacker.example:{port}": 421,
    "127.0.0.1.attacker.example:{port}": 421,
    "10.0.0.1:{port}": 421,
    "0.0.0.0:{port}": 421,
    "localhost:{port}@attacker.example": 421,
    "evil@127.0.0.1:{port}": 421,
    "evil:{port}@127.0.0.1:{port}": 421,
    "@127.0.0.1:{port}": 421,
    "evil@ledger.example": 421,
    "127.0.0.1:{port}@": 421,
    "localhost:": 421,
    "localhost:x": 421,
    "localhost:+{port}": 421,
    "localhost:0{port}": 421,
    "localhost:{port}x": 421,
    "localhost:{port}:{port}": 421,
    "localhost:{port}/": 421,
    "localhost:{port}?": 421,
    "localhost:{port}#": 421,
    "localhost:{port}\\\\.attacker.example": 421,
    "localhost:{port}, attacker.example": 421,
    "localhost {port}": 421,
    "localhost:999999": 421,
    "localhost.:{port}": 421,
    "127.0.0.1.:{port}": 421,
    "127.1:{port}": 421,
    "2130706433:{port}": 421,
    "0x7f.0.0.1:{port}": 421,
    "::1:{port}": 421,
    "[::1": 421,
    "::1]:{port}": 421,
    "[::1]{port}": 421,
    "[[::1]]:{port}": 421,
    "[::1%25lo]:{port}": 421,
    "[127.0.0.1]:{port}": 421,
    "[localhost]:{port}": 421,
    "[::]:{port}": 421,
    "[::2]:{port}": 421,
    "[fe80::1]:{port}": 421,
    "[0:0:0:0:0:0:0:1]:{port}": 200,
    "[": 421,
    "": 421,
    "Ledger.example": 200,
    "ledger.example:443": 200,
    "other.example:9000": 200,
    "other.example": 421,
}


@pytest.mark.parametrize("host", HOSTS)
def test_without_keys_only_names_of_this_machine_and_allowed_ones_are_answered(serve: Serve, host: str) -> None:
    server = serve(HANDLERS, allowed_hosts=("ledger.EXAMPLE", "other.example:9000"))
    for method in ("GET", "POST"):
        answered = say(server, method, PATH, {} if method == "POST" else None, Host=host.format(port=server.port))
        assert answered.status == HOSTS[host]
        if answered.status == 421:
            assert answered.error["code"] == "unknown_host"


def test_without_keys_a_request_without_a_host_is_refused(serve: Serve) -> None:
    with connected(serve(HANDLERS)) as line:
        line.sendall(f"GET {PATH} HTTP/1.0\r\n\r\n".encode())
        assert read(line).status == 421


def test_with_keys_any_host_is_answered(serve: Serve, keys: Keys) -> None:
    assert say(serve(HANDLERS, keys=keys), "GET", PATH, Host="ledger.example", **bearer(OWN_KEY)).status == 200


PAGES = [
    {"Origin": "https://attacker.example"},
    {"Origin": "http://localhost:3000"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Origin": "http://127.0.0.1:{port}"},
    {"Origin": "http://evil@127.0.0.1:{port}"},
    {"Origin": "//localhost:{port}"},
    {"Origin": "http://[::1]:{port}"},
    {"Origin": "http://localhost.:{port}"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_without_keys_a_web_page_is_refused_whatever_it_sends(serve: Serve, page: dict[str, str]) -> None:
    called: list[str] = []
    server = serve({name: lambda _, call: called.append(call.route.name) or {} for name in HANDLERS})
    page = {name: value.format(port=server.port) for name, value in page.items()}
    for method in ("GET", "POST", "DELETE", "OPTIONS"):
        for extra in ({}, bearer("any"), {"Content_Type": "text/plain"}):
            refused = say(server, method, PATH, b"{}" if method == "POST" else None, **page, **extra)
            assert (refused.status, refused.error["code"]) == (403, "web_page")
            assert not [name for name in refused.headers if name.startswith("access-control")]
    assert called == []


@pytest.mark.parametrize("own", [{"Sec-Fetch-Site": "none"}, {"Sec-Fetch-Site": "same-origin"}], ids=str)
def test_without_keys_an_address_that_is_typed_is_answered(serve: Serve, own: dict[str, str]) -> None:
    assert say(serve(HANDLERS), "GET", PATH, **own).status == 200


def test_with_keys_a_page_needs_one_and_its_preflight_is_refused(serve: Serve, keys: Keys) -> None:
    server = serve(HANDLERS, keys=keys)
    page = {"Origin": "https://app.example"}
    refused = say(server, "POST", PATH, {}, **page)
    assert (refused.status, refused.error["code"]) == (403, "web_page")
    preflight = say(server, "OPTIONS", PATH, Access_Control_Request_Method="POST", **page)
    assert (preflight.status, preflight.error["code"]) == (403, "web_page")
    answered = say(server, "POST", PATH, {}, **page, **bearer(OWN_KEY))
    assert answered.status == 200
    assert say(server, "POST", PATH, {}, **page, **bearer("wrong")).status == 401
    for each in (refused, preflight, answered):
        assert not [name for name in each.headers if name.startswith("access-control")]


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "ledger.example", ""])
def test_other_machines_need_a_key_before_the_server_starts(bare_ledger: Any, host: str) -> None:
    from threadledger.adapters.server import Served, ServeSettings
    from threadledger.adapters.server.runner import Runner

    with pytest.raises(InvalidSettings, match=r"without a key.*threadledger serve keys add NAME"):
        Server(Served(bare_ledger, ServeSettings(), Runner(bare_ledger)), HANDLERS, host, 0).start()
    Access(Keys(), host, 1).require_safe_start(host)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.1.2.3"])
def test_loopback_needs_none(host: str) -> None:
    Access(NoKeys(), host, 1).require_safe_start(host)


def test_a_server_for_other_machines_answers_no_one_when_its_last_key_is_revoked(serve: Serve) -> None:
    keys = Keys()
    server = serve(HANDLERS, host="0.0.0.0", keys=keys)
    assert say(server, "GET", PATH, **bearer(OWN_KEY)).status == 200
    keys.known.clear()
    assert say(server, "GET", PATH, **bearer(OWN_KEY)).status == 401
    assert say(server, "GET", PATH, Host=f"localhost:{server.port}").status == 401


def test_a_name_that_only_resembles_loopback_is_none() -> None:
    access = Access(NoKeys(), "127.0.0.1", 80)
    assert access.caller_of({"host": "localhost"}).name == ""  # the port of http is left out
    for host in ("localhost:81", "localhost.", "local host", "2130706433", "0x7f.1"):
        with pytest.raises(ApiError):
            access.caller_of({"host": host})
