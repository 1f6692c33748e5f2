"""ChatGPT's data export: the branch that is shown is the memory, the others are branches, everything else is counted."""

from __future__ import annotations

import json
import zipfile

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from threadledger.adapters import export_lines
from threadledger.adapters.formats import chatgpt, trees

from .importing import end, imported, memory, said, states, written


def node(number, role="user", text=None, *, parent=None, children=(), content=None, hidden=False, **more):
    """A node as the export has it; ids are UUIDs there."""
    metadata = {"is_visually_hidden_from_conversation": True} if hidden else {}
    message = {
        "id": f"n{number}", "author": {"role": role, "name": more.pop("name", None), "metadata": {}},
        "create_time": 1_700_000_000.25 + number, "update_time": None, "status": "finished_successfully", "end_turn": None,
        "weight": 1.0, "recipient": more.pop("recipient", "all"), "metadata": metadata | more.pop("metadata", {}),
        "content": content or {"content_type": "text", "parts": [text if text is not None else f"text {number}"]}, **more,
    }  # fmt: skip
    return {"id": f"n{number}", "message": message, "parent": parent, "children": list(children)}


def conversation(*nodes, current=None, key="c-1", **more):
    """A chain of nodes, each the child of the one before unless it names its parent; in front of it the empty root."""
    mapping = {"root": {"id": "root", "message": None, "parent": None, "children": []}}
    last = "root"
    for each in nodes:
        mapping[each["id"]] = each | {"parent": each["parent"] or last}
        last = each["id"]
    return {"title": "About a parcel", "create_time": 1_700_000_000.5, "update_time": 1_700_000_009.5, "mapping": mapping,
            "moderation_results": [], "current_node": current or last, "conversation_id": key, "id": key, **more}  # fmt: skip


TALK = (node(1, "system", "", hidden=True), node(2, "user", "hi"), node(3, "assistant", "hello"))


def test_the_branch_that_ends_at_the_current_node_is_the_conversation(open_store, tmp_path):
    ledger = open_store()
    other = node(9, "assistant", "an answer that was made anew", parent="n2")
    exported = conversation(TALK[0], TALK[1], other, node(3, "assistant", "hello", parent="n2"))
    (outcome,) = imported(ledger, written(tmp_path / "conversations.json", [exported]))
    assert (outcome["state"], outcome["messages"]) == ("imported", 3)
    assert outcome["left_out"] == {"hidden_system_messages": 1}
    assert said(ledger, "c-1") == [("user", "hi"), ("assistant", "hello")]
    assert ledger.memory("c-1").messages[0].written_at == "2023-11-14T22:13:22.250000Z"
    assert next(iter(ledger.journal.history("c-1"))).metadata == {
        "title": "About a parcel", "create_time": 1_700_000_000.5}  # fmt: skip


def test_the_same_export_twice_changes_nothing_and_a_later_one_adds_its_end(open_store, tmp_path):
    ledger = open_store()
    path = written(tmp_path / "c.json", [conversation(*TALK)])
    imported(ledger, path)
    before = end(ledger)
    assert states(imported(ledger, path)) == [(1, "c-1", "unchanged", 0)]
    assert end(ledger) == before
    later = [conversation(*TALK, node(4, "user", "hi"))]
    assert states(imported(ledger, written(path, later))) == [(1, "c-1", "extended", 1)]
    assert said(ledger, "c-1") == [("user", "hi"), ("assistant", "hello"), ("user", "hi")]


def test_what_is_on_another_branch_in_a_later_export_is_left_and_selected_again_by_a_further_one(open_store, tmp_path):
    ledger = open_store()
    path = written(tmp_path / "c.json", [conversation(*TALK)])
    imported(ledger, path)
    again = [node(5, "assistant", "better", parent="n2")]
    (outcome,) = imported(ledger, written(path, [conversation(*TALK, *again)]))
    assert (outcome["state"], outcome["messages"]) == ("extended", 1)
    assert said(ledger, "c-1") == [("user", "hi"), ("assistant", "better")]
    for shown, text in (("n3", "hello"), ("n5", "better")):
        back = written(path, [conversation(*TALK, *again, current=shown)])
        assert states(imported(ledger, back)) == [(1, "c-1", "extended", 0)]
        assert states(imported(ledger, back)) == [(1, "c-1", "unchanged", 0)]
        assert said(ledger, "c-1") == [("user", "hi"), ("assistant", text)]


def test_what_was_imported_before_there_were_branches_is_continued_in_its_way(open_store, tmp_path, monkeypatch):
    ledger = open_store()
    path = written(tmp_path / "c.json", [conversation(*TALK)])
    monkeypatch.setattr(chatgpt.conversation_of, "__defaults__", (2,))
    imported(ledger, path)
    monkeypatch.undo()
    written(path, [conversation(*TALK, node(5, "assistant", "better", parent="n2"))])
    (outcome,) = imported(ledger, path)
    assert (outcome["state"], outcome["messages"], outcome["left_out"]["retracted"]) == ("extended", 1, 1)
    assert said(ledger, "c-1") == [("user", "hi"), ("assistant", "better")]
    assert states(imported(ledger, path)) == [(1, "c-1", "unchanged", 0)]


def branch_texts(ledger, key="c-1"):
    """The texts of each branch, from its beginning to its end."""
    found = []
    for branch in ledger.conversation(key).branches():
        memory = ledger.journal.memory(key, leaf=branch.end.version)
        found.append(" ".join(each.message.text for each in memory.messages))
    return sorted(found)


def test_every_branch_is_imported_with_what_leads_to_it(open_store, tmp_path):
    ledger = open_store()
    exported = conversation(
        *TALK,
        node(4, "user", "one"),
        node(5, "assistant", "1"),
        node(6, "user", "two", parent="n3"),
        node(7, "assistant", "2"),
        node(8, "assistant", "II", parent="n6"),
        node(9, "user", "hey", parent="n1"),
    )
    path = written(tmp_path / "c.json", [exported | {"current_node": "n7"}])
    assert imported(ledger, path)[0]["messages"] == 8
    assert said(ledger, "c-1")[-1] == ("assistant", "2")
    assert branch_texts(ledger) == ["hey", "hi hello one 1", "hi hello two 2", "hi hello two II"]
    assert (
        next(iter(ledger.conversations())).written_at == "2023-11-14T22:13:27.250000Z"
    )  # of the last one that is shown
    assert states(imported(ledger, path)) == [(1, "c-1", "unchanged", 0)]
    (line,) = export_lines(ledger, ["c-1"])
    assert [each["content"] for each in json.loads(line)["messages"]] == ["hi", "hello", "two", "2"]


def test_what_the_ledger_added_stays_in_front_of_what_a_grown_export_adds(open_store, tmp_path):
    ledger = open_store()
    other = node(9, "assistant", "better", parent="n2")
    path = written(tmp_path / "c.json", [conversation(*TALK, other, current="n3")])
    imported(ledger, path)
    ledger.conversation("c-1").append("user", "mine")
    assert states(imported(ledger, path)) == [(1, "c-1", "unchanged", 0)]
    more = node(4, "user", "more", parent="n3")
    written(path, [conversation(*TALK, other, more)])
    assert states(imported(ledger, path)) == [(1, "c-1", "extended", 1)]
    assert [text for _, text in said(ledger, "c-1")] == ["hi", "hello", "mine", "more"]
    chat = ledger.conversation("c-1")
    chat.select_branch(next(each for each in chat.branches() if each.end.message.text == "better").message_id)
    assert states(imported(ledger, path)) == [(1, "c-1", "unchanged", 0)]
    assert [text for _, text in said(ledger, "c-1")] == ["hi", "better"]


def test_more_branches_than_are_imported_are_counted(open_store, tmp_path, monkeypatch):
    monkeypatch.setattr(trees, "BRANCHES_MAX", 2)
    ledger = open_store()
    others = [node(number, "assistant", f"answer {number}", parent="n2") for number in range(4, 9)]
    (outcome,) = imported(ledger, written(tmp_path / "c.json", [conversation(*TALK, *others, current="n3")]))
    assert (outcome["messages"], outcome["left_out"]["messages_on_other_branches"]) == (4, 3)


def test_a_message_before_one_that_was_imported_is_refused(open_store, tmp_path):
    ledger = open_store()
    path = written(tmp_path / "c.json", [conversation(*TALK, node(4, "user", "one", parent="n2"), current="n3")])
    imported(ledger, path)
    between = node(8, "assistant", "between", parent="n2")
    written(path, [conversation(*TALK, between, node(4, "user", "one", parent="n8"), current="n3")])
    (outcome,) = imported(ledger, path)
    assert outcome["state"] == "failed"
    assert "precedes a message that was imported earlier" in outcome["reason"]


@st.composite
def growing_trees(draw):
    """Parents of nodes, and for each stage how many there are and which is current."""
    parents = [draw(st.integers(0, number)) for number in range(draw(st.integers(1, 9)))]
    cuts = sorted(draw(st.lists(st.integers(1, len(parents)), min_size=1, max_size=3)))
    return parents, [(cut, draw(st.integers(1, cut))) for cut in cuts]


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(growing=growing_trees())
@example(growing=([0, 1, 2], [(3, 1), (3, 3)]))  # the later file shows all, and has no other branch
def test_a_tree_that_grows_between_imports_is_imported_as_it_is_in_the_end(open_store, tmp_path, growing):
    ledger, (parents, stages) = open_store(), growing
    key = f"k-{end(ledger)}"

    def path_to(number):
        return [*path_to(parents[number - 1]), f"text {number}"] if number else []

    for cut, current in stages:
        nodes = [node(number, parent=f"n{parents[number - 1]}" if parents[number - 1] else "root")
                 for number in range(1, cut + 1)]  # fmt: skip
        path = written(tmp_path / "c.json", [conversation(*nodes, current=f"n{current}", key=key)])
        assert imported(ledger, path)[0]["state"] != "failed"
        assert [text for _, text in said(ledger, key)] == path_to(current)
        assert imported(ledger, path)[0]["state"] == "unchanged"
    leaves = set(range(1, cut + 1)) - set(parents[:cut]) | {current}
    assert branch_texts(ledger, key) == sorted(" ".join(path_to(leaf)) for leaf in leaves)


def test_a_call_of_a_tool_and_its_result_are_a_pair(open_store, tmp_path):
    code = {"content_type": "code", "language": "unknown", "text": "print(1)"}
    output = {"content_type": "execution_output", "text": "1\n"}
    image = {"content_type": "image_asset_pointer", "asset_pointer": "sediment://file_1", "size_bytes": 9, "width": 2}
    ledger = open_store()
    exported = conversation(
        *TALK,
        node(4, "assistant", content=code, recipient="dalle.text2im"),
        node(5, "tool", content=output, name="dalle.text2im"),
        node(6, "tool", content={"content_type": "multimodal_text", "parts": [image, ""]}, name="dalle.text2im"),
    )
    (outcome,) = imported(ledger, written(tmp_path / "c.json", [exported]))
    asked, result, second = memory(ledger, "c-1")[2:]
    assert asked["tool_calls"][0]["function"] == {"name": "dalle_text2im", "arguments": "print(1)"}
    assert (result["tool_call_id"], result["content"]) == (asked["tool_calls"][0]["id"], "1\n")
    assert second["content"] == [{"type": "text", "text": "[tool result dalle.text2im]"},
                                 image | {"type": "image_asset_pointer"}]  # fmt: skip
    assert outcome["left_out"]["tool_results_as_text"] == 1


def test_a_call_that_nobody_answered_does_not_take_a_later_answer(open_store, tmp_path):
    ledger = open_store()
    exported = conversation(*TALK, node(4, "assistant", "to a tool", recipient="bio"), node(5, "user", "well?"),
                            node(6, "tool", "from nowhere", name="web"))  # fmt: skip
    imported(ledger, written(tmp_path / "c.json", [exported]))
    assert said(ledger, "c-1")[-1] == ("assistant", "[tool result web]\n\nfrom nowhere")


def test_images_and_unknown_kinds_are_kept_and_reasoning_is_counted(open_store, tmp_path):
    image = {"content_type": "image_asset_pointer", "asset_pointer": "file-service://f", "size_bytes": 9}
    quote = {"content_type": "tether_quote", "url": "https://x", "text": "quoted"}
    attachment = {"id": "file-1", "name": "a.pdf", "size": 12, "mime_type": "application/pdf"}
    ledger = open_store()
    exported = conversation(
        node(1, content={"content_type": "multimodal_text", "parts": [image, "what is it?"]},
             metadata={"attachments": [attachment]}),
        node(2, "assistant", content={"content_type": "thoughts", "thoughts": [{"content": "hm"}]}),
        node(3, "assistant", content=quote),
        node(4, "assistant", ""),
    )  # fmt: skip
    (outcome,) = imported(ledger, written(tmp_path / "c.json", [exported]))
    first, second = memory(ledger, "c-1")
    assert first["content"] == [image | {"type": "image_asset_pointer"}, {"type": "text", "text": "what is it?"}]
    assert first["attachments"] == [attachment]
    assert second["content"] == [{"type": "reasoning", "text": "hm"}, {"type": "text", "text": "quoted"}]
    assert outcome["left_out"] == {"reasoning": 1, "empty_messages": 1}


def test_the_zip_is_read_as_it_came_in_all_its_parts(open_store, tmp_path):
    path = tmp_path / "export.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("user.json", "{}")
        archive.writestr("conversations-000.json", json.dumps([conversation(*TALK), 7]))
        archive.writestr("conversations-001.json", json.dumps([conversation(*TALK, key="c-2")]))
    found = sorted(imported(open_store(), path), key=lambda outcome: outcome["line"])
    assert states(found) == [(1, "c-1", "imported", 2), (2, "", "failed", 0), (3, "c-2", "imported", 2)]


@pytest.mark.parametrize("content", [b"PK\x03\x04 no zip", None], ids=["no zip", "without conversations"])
def test_another_zip_is_refused_with_a_sentence(open_store, tmp_path, content):
    path = tmp_path / "export.zip"
    if content is None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("user.json", "{}")
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match="the zip"):
        imported(open_store(), path)


ROUND = conversation(node(1, parent="n2"), node(2, parent="n1"))
DAMAGED = {
    "no current node": (conversation(*TALK) | {"current_node": None}, "hi hello", {}),
    "a current node that is not there": (conversation(*TALK, current="gone"), "hi hello", {}),
    "two ends, none of them current": (
        conversation(*TALK, node(5, "assistant", "newer", parent="n2"), node(4, "assistant", "older", parent="n2"))
        | {"current_node": None},
        "hi newer",
        {"guessed_branches": 1},
    ),
    "a parent that is not there": (conversation(node(2, text="b", parent="gone")), "b", {"broken_parents": 1}),
    "parents in a circle": (ROUND, "text 1 text 2", {"broken_parents": 1}),
    "half a character": (conversation(node(1, text="a \ud83d")), "a \ufffd", {"half_characters": 1}),
    "a message of an unknown role": (conversation(*TALK, node(4, "robot")), "hi hello", {"unreadable_messages": 1}),
    "a message that is a list": (
        conversation(*TALK, node(4) | {"message": [1]}),
        "hi hello",
        {"unreadable_messages": 1},
    ),
    "a message without content": (
        conversation(*TALK, node(4) | {"message": {"author": {"role": "user"}}}),
        "hi hello",
        {"unreadable_messages": 1},
    ),
    "no messages": (conversation() | {"mapping": {}, "current_node": None}, "", {}),
}


@pytest.mark.parametrize(("damaged", "texts", "counted"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_conversation_is_imported_as_far_as_it_can_be_read(open_store, tmp_path, damaged, texts, counted):
    ledger = open_store()
    path = written(tmp_path / "c.json", [damaged])
    (outcome,) = imported(ledger, path)
    hidden = {"hidden_system_messages": 1} if "hi " in texts else {}
    assert (outcome["state"], outcome["left_out"]) == ("imported", counted | hidden)
    assert " ".join(text for _, text in said(ledger, "c-1")) == texts
    assert imported(ledger, path)[0]["state"] == "unchanged"


@pytest.mark.parametrize("key", [None, "a\0"])
def test_a_conversation_without_a_usable_id_gets_the_name_of_the_file_and_its_number_as_its_key(
    open_store, tmp_path, key
):
    (outcome,) = imported(open_store(), written(tmp_path / "c.json", [conversation(*TALK, key=key)]))
    assert (outcome["key"], outcome["left_out"]["made_keys"]) == ("c.json:1", 1)


def test_what_was_spoken_is_text_and_its_recording_is_counted(open_store, tmp_path):
    spoken = {"content_type": "audio_transcription", "text": "and the second one?", "direction": "in"}
    recording = {"content_type": "real_time_user_audio_video_asset_pointer", "frames_asset_pointers": []}
    ledger = open_store()
    voice = {"content_type": "multimodal_text", "parts": [spoken, recording]}
    silent = {"content_type": "multimodal_text", "parts": [recording]}
    exported = conversation(*TALK, node(4, content=voice), node(5, content=silent))
    (outcome,) = imported(ledger, written(tmp_path / "c.json", [exported]))
    assert (outcome["left_out"]["recordings"], outcome["left_out"]["empty_messages"]) == (2, 1)
    assert memory(ledger, "c-1")[-1] == {"role": "user", "content": "and the second one?"}
    origin = list(ledger.journal.history("c-1"))[-1].origin
    assert (origin["message_id"], origin["thread_id"], origin["created_at"]) == ("n4", "c-1", 1_700_000_004.25)
    assert [part["content_type"] for part in origin["parts"]] == [spoken["content_type"], recording["content_type"]]


BAD = {
    "a number": (7, 'no object "mapping"'),
    "no mapping": ({"id": "x"}, 'no object "mapping"'),
    "an unknown role": (conversation(node(1, "robot")), "node 2: unknown role 'robot'"),
    "an id of a node that cannot be stored": (conversation({**node(1), "id": "a\0"}), "contains a NUL"),
}


@pytest.mark.parametrize(("bad", "told"), BAD.values(), ids=BAD)
def test_a_bad_conversation_is_reported_with_its_place_and_the_good_ones_are_kept(open_store, tmp_path, bad, told):
    ledger = open_store()
    path = written(tmp_path / "c.json", [conversation(*TALK), bad, conversation(*TALK, key="c-3")])
    found = sorted(imported(ledger, path), key=lambda outcome: outcome["line"])
    assert [(each["line"], each["state"]) for each in found] == [(1, "imported"), (2, "failed"), (3, "imported")]
    assert told in found[1]["reason"]
    assert "\n" not in found[1]["reason"]
    assert said(ledger, "c-1") == said(ledger, "c-3") == [("user", "hi"), ("assistant", "hello")]


def test_bytes_that_are_no_utf8_and_nesting_cost_their_own_conversation_alone(open_store, tmp_path):
    good = json.dumps(conversation(*TALK)).encode()
    third = json.dumps(conversation(*TALK, key="c-4")).encode()
    path = tmp_path / "c.json"
    path.write_bytes(
        b"[\n" + good + b',\n{"title": "\xff", "mapping": {}},\n' + b"[" * 5000 + b"]" * 5000 + b"," + third + b"]"
    )
    found = sorted(imported(open_store(), path, "chatgpt"), key=lambda outcome: outcome["line"])
    assert [(each["line"], each["state"]) for each in found] == [
        (1, "imported"), (2, "failed"), (3, "failed"), (4, "imported")]  # fmt: skip
    assert "not UTF-8" in found[1]["reason"]
    assert 'no object "mapping"' in found[2]["reason"]


def test_an_export_that_was_cut_off_is_told_and_what_is_whole_is_kept(open_store, tmp_path):
    path = tmp_path / "c.json"
    whole = json.dumps([conversation(*TALK), conversation(*TALK, key="c-2")])
    for cut, told in ((len(whole) - 1, "ends inside its array"), (len(whole) - 30, "not JSON")):
        path.write_text(whole[:cut])
        found = sorted(imported(open_store(), path, "chatgpt"), key=lambda outcome: outcome["line"])
        assert found[0]["state"] in {"imported", "unchanged"}
        assert (found[-1]["state"], told in found[-1]["reason"]) == ("failed", True)
