"""Test which inputs each API accepts and refuses: parts of messages, items, and the order of items."""

import pytest

from threadledger.adapters.simulator import Simulator

from .helpers import refused

PNG = "data:image/png;base64,iVBORw0KGgo="
PDF = "data:application/pdf;base64,JVBERi0="
WAV = "UklGRg=="
MODEL = {"model": "any-model"}
CITED = {"type": "url_citation", "url": "https://a.example/", "title": "A", "start_index": 0, "end_index": 2}
SEARCHED = {"id": "ws_1", "type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "x"}}
SUMMARY = [{"type": "summary_text", "text": "hm"}]
THOUGHT = {"id": "rs_1", "type": "reasoning", "summary": SUMMARY, "encrypted_content": "gAAA"}
SAID = {"role": "assistant", "content": "hi"}
ASKED = {"role": "user", "content": "x"}


@pytest.fixture(scope="module")
def simulator():
    with Simulator(seed=7) as running:
        yield running


def chat(client, *parts, role="user"):
    """Send parts as the content of a message; the messages around it are valid."""
    message = {"role": role, "content": list(parts)}
    before = []
    if role == "tool":
        function = {"name": "f", "arguments": "{}"}
        before = [{"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": function}]}]
        message["tool_call_id"] = "c"
    return client.chat.completions.create(**MODEL, messages=[*before, message])


def ask(client, *items):
    return client.responses.create(**MODEL, input=list(items))


def user(*parts):
    return {"role": "user", "content": list(parts)}


def assistant(*parts):
    return {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": list(parts)}


def image(url=PNG, **more):
    return {"type": "image_url", "image_url": {"url": url, **more}}


def paper(**fields):
    return {"type": "file", "file": fields}


def sound(data=WAV, kind="wav"):
    return {"type": "input_audio", "input_audio": {"data": data, "format": kind}}


TEXT = {"type": "text", "text": "x"}
CHAT_ACCEPTED = {
    "text": ("user", TEXT),
    "image by address": ("user", image("https://a.example/b.png", detail="low")),
    "image in base64": ("user", image()),
    "sound": ("user", sound()),
    "sound in mp3": ("user", sound(kind="mp3")),
    "file as a data URL": ("user", paper(file_data=PDF, filename="a.pdf")),
    "file in base64": ("user", paper(file_data="JVBERi0=", filename="a.pdf")),
    "refusal": ("assistant", {"type": "refusal", "refusal": "no"}),
    "text of the model": ("assistant", TEXT),
    "text of a tool": ("tool", TEXT),
    "text of a developer": ("developer", TEXT),
}


@pytest.mark.parametrize("name", CHAT_ACCEPTED)
def test_chat_completions_accept(client, name):
    role, part = CHAT_ACCEPTED[name]
    assert chat(client, part, role=role).choices[0].message.content


WHERE = "messages[0].content[0]"
CHAT_REFUSED = {
    "unknown type": ("user", {"type": "video"}, f"{WHERE}.type", "Supported values are: 'text', 'image_url'"),
    "part of the other API": ("user", {"type": "input_text", "text": "x"}, f"{WHERE}.type", "Invalid value"),
    "no address": ("user", {"type": "image_url", "image_url": {}}, f"{WHERE}.image_url.url", "Missing required"),
    "other scheme": ("user", image("ftp://a"), f"{WHERE}.image_url.url", "Invalid image URL: "),
    "no base64": ("user", image("data:image/png,x"), f"{WHERE}.image_url.url", "without the ';base64,' marker"),
    "bad base64": ("user", image("data:image/png;base64,x"), f"{WHERE}.image_url.url", "invalid base64-encoded value"),
    "empty": ("user", image("data:image/png;base64,"), f"{WHERE}.image_url.url", "empty base64-encoded bytes"),
    "bad kind": ("user", image(PNG.replace("png", "tiff")), f"{WHERE}.image_url.url", "unsupported MIME type"),
    "bad detail": ("user", image(detail="original"), f"{WHERE}.image_url.detail", "'auto', 'low', and 'high'"),
    "unknown field": ("user", image(size=3), f"{WHERE}.image_url.size", "Unknown parameter"),
    "image of the model": ("assistant", image(), f"{WHERE}.type", "Supported values are: 'text' and 'refusal'."),
    "refusal of a user": ("user", {"type": "refusal", "refusal": "no"}, f"{WHERE}.type", "Invalid value: 'refusal'"),
    "sound as a data URL": ("user", sound(f"data:audio/wav;base64,{WAV}"), f"{WHERE}.input_audio.data", "base64"),
    "sound in another format": ("user", sound(kind="ogg"), f"{WHERE}.input_audio.format", "'wav' and 'mp3'"),
    "file without a name": ("user", paper(file_data=PDF), f"{WHERE}.file.filename", "Missing required parameter"),
    "no file": ("user", paper(filename="a.pdf"), f"{WHERE}.file.file_id", "Missing required parameter"),
    "file by address": ("user", paper(file_url="https://a"), f"{WHERE}.file.file_url", "not supported for chat"),
    "bad file": ("user", paper(file_data="??", filename="a"), f"{WHERE}.file.file_data", "Invalid file data: "),
    "image as a file": ("user", paper(file_data=PNG, filename="a"), f"{WHERE}.file.file_data", "unsupported MIME type"),
    "image of a tool": ("tool", image(), "messages[1].content[0].type", "Supported values are: 'text'."),
}


@pytest.mark.parametrize("name", CHAT_REFUSED)
def test_chat_completions_refuse(client, name):
    role, part, param, words = CHAT_REFUSED[name]
    error = refused(chat, client, part, role=role)
    assert (error.status_code, error.type, error.param) == (400, "invalid_request_error", param)
    assert words in error.body["message"]


ITEMS_ACCEPTED = {
    "text": [user({"type": "input_text", "text": "x"})],
    "image by address": [user({"type": "input_image", "image_url": "https://a.example/b.png", "detail": "original"})],
    "image in base64": [user({"type": "input_image", "image_url": PNG, "detail": "auto"})],
    "file as a data URL": [user({"type": "input_file", "file_data": PDF, "filename": "a.pdf"})],
    "file by address": [user({"type": "input_file", "file_url": "https://a.example/a.pdf", "detail": "low"})],
    "citation": [assistant({"type": "output_text", "text": "hi", "annotations": [CITED]}), ASKED],
    "citation of a file": [
        assistant(
            {
                "type": "output_text",
                "text": "hi",
                "annotations": [{"type": "file_citation", "file_id": "file-gone", "index": 1, "filename": "a.pdf"}],
                "logprobs": [],
            }
        ),
        ASKED,
    ],
    "refusal": [assistant({"type": "refusal", "refusal": "no"}), ASKED],
    "reasoning with its answer": [ASKED, THOUGHT, SAID, ASKED],
    "reasoning with its search": [ASKED, THOUGHT, SEARCHED, SAID, ASKED],
    "code": [
        {
            "id": "ci_1", "type": "code_interpreter_call", "status": "completed", "container_id": "cntr_1", "code": "1",
            "outputs": [{"type": "logs", "logs": "1"}],
        },
        ASKED,
    ],
    "search in files": [
        {"id": "fs_1", "type": "file_search_call", "status": "completed", "queries": ["x"], "results": None},
        ASKED,
    ],
    "image made": [{"id": "ig_1", "type": "image_generation_call", "status": "completed", "result": "AAAA"}, ASKED],
    "remote tools": [
        {"id": "l", "type": "mcp_list_tools", "server_label": "s", "tools": [{"name": "t", "input_schema": {}}]},
        {"id": "m", "type": "mcp_call", "server_label": "s", "name": "t", "arguments": "{}", "output": "1"},
        {"id": "q", "type": "mcp_approval_request", "server_label": "s", "name": "t", "arguments": "{}"},
        {"type": "mcp_approval_response", "approval_request_id": "q", "approve": True},
        ASKED,
    ],
    "output with parts": [
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {
            "type": "function_call_output",
            "call_id": "c",
            "output": [{"type": "input_text", "text": "x"}, {"type": "input_image", "image_url": PNG}],
        },
    ],
    "call of a custom tool": [
        {"type": "custom_tool_call", "call_id": "c", "name": "t", "input": "x"},
        {"type": "custom_tool_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "x"}]},
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", ITEMS_ACCEPTED)
def test_responses_and_conversations_accept(client, name):
    given = ITEMS_ACCEPTED[name]
    assert ask(client, *given).output_text
    made = client.conversations.create(items=given)
    kinds = [item.type for item in client.conversations.items.list(made.id, order="asc")]
    assert kinds == [item.get("type", "message") for item in given]
    assert client.responses.create(**MODEL, conversation=made.id, input="and now?").status == "completed"


IN_ITEM = "input[0].content[0]"
ITEMS_REFUSED = {
    "sound": (user(sound()), IN_ITEM, "Invalid value: 'input_audio'. Supported values are: 'input_text'"),
    "text of the other API": (user(TEXT), IN_ITEM, "Invalid value: 'text'"),
    "input text of the model": (assistant({"type": "input_text", "text": "x"}), IN_ITEM, "'output_text' and 'refusal'"),
    "image of the model": (assistant({"type": "input_image", "image_url": PNG}), IN_ITEM, "'input_image'"),
    "no address": (user({"type": "input_image"}), f"{IN_ITEM}.image_url", "Missing required parameter"),
    "bad base64": (
        user({"type": "input_image", "image_url": "data:image/png;base64,a"}), f"{IN_ITEM}.image_url",
        "Expected a base64-encoded data URL with an image MIME type",
    ),
    "two sources": (
        user({"type": "input_file", "file_url": "https://a", "file_id": "file-1"}), f"{IN_ITEM}.file_url",
        "Mutually exclusive parameters",
    ),
    "file without a name": (user({"type": "input_file", "file_data": PDF}), f"{IN_ITEM}.filename", "Missing required"),
    "unknown field": (user({"type": "input_text", "text": "x", "size": 1}), f"{IN_ITEM}.size", "Unknown parameter"),
    "unknown field of an item": (ASKED | {"created_by": "me"}, "input[0].created_by", "Unknown parameter"),
    "bad citation": (
        assistant({"type": "output_text", "text": "x", "annotations": [{"type": "url_citation"}]}),
        f"{IN_ITEM}.annotations[0].url", "Missing required parameter",
    ),
    "search without an action": ({**SEARCHED, "action": {"type": "guess"}}, "input[0].action.type", "'open_page'"),
    "unknown status": ({**SEARCHED, "status": "done"}, "input[0].status", "Invalid value: 'done'"),
    "reasoning without its id": ({"type": "reasoning", "summary": []}, "input[0].id", "Missing required parameter"),
    "id of another kind": ({**SAID, "type": "message", "id": "fc_1"}, "input[0].id", "an ID that begins with 'msg'."),
    "id of a call": (
        {"type": "function_call", "call_id": "c", "id": "call_1", "name": "f", "arguments": "{}"}, "input[0].id",
        "Invalid 'input[0].id': 'call_1'. Expected an ID that begins with 'fc'.",
    ),
    "long id": ({**SEARCHED, "id": "ws_" + "1" * 62}, "input[0].id", "Expected a string with maximum length 64"),
    "unknown type": ({"type": "riddle"}, "input[0].type", "Invalid value: 'riddle'"),
    "image too long": (
        user({"type": "input_image", "image_url": PNG + "A" * 20_971_520}), f"{IN_ITEM}.image_url", "string too long",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ITEMS_REFUSED)
def test_responses_and_conversations_refuse(client, simulator, name):
    item, param, words = ITEMS_REFUSED[name]
    error = refused(ask, client, item)
    assert (error.status_code, error.type, error.param) == (400, "invalid_request_error", param)
    assert words in error.body["message"]
    assert refused(client.conversations.create, items=[item]).param == param.replace("input[0]", "items[0]")


CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
ORDERS_REFUSED = {
    "reasoning alone": (
        [ASKED, THOUGHT],
        "Item 'rs_1' of type 'reasoning' was provided without its required following",
    ),
    "reasoning before a question": ([THOUGHT, ASKED], "without its required following item"),
    "call without its output": ([ASKED, CALL], "No tool output found for function call c."),
    "call of a custom tool": (
        [{"type": "custom_tool_call", "call_id": "c", "name": "t", "input": "x"}],
        "No tool output found for custom tool call c.",
    ),
    "one item twice": ([SEARCHED, SEARCHED, ASKED], "Duplicate item found with id ws_1."),
}


@pytest.mark.parametrize("name", ORDERS_REFUSED)
def test_items_that_do_not_stand_together_are_refused_when_a_response_is_asked_for(client, name):
    given, words = ORDERS_REFUSED[name]
    error = refused(ask, client, *given)
    assert (error.status_code, error.param) == (400, "input")
    assert words in error.body["message"]


def test_reasoning_that_the_provider_did_not_keep_is_refused_unless_its_content_is_sent(client, simulator):
    output = [{"type": "reasoning", "summary": SUMMARY}, "It is 7."]
    simulator.answer(*[{"output": output}] * 2)
    kept, lost = (client.responses.create(**MODEL, input="x", store=store) for store in (True, False))
    again = [ASKED, *(item.to_dict() for item in kept.output), ASKED]
    assert ask(client, *again).status == "completed"
    thought, said = (item.to_dict() for item in lost.output)
    error = refused(ask, client, ASKED, thought, said, ASKED)
    assert (error.status_code, error.param) == (404, "input")
    assert error.body["message"].startswith(f"Item with id '{thought['id']}' not found. Items are not persisted when")
    assert ask(client, ASKED, thought | {"encrypted_content": "gAAA"}, said, ASKED).status == "completed"


def test_an_answer_without_the_reasoning_it_followed_is_refused(client, simulator):
    simulator.answer({"output": [{"type": "reasoning", "summary": SUMMARY}, "It is 7."]})
    thought, said = (item.to_dict() for item in client.responses.create(**MODEL, input="x").output)
    error = refused(ask, client, ASKED, said, ASKED)
    assert (error.status_code, error.param) == (400, "input")
    problem = (
        f"Item '{said['id']}' of type 'message' was provided without its required 'reasoning' item: '{thought['id']}'."
    )
    assert error.body["message"] == problem
    del said["id"]
    assert ask(client, ASKED, {"role": "assistant", "content": "It is 7."}, ASKED).status == "completed"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's, of every call of the Assistants API
@pytest.mark.parametrize(
    ("message", "param", "words"),
    [
        ({"content": [image(PNG)]}, "content[0].image_url.url", "Expected a valid URL"),
        ({"content": [image("https://a.example/b.png", detail="original")]}, "content[0].image_url.detail", "'high'"),
        ({"content": [{"type": "input_text", "text": "x"}]}, "content[0].type", "Invalid value: 'input_text'"),
        ({"content": "x", "attachments": [{"file_id": "file-1"}]}, "attachments[0].tools", "Missing required"),
        (
            {"content": "x", "attachments": [{"file_id": "file-1", "tools": [{"type": "function"}]}]},
            "attachments[0].tools[0].type",
            "'code_interpreter' and 'file_search'",
        ),
    ],
)
def test_a_message_of_a_thread_is_refused(client, message, param, words):
    thread = client.beta.threads.create()
    error = refused(client.beta.threads.messages.create, thread.id, role="user", **message)
    assert (error.status_code, error.param) == (400, param)
    assert words in error.body["message"]
    error = refused(client.beta.threads.create, messages=[{"role": "user", "nickname": "x", **message}])
    assert error.param == "messages[0].nickname"
