"""Run docs/a-chat-app-in-15-minutes.md: its code is examples/chat_app.py, and its commands are executed against a server."""

from __future__ import annotations

import base64
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "a-chat-app-in-15-minutes.md"
EXAMPLE = ROOT / "examples" / "chat_app.py"

pytestmark = pytest.mark.skipif(not EXAMPLE.is_file(), reason="the tests run against the wheel, without the tree")

LABEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
IMAGE = f"data:image/png;base64,{base64.b64encode(LABEL).decode()}"
ANNA, BERT = {"X-User": "anna"}, {"X-User": "bert"}


@pytest.fixture(autouse=True)
def place(simulator: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working folder with an image, where the simulator is the provider."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "label.png").write_bytes(LABEL)
    for name, value in {
        "THREADLEDGER_DB": str(tmp_path / "chats.db"),
        "OPENAI_BASE_URL": simulator.base_url,
        "OPENAI_API_KEY": "any",
        "THREADLEDGER_BACKENDS": "chat",
        "THREADLEDGER_THREADS": "none",
        "THREADLEDGER_RETRIES": "0",
    }.items():
        monkeypatch.setenv(name, value)
    return tmp_path


@pytest.fixture
def client() -> Iterator[Any]:
    from fastapi.testclient import TestClient

    with TestClient(runpy.run_path(str(EXAMPLE))["app"], raise_server_exceptions=False) as opened:
        yield opened


def start(client: Any, headers: dict[str, str] = ANNA, title: str = "My parcel") -> str:
    return str(client.post("/chats", json={"title": title}, headers=headers).json())


def ask(client: Any, path: str, body: Any = None, headers: dict[str, str] = ANNA) -> dict[str, Any]:
    """Return the last event of a stream, after checking that its pieces are its text."""
    reply = client.post(path, json=body, headers=headers)
    assert (reply.status_code, reply.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    events = [(name, json.loads(data)) for name, data in re.findall(r"event: (\w+)\ndata: (.*)\n\n", reply.text)]
    assert "".join(data["text"] for name, data in events if name == "delta") == events[-1][1]["text"]
    assert events[-1][0] == "answer"
    return dict(events[-1][1])


def texts(client: Any, chat: str) -> list[str]:
    return [each["content"] for each in client.get(f"/chats/{chat}", headers=ANNA).json()]


def test_the_code_of_the_document_is_the_example_from_its_first_import_to_its_end() -> None:
    source = EXAMPLE.read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert "\n\n".join(blocks) == source[source.index("import json\n") :]


@pytest.mark.skipif(shutil.which("curl") is None, reason="the commands of the document need curl")
def test_every_command_of_the_document_runs(place: Path, simulator: Any) -> None:
    commands = re.findall(
        r"^    (\S.*)$", re.sub(r"```python.*?```", "", DOCUMENT.read_text("utf-8"), flags=re.DOTALL), re.M
    )
    for set_up in ("pip install fastapi uvicorn", "threadledger simulate --port 9000 &"):
        commands.remove(set_up)  # is installed; the fixture has started another one
    (address,) = [each for each in commands if each.startswith("export ")]
    commands.remove(address)
    (serve,) = [each for each in commands if each.startswith("uvicorn ")]
    commands.remove(serve)
    arguments = (
        serve.replace("--app-dir examples", f"--app-dir {EXAMPLE.parent}").replace("--port 8000", "--port 0").split()
    )
    server = subprocess.Popen([sys.executable, "-m", *arguments], stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        lines = iter(server.stderr.readline, "")
        url = next(found[1] for line in lines if (found := re.search(r"running on http://(\S+)", line)))
        printed = run_all(commands, url)
    finally:
        server.terminate()
        server.communicate(timeout=30)
    assert printed["curl -s localhost:8000/chats -H 'X-User: bert'"] == '{"items":[],"next":null}'
    assert "You said: Where is my letter?" in printed["threadledger show $CHAT --tree"]
    assert (place / "copy.png").read_bytes() == LABEL


def run_all(commands: list[str], url: str) -> dict[str, str]:
    """Run commands in one environment, in which what the document says is kept, and return what each printed last."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    printed: dict[str, str] = {}
    for command in commands:
        variable = command.partition("=")[0] if re.match(r"[A-Z]+=", command) else ""
        kept = f'; printf %s "${variable}"' if variable else ""
        shown = command.replace("localhost:8000", url) + kept
        done = subprocess.run(["bash", "-c", shown], env=environment, capture_output=True, text=True, check=True)
        assert '"error"' not in done.stdout and '"detail"' not in done.stdout, (command, done.stdout)
        printed[command] = done.stdout
        if variable:
            environment[variable] = done.stdout
        elif command.startswith("curl -s localhost:8000/chats/$CHAT -H"):
            ids = [each["message_id"] for each in json.loads(done.stdout)]
            environment |= {"QUESTION": ids[0], "ANSWER": ids[1], "PICTURE": ids[2]}
    return printed


def test_the_list_is_newest_first_in_pages_and_with_search(client: Any) -> None:
    chats = [start(client, title=f"Parcel {number}") for number in range(21)]
    ask(client, f"/chats/{chats[3]}/questions", {"text": "Where is my umbrella?"})
    first = client.get("/chats", headers=ANNA).json()
    rest = client.get("/chats", params={"after": first["next"]}, headers=ANNA).json()
    listed = [each["key"] for each in (*first["items"], *rest["items"])]
    assert listed == [chats[3], *(chat for chat in reversed(chats) if chat != chats[3])]
    assert (len(first["items"]), rest["next"]) == (20, None)
    assert [each["key"] for each in client.get("/chats?search=umbrella", headers=ANNA).json()["items"]] == [chats[3]]
    assert client.get("/chats?after=x", headers=ANNA).status_code == 422


def test_variants_are_shown_and_selected(client: Any, simulator: Any) -> None:
    simulator.answer("In Lyon.", "In Oslo.", "In Rome.")
    chat = start(client)
    first = ask(client, f"/chats/{chat}/questions", {"text": "Where is my parcel?"})
    second = ask(client, f"/chats/{chat}/messages/{first['message_id']}/regenerate")
    shown = client.get(f"/chats/{chat}", headers=ANNA).json()
    assert shown[1]["variants"] == [first["message_id"], second["message_id"]]
    ask(client, f"/chats/{chat}/messages/{shown[0]['message_id']}/edit", {"text": "Where is my letter?"})
    assert texts(client, chat) == ["Where is my letter?", "In Rome."]
    client.post(f"/chats/{chat}/messages/{first['message_id']}/select", headers=ANNA)
    assert texts(client, chat) == ["Where is my parcel?", "In Lyon."]


def test_an_image_is_sent_to_the_model_and_shown_again(client: Any, simulator: Any) -> None:
    chat = start(client)
    ask(client, f"/chats/{chat}/questions", {"text": "Is this its label?", "image": IMAGE})
    assert IMAGE in json.dumps(simulator.requests[-1].body)
    (question, _) = client.get(f"/chats/{chat}", headers=ANNA).json()
    reply = client.get(f"/chats/{chat}/messages/{question['message_id']}/image", headers=ANNA)
    assert (reply.content, reply.headers["content-type"]) == (LABEL, "image/png")
    for other in ("http://127.0.0.1/label.png", "data:image/svg+xml;base64,PHN2Zy8+"):
        assert (
            client.post(f"/chats/{chat}/questions", json={"text": "?", "image": other}, headers=ANNA).status_code == 422
        )


def test_a_user_never_sees_or_changes_what_another_one_has(client: Any, simulator: Any) -> None:
    chat = start(client)
    answer = ask(client, f"/chats/{chat}/questions", {"text": "Where is my parcel?", "image": IMAGE})["message_id"]
    message = f"/chats/{chat}/messages/{answer}"
    calls = [
        ("GET", f"/chats/{chat}", None),
        ("PATCH", f"/chats/{chat}", {"title": "Mine"}),
        ("POST", f"/chats/{chat}/questions", {"text": "And mine?"}),
        ("GET", f"{message}/image", None),
        ("POST", f"{message}/edit", {"text": "And mine?"}),
        ("POST", f"{message}/regenerate", None),
        ("POST", f"{message}/select", None),
    ]
    with_key = {(*route.methods, route.path) for route in client.app.routes if "{key}" in route.path}
    assert len(with_key) == len(calls), "a route with a key is missing here"
    before = client.get(f"/chats/{chat}", headers=ANNA).json()
    for method, path, body in calls:
        foreign = client.request(method, path, json=body, headers=BERT)
        unknown = client.request(method, path.replace(chat, "unknown"), json=body, headers=BERT)
        assert (foreign.status_code, foreign.json()) == (404, {"error": "no such chat or message"})
        assert foreign.json() == unknown.json()
    assert client.get("/chats", headers=BERT).json() == {"items": [], "next": None}
    assert client.get("/chats?search=parcel", headers=BERT).json()["items"] == []
    assert client.get("/search?text=parcel", headers=BERT).json() == []
    assert client.get(f"/chats/{chat}", headers=ANNA).json() == before
    assert client.get("/chats").status_code == 422, "without a user"
    assert len(simulator.requests) == 1


def test_a_question_that_no_backend_answers_is_kept(client: Any, simulator: Any) -> None:
    chat = start(client)
    simulator.add_fault("POST /chat/completions", refuse={"status": 500})
    reply = client.post(f"/chats/{chat}/questions", json={"text": "Where is it?"}, headers=ANNA)
    assert (reply.status_code, reply.json()) == (503, {"error": "no answer now; the question is kept"})
    assert texts(client, chat) == ["Where is it?"]
    simulator.add_fault("POST /chat/completions", truncate={"events": 3})
    reply = client.post(f"/chats/{chat}/questions", json={"text": "Where is it?"}, headers=ANNA)
    assert reply.text.endswith("event: failed\ndata: {}\n\n")


def test_what_a_user_does_is_stored_under_their_name(client: Any) -> None:
    chat = start(client)
    ask(client, f"/chats/{chat}/questions", {"text": "Where is it?"})
    events = client.app.state.ledger.ledger.events(key=chat)
    assert {each.event.actor for each in events} == {"user:anna"}
