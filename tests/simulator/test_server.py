"""Test the simulator as a server: address, lifecycle, API key, headers and control endpoints."""

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
from urllib.parse import urlsplit

import openai
import pytest
from openai import OpenAI

from threadledger.adapters.simulator import Simulator

from .helpers import refused

BETA = {"authorization": "Bearer x", "OpenAI_Beta": "assistants=v2"}


@pytest.fixture
def simulator():
    with Simulator(seed=7) as running:
        yield running


def speak(simulator, method, path, body=None, **headers):
    """Send one plain HTTP request without the SDK, and return status, headers and JSON."""
    address = urlsplit(simulator.base_url)
    connection = http.client.HTTPConnection(address.hostname, address.port)
    try:
        payload = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection.request(method, path, payload, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), json.loads(answer.read())
    finally:
        connection.close()


def test_a_free_port_is_known_as_soon_as_it_has_started():
    with Simulator() as one, Simulator() as two:
        assert one.base_url.startswith("http://127.0.0.1:")
        assert one.base_url.endswith("/v1")
        assert one.base_url != two.base_url


def test_before_it_has_started_it_has_no_address():
    with pytest.raises(RuntimeError, match="not running"):
        _ = Simulator().base_url


def test_it_cannot_be_started_twice(simulator):
    with pytest.raises(RuntimeError, match="already running"):
        simulator.start()


def test_a_port_in_use_is_refused_in_plain_words():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1 port {port}"):
            Simulator(port=port).start()


@pytest.mark.parametrize("port", [70_000, -1])
def test_a_port_that_cannot_be_is_refused_in_plain_words(port):
    with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1 port {port}: "):
        Simulator(port=port).start()


def test_a_stopped_simulator_answers_nobody_and_remembers_everything(client, simulator):
    conversation = client.conversations.create()
    port = urlsplit(simulator.base_url).port
    simulator.stop()
    simulator.stop()
    with pytest.raises(openai.APIConnectionError):
        client.conversations.retrieve(conversation.id)
    simulator.start()
    with OpenAI(base_url=simulator.base_url, api_key="sk-test", max_retries=0) as again:
        assert again.conversations.retrieve(conversation.id).id == conversation.id
    with Simulator(port=port) as other:
        assert str(port) in other.base_url


def test_it_leaves_no_thread_behind():
    before = set(threading.enumerate())  # another test may keep a simulator for its whole module
    with Simulator(), Simulator():
        pass
    assert [thread.name for thread in threading.enumerate() if thread not in before] == []


def test_ctrl_c_ends_it_cleanly_and_it_says_nothing_by_itself():
    code = (
        "from threadledger.adapters.simulator import Simulator\n"
        "simulator = Simulator().start()\n"
        "simulator.serve_forever(lambda: print(simulator.base_url, flush=True)); print('end')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        url = process.stdout.readline().strip()
        with OpenAI(base_url=url, api_key="sk-test", max_retries=0) as client:
            assert client.conversations.create().id
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "end\n", "")


def test_only_the_expected_key_is_let_in():
    with Simulator(api_key="sk-right") as simulator:
        with OpenAI(base_url=simulator.base_url, api_key="sk-right", max_retries=0) as client:
            assert client.models.list().data
        with OpenAI(base_url=simulator.base_url, api_key="sk-wrong-and-secret-1234", max_retries=0) as client:
            error = refused(client.models.list)
    assert isinstance(error, openai.AuthenticationError)
    assert (error.code, error.type) == ("invalid_api_key", "invalid_request_error")
    assert error.body["message"].startswith("Incorrect API key provided: sk-wrong************1234.")
    assert "secret" not in error.body["message"]


def test_a_request_without_a_key_is_refused(simulator):
    status, _, body = speak(simulator, "GET", "/v1/models")
    assert (status, body["error"]["code"]) == (401, None)
    assert body["error"]["message"].startswith("You didn't provide an API key.")


def test_the_assistants_surface_wants_its_beta_header(simulator):
    status, _, body = speak(simulator, "POST", "/v1/threads", {}, authorization="Bearer x")
    assert (status, body["error"]["code"]) == (400, "invalid_beta")


@pytest.mark.parametrize("path", ["/v1/models", "/v1/conversations/conv_x", "/v1/nowhere"])
def test_every_answer_carries_the_providers_headers(simulator, path):
    _, headers, _ = speak(simulator, "GET", path, authorization="Bearer x")
    assert headers["x-request-id"].startswith("req_")
    assert headers["openai-version"]
    assert int(headers["openai-processing-ms"]) >= 1
    assert headers["content-type"] == "application/json"


@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/foo"), ("DELETE", "/v1/models"), ("GET", "/elsewhere")])
def test_an_unknown_address_is_named(simulator, method, path):
    status, _, body = speak(simulator, method, path, authorization="Bearer x")
    assert (status, body["error"]["message"]) == (404, f"Invalid URL ({method} {path})")


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b"[]"])
def test_a_body_that_is_no_json_object_is_refused(simulator, body):
    status, _, answer = speak(simulator, "POST", "/v1/conversations", body, authorization="Bearer x")
    assert (status, answer["error"]["type"]) == (400, "invalid_request_error")


def test_text_that_is_no_valid_unicode_comes_back_as_it_went(simulator):
    body = b'{"items": [{"role": "user", "content": "half \\ud83d and \\u0000"}]}'
    status, _, made = speak(simulator, "POST", "/v1/conversations", body, authorization="Bearer x")
    assert status == 200
    path = f"/v1/conversations/{made['id']}/items"
    _, _, listed = speak(simulator, "GET", path, authorization="Bearer x")
    assert listed["data"][0]["content"][0]["text"] == "half \ud83d and \x00"


@pytest.mark.parametrize("limit", ["x", "--5", "1.5", "9" * 5000, ""])
def test_a_limit_that_is_no_number_is_refused(simulator, limit):
    status, _, body = speak(simulator, "GET", f"/v1/assistants?limit={limit}", **BETA)
    assert (status, body["error"]["param"]) == (400, "limit")


def test_requests_are_recorded_with_what_came_of_them(client, simulator):
    conversation = client.conversations.create(metadata={"key": "42"})
    refused(client.conversations.retrieve, "conv_x")
    simulator.add_fault("GET /models", drop=True)
    with pytest.raises(openai.APIConnectionError):
        client.models.list()
    assert [(r.method, r.path, r.status) for r in simulator.requests] == [
        ("POST", "/v1/conversations", 200),
        ("GET", "/v1/conversations/conv_x", 404),
        ("GET", "/v1/models", None),
    ]
    assert simulator.requests[0].body == {"metadata": {"key": "42"}}
    assert simulator.requests[0].request_id == conversation._request_id
    assert simulator.provider.request_counts["GET /conversations/{conversation_id}"] == 1


def test_the_control_endpoints_show_everything(client, simulator):
    conversation = client.conversations.create(items=[{"role": "user", "content": "hello"}])
    simulator.answer("later")
    simulator.add_fault("*", refuse={"status": 500}, after=9)
    _, _, state = speak(simulator, "GET", "/_simulator/state")
    assert state["conversations"][0]["items"][0]["content"][0]["text"] == "hello"
    assert (state["seed"], state["answers"]) == (7, ["later"])
    assert state["faults"][0]["refuse"]["status"] == 500
    _, _, requests = speak(simulator, "GET", "/_simulator/requests")
    assert requests["counts"] == {"POST /conversations": 1}
    assert requests["requests"][0]["request_id"] == conversation._request_id


def test_the_control_endpoints_change_the_simulation(client, simulator):
    conversation = client.conversations.create()
    speak(simulator, "POST", "/_simulator/answers", {"answers": ["scripted"]})
    speak(simulator, "POST", "/_simulator/faults", [{"on": "POST /responses", "refuse": {"status": 503}}])
    assert refused(client.responses.create, model="m", input="x").status_code == 503
    assert client.responses.create(model="m", input="x").output_text == "scripted"
    speak(simulator, "POST", "/_simulator/faults", {"on": "*", "drop": True})
    assert speak(simulator, "DELETE", "/_simulator/faults")[2] == {"faults": []}
    speak(simulator, "POST", "/_simulator/lose", {"id": conversation.id})
    assert refused(client.conversations.retrieve, conversation.id).status_code == 404
    speak(simulator, "POST", "/_simulator/retire", {"api": "responses"})
    assert refused(client.responses.create, model="m", input="x").body["message"] == "Not found"


def test_the_control_endpoints_limit_rates_and_show_the_limits(client, simulator):
    _, _, answer = speak(simulator, "POST", "/_simulator/rate_limits", {"requests_per_minute": 1})
    assert answer == {"rate_limits": {"requests": {"per_minute": 1, "left": 1}}}
    client.models.list()
    assert isinstance(refused(client.models.list), openai.RateLimitError)
    _, _, state = speak(simulator, "GET", "/_simulator/state")
    assert state["rate_limits"]["requests"]["left"] < 1
    speak(simulator, "POST", "/_simulator/rate_limits", {})
    assert client.models.list().data


def test_the_control_endpoints_show_what_was_sent(client, simulator):
    client.conversations.create(metadata={"key": "42"})
    [request] = speak(simulator, "GET", "/_simulator/requests")[2]["requests"]
    assert (request["path"], request["body"]) == ("/v1/conversations", {"metadata": {"key": "42"}})


def test_after_a_reset_nothing_was_ever_asked_or_scripted(client, simulator):
    first = client.conversations.create(items=[{"role": "user", "content": "hello"}])
    simulator.answer("later")
    simulator.add_fault("*", drop=True)
    simulator.retire("responses")
    _, _, state = speak(simulator, "POST", "/_simulator/reset")
    assert {name: value for name, value in state.items() if value} == {"seed": 7}
    assert simulator.requests == []
    assert client.responses.create(model="m", input="x").output_text == "You said: x"
    assert client.conversations.create().id != first.id


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/faults", {"on": "POST /nowhere", "drop": True}, 400, "faults[0].on: no such route"),
        ("/faults", b"{", 400, "Expecting"),
        ("/answers", {"answers": [7]}, 400, "answers[0]"),
        ("/lose", {}, 400, "id: is missing"),
        ("/lose", {"id": "thread_x"}, 404, "Nothing with id 'thread_x'"),
        ("/retire", {"api": "bogus"}, 400, "api: must be one of assistants"),
        ("/rate_limits", {"requests_per_minute": 0}, 400, "requests_per_minute: must be a whole number from 1"),
        ("/rate_limits", {"per_day": 1}, 400, "per_day: unknown key"),
        ("/bogus", {}, 404, "Invalid URL"),
    ],
)
def test_a_control_request_that_makes_no_sense_is_refused(simulator, path, body, status, words):
    answered, _, answer = speak(simulator, "POST", f"/_simulator{path}", body)
    assert answered == status
    assert words in answer["error"]["message"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "attacker.example"},
        {"Host": "127.0.0.1.attacker.example:80"},
        {"Host": "localhost.attacker.example"},
        {"Host": "10.0.0.1"},
        {"Host": "["},
        {"Origin": "https://attacker.example"},
        {"Origin": "http://localhost:3000"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_web_page_cannot_control_the_simulator(simulator, headers):
    for method, path, body in (
        ("GET", "/state", None),
        ("POST", "/retire", {"api": "responses"}),
        ("POST", "/reset", {}),
    ):
        status, _, answer = speak(simulator, method, f"/_simulator{path}", body, **headers)
        assert (status, answer["error"]["message"][:2] in ("Th", "A ")) == (403, True)
    assert simulator.provider.retired_apis == ()


def test_a_page_of_the_simulator_itself_and_a_loopback_name_may_control_it(simulator):
    port = urlsplit(simulator.base_url).port
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", "LOCALHOST"):
        own = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
        assert speak(simulator, "GET", "/_simulator/state", **own)[0] == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [("192.168.1.5:8765", 200), ("[fe80::1]", 200), ("simulator:8765", 200), ("rebound.example", 403), ("com.", 403)],
)
def test_on_a_network_it_is_controlled_by_address_or_by_a_name_without_a_dot(host, status):
    with Simulator("0.0.0.0", seed=7) as simulator:
        assert speak(simulator, "GET", "/_simulator/state", Host=host)[0] == status


def test_many_clients_at_once_lose_nothing(client, simulator):
    conversation = client.conversations.create()

    def write(number):
        for _ in range(25):
            client.conversations.items.create(conversation.id, items=[{"role": "user", "content": str(number)}])

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert len(simulator.provider.items[conversation.id]) <= 200
    assert len(simulator.provider.items[conversation.id]) == 200
