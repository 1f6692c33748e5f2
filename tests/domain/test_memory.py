"""What a model is shown: as of a version or a time, within a budget; nothing is lost from the data."""

import hashlib
import json
from datetime import UTC, datetime, timedelta
from functools import partial as fact

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from threadledger.domain.canonical import EMPTY_PATH
from threadledger.domain.conversation import events as e
from threadledger.domain.conversation import parse_message
from threadledger.domain.errors import InvalidInput
from threadledger.domain.memory import Memory, fold_memory, response_items

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def said(number, text=None, role="user", **more):
    return fact(e.MessageJournaled, message_id=f"m{number}", role=role, content=text or f"text {number}", **more)


def user(text):
    return {"role": "user", "content": text}


def assistant(text=None, *call_ids):
    calls = [{"id": each, "type": "function", "function": {"name": "f", "arguments": "{}"}} for each in call_ids]
    return {"role": "assistant", "content": text} | ({"tool_calls": calls} if calls else {})


def result(call_id, text="42"):
    return {"role": "tool", "tool_call_id": call_id, "content": text}


def ids(memory):
    return [each.message_id for each in memory.messages]


class TestAsOf:
    @pytest.fixture
    def events(self, log):
        return log(fact(e.ConversationStarted, key="k"), said(1), said(2), said(3), began=NOON)

    def test_a_version_is_inclusive(self, events):
        memory = fold_memory(events, at=3)
        assert (ids(memory), memory.version) == (["m1", "m2"], 3)

    def test_a_time_is_inclusive(self, events):
        memory = fold_memory(events, at=NOON + timedelta(seconds=2))
        assert (ids(memory), memory.version) == (["m1", "m2"], 3)

    def test_a_moment_before_an_event_does_not_show_it(self, events):
        assert ids(fold_memory(events, at=NOON + timedelta(seconds=2, microseconds=-1))) == ["m1"]

    def test_version_zero_and_a_time_before_the_beginning_show_nothing(self, events):
        assert fold_memory(events, at=0) == Memory()
        assert fold_memory(events, at=NOON - timedelta(days=1)) == Memory()

    def test_a_version_that_is_not_there_yet_shows_all(self, events):
        memory = fold_memory(events, at=99)
        assert (ids(memory), memory.version) == (["m1", "m2", "m3"], 4)

    def test_without_a_moment_all_is_shown(self, events):
        memory = fold_memory(events)
        assert (ids(memory), memory.version, memory.rule) == (["m1", "m2", "m3"], 4, "2;all")

    def test_the_version_is_that_of_the_last_event_not_of_the_last_message(self, log):
        assert fold_memory(log(said(1), fact(e.ThreadLinked, backend="b", thread_id="t"))).version == 2

    def test_a_message_retracted_later_is_shown_as_of_before(self, log):
        events = log(said(1), said(2), fact(e.MessageRetracted, message_id="m1"))
        assert ids(fold_memory(events, at=2)) == ["m1", "m2"]
        assert ids(fold_memory(events, at=3)) == ["m2"]


class TestTakenOut:
    def test_a_retracted_message_is_not_shown(self, log):
        assert ids(fold_memory(log(said(1), said(2), fact(e.MessageRetracted, message_id="m1")))) == ["m2"]

    def test_a_retraction_of_what_is_not_there_changes_nothing(self, log):
        assert ids(fold_memory(log(said(1), fact(e.MessageRetracted, message_id="m9")))) == ["m1"]

    def test_cleared_memory_is_empty_up_to_and_including_its_version(self, log):
        assert ids(fold_memory(log(said(1), said(2), fact(e.MemoryCleared, up_to_version=2), said(3)))) == ["m3"]

    def test_what_came_after_the_cleared_version_stays(self, log):
        assert ids(fold_memory(log(said(1), said(2), fact(e.MemoryCleared, up_to_version=1)))) == ["m2"]

    def test_what_a_rerun_supersedes_is_not_shown(self, log):
        accepted = fact(e.RerunAccepted, exchange_id="x", run_id="r", message_id="m3", superseded_message_id="m2")
        assert ids(fold_memory(log(said(1), said(2), said(3), accepted))) == ["m1", "m3"]

    def test_a_rerun_that_supersedes_no_message_takes_nothing_out(self, log):
        accepted = fact(e.RerunAccepted, exchange_id="x", run_id="r", message_id="m2", superseded_run_id="m1")
        assert ids(fold_memory(log(said(1), said(2), accepted))) == ["m1", "m2"]

    def test_two_equal_texts_are_two_messages(self, log):
        assert len(fold_memory(log(said(1, "yes"), said(2, "yes"))).as_chat_messages()) == 2

    def test_the_thread_that_a_run_wrote_to_is_remembered(self, log):
        memory = fold_memory(log(fact(e.RunCompleted, run_id="r1", thread_id="t1"), fact(e.RunCompleted, run_id="r2")))
        assert memory.run_threads == {"r1": "t1"}


def meanwhile(number):
    return said(number, f"meanwhile {number}")


def answered_in(thread_id, run_id, mark, number):
    """A run's end in a thread that held the journal up to a version, and its answer."""
    return [
        fact(e.RunCompleted, run_id=run_id, thread_id=thread_id, thread_version=mark),
        said(number, role="assistant", run_id=run_id),
    ]


class TestInThread:
    def test_what_was_journaled_while_a_run_answered_comes_behind_its_answer(self, log):
        memory = fold_memory(log(said(1), meanwhile(2), *answered_in("t", "r1", 1, 4), said(5)))
        assert [each.message_id for each in memory.in_thread("t")] == ["m1", "m4", "m2", "m5"]
        assert ids(memory) == ["m1", "m2", "m4", "m5"]

    @pytest.mark.parametrize("thread_id", [None, "another"])
    def test_any_other_thread_holds_the_order_of_the_journal(self, log, thread_id):
        memory = fold_memory(log(said(1), meanwhile(2), *answered_in("t", "r1", 1, 4)))
        assert memory.in_thread(thread_id) == memory.paired()

    def test_what_the_thread_held_before_the_run_stays_before_it(self, log):
        memory = fold_memory(log(said(1), meanwhile(2), *answered_in("t", "r1", 2, 4)))
        assert [each.message_id for each in memory.in_thread("t")] == ["m1", "m2", "m4"]

    def test_an_answer_stored_by_an_older_release_has_no_mark_and_stands_where_it_was_journaled(self, log):
        (end,) = log(fact(e.RunCompleted, run_id="r1", thread_id="t"))
        assert end.thread_version is None
        memory = fold_memory(log(said(1), meanwhile(2), *answered_in("t", "r1", None, 4)))
        assert memory.run_marks == {}
        assert memory.in_thread("t") == memory.paired()

    def test_the_calls_of_a_run_and_their_results_come_before_what_was_journaled_between_them(self, log):
        call = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
        wish = said(2, role="assistant", run_id="r1", tool_calls=call)
        looked = said(4, role="tool", run_id="r1", tool_call_id="c1")
        memory = fold_memory(log(said(1), wish, meanwhile(3), looked, *answered_in("t", "r1", 1, 6)))
        assert [each.message_id for each in memory.in_thread("t")] == ["m1", "m2", "m4", "m6", "m3"]

    @for_all(
        st.lists(
            st.one_of(
                st.just("said"),
                st.tuples(st.booleans(), st.lists(st.sampled_from(["call", "result", "meanwhile"]), max_size=6)),
            ),
            max_size=8,
        )
    )
    def test_it_is_a_permutation_in_which_a_runs_messages_stand_together_behind_its_mark(self, log, parts):
        facts, marks = [], {}
        for part in parts:
            if part == "said":
                facts.append(said(len(facts) + 1))
            else:
                marks |= _run(facts, *part)
        memory = fold_memory(log(*facts))
        placed, mended = memory.in_thread("t"), memory.paired()
        assert sorted(map(_id, placed)) == sorted(map(_id, mended))
        for run_id, mark in marks.items():
            places = [index for index, each in enumerate(placed) if each.run_id == run_id]
            assert places == list(range(places[0], places[-1] + 1))
            assert all(each.version <= mark for each in placed[: places[0]])
            assert [placed[place] for place in places] == [each for each in mended if each.run_id == run_id]
        assert [each for each in placed if each.run_id not in marks] == [
            each for each in mended if each.run_id not in marks
        ]


def _id(journaled):
    return journaled.message_id


def _run(facts, in_thread, within):
    """Append a run to the facts, with what is journaled while it is open; its mark, where it takes place in the thread."""
    run_id, mark, waiting = f"r{len(facts)}", len(facts), []
    for each in [*within, *["result"] * within.count("call")]:
        number = len(facts) + 1
        if each == "meanwhile":
            facts.append(meanwhile(number))
        elif each == "call":
            waiting.append(f"c{number}")
            calls = [{"id": waiting[-1], "type": "function", "function": {"name": "f", "arguments": "{}"}}]
            facts.append(said(number, role="assistant", run_id=run_id, tool_calls=calls))
        elif waiting:
            facts.append(said(number, role="tool", run_id=run_id, tool_call_id=waiting.pop(0)))
    place = ("t", run_id, mark) if in_thread else (None, run_id, None)
    facts += answered_in(*place, len(facts) + 2)
    return {run_id: mark} if in_thread else {}


class TestWindow:
    @pytest.fixture
    def memory(self, memory_of):
        return memory_of(*[user(f"text {number}") for number in range(1, 6)])

    @pytest.mark.parametrize(
        ("last", "shown"), [(1, ["m5"]), (2, ["m4", "m5"]), (5, None), (99, None), (None, None)], ids=str
    )
    def test_the_last_messages_are_shown(self, memory, last, shown):
        assert ids(memory.window(last)) == (shown or ["m1", "m2", "m3", "m4", "m5"])

    def test_a_window_keeps_the_version_it_was_viewed_at(self, memory):
        assert memory.window(1).version == memory.version

    @pytest.mark.parametrize("bounds", [{"last": 0}, {"last": -1}, {"tokens": 0}, {"last": 3, "tokens": -5}], ids=str)
    def test_a_window_that_shows_nothing_is_refused(self, memory, bounds):
        with pytest.raises(InvalidInput, match="would show nothing"):
            memory.window(**bounds)

    def test_a_budget_is_kept(self, memory):
        one = memory.window(last=1).estimated_tokens()
        assert ids(memory.window(tokens=3 * one)) == ["m3", "m4", "m5"]
        assert ids(memory.window(tokens=3 * one - 1)) == ["m4", "m5"]

    def test_the_newest_message_is_shown_even_where_it_alone_is_over_the_budget(self, memory_of):
        memory = memory_of(user("short"), user("long " * 1_000))
        assert ids(memory.window(tokens=1)) == ["m2"]

    def test_nothing_older_is_shown_beside_a_newest_message_over_the_budget(self, memory_of):
        memory = memory_of(user("a"), user("b"), user("long " * 1_000))
        assert ids(memory.window(tokens=20)) == ["m3"]

    def test_both_bounds_hold(self, memory):
        assert ids(memory.window(last=2, tokens=10_000)) == ["m4", "m5"]
        assert ids(memory.window(last=4, tokens=1)) == ["m5"]

    def test_an_empty_memory_has_an_empty_window(self):
        assert Memory().window(last=3, tokens=10).messages == ()

    @pytest.mark.parametrize(
        ("bounds", "rule"),
        [
            ({}, "2;all"),
            ({"last": 2}, "2;last=2"),
            ({"tokens": 30}, "2;tokens=30"),
            ({"last": 3, "tokens": 20}, "2;last=3,tokens=20"),
        ],
        ids=str,
    )
    def test_the_stored_rule_gives_the_same_view_again(self, memory, bounds, rule):
        window = memory.window(**bounds)
        assert window.rule == rule
        assert memory.by_rule(rule) == memory.by_rule(rule, window.first_version) == window

    def test_a_view_begins_with_the_message_that_was_stored_whatever_the_estimate_says_now(self, memory, monkeypatch):
        window = memory.window(tokens=15)
        assert window.first_version == window.messages[0].version > memory.messages[0].version
        monkeypatch.setattr("threadledger.domain.memory.rule_1.estimate_tokens", lambda text: 1_000)
        assert memory.by_rule(window.rule) != window
        assert memory.by_rule(window.rule, window.first_version) == window

    @pytest.mark.parametrize("rule", ["summary", "2;summary"])
    def test_a_rule_of_a_newer_version_shows_all(self, memory, rule):
        assert memory.by_rule(rule).messages == memory.messages

    def test_the_newest_message_is_shown_where_it_is_a_tool_result_too(self, memory_of):
        memory = memory_of(user("Where?"), assistant(None, "c1"), result("c1", "long " * 1_000))
        for window in (memory.window(last=1), memory.window(tokens=10)):
            assert "long" in json.dumps(window.as_chat_messages())

    @for_all(
        st.lists(st.text(max_size=40), max_size=12), st.none() | st.integers(1, 15), st.none() | st.integers(1, 80)
    )
    def test_a_window_is_the_longest_tail_within_its_bounds(self, memory_of, texts, last, tokens):
        memory = memory_of(*map(user, texts))
        window = memory.window(last, tokens)
        kept = len(window.messages)
        assert window.messages == memory.messages[len(memory.messages) - kept :]
        assert kept >= min(1, len(texts))
        assert last is None or kept <= last
        assert tokens is None or kept <= 1 or window.estimated_tokens() <= tokens
        if kept < len(texts) and kept != last:
            assert memory.window(last=kept + 1).estimated_tokens() > tokens


class TestSettled:
    @pytest.mark.parametrize(
        ("messages", "settled"),
        [
            ([], 0),
            ([user("Hi")], 1),
            ([user("Hi"), assistant("Hello")], 2),
            ([user("Hi"), assistant(None, "c1")], 1),
            ([user("Hi"), assistant(None, "c1"), result("c1")], 3),
            ([user("Hi"), assistant(None, "c1", "c2"), result("c1")], 1),
            ([user("Hi"), assistant(None, "c1", "c2"), result("c2"), result("c1")], 4),
            ([user("Hi"), assistant(None, "c1"), result("c1"), assistant(None, "c2")], 3),
            ([user("Hi"), assistant(None, "c1"), result("c1"), assistant(None, "c1")], 3),
            ([user("Hi"), assistant(None, "c1"), user("Never mind")], 3),
            ([user("Hi"), assistant(None, "c1"), result("c9")], 1),
        ],
        ids=[
            "empty",
            "a question",
            "an answer",
            "a call without result",
            "a call with its result",
            "two calls, one result",
            "two calls, two results",
            "the second round waits",
            "the same id waits again",
            "something was said since",
            "another call's result",
        ],
    )
    def test_a_call_at_the_end_that_waits_for_results_is_held_back(self, memory_of, messages, settled):
        memory = memory_of(*messages)
        assert memory.settled().messages == memory.messages[:settled]

    def test_however_many_calls_wait_at_the_end_all_are_held_back(self, memory_of):
        waiting = [assistant(None, f"c{number}") for number in range(2_000)]
        assert ids(memory_of(user("Hi"), *waiting).settled()) == ["m1"]

    def test_what_is_held_back_stays_in_the_data(self, memory_of):
        memory = memory_of(user("Hi"), assistant(None, "c1"))
        memory.settled()
        assert ids(memory) == ["m1", "m2"]


class TestChatMessages:
    def test_messages_are_shown_as_they_were_given(self, memory_of):
        messages = [user("Hi"), assistant("Let me see.", "c1"), result("c1"), assistant("42")]
        assert memory_of(*messages).as_chat_messages() == messages

    def test_a_shown_message_that_is_changed_changes_nothing_in_memory(self, memory_of):
        memory = memory_of({"role": "user", "content": [{"type": "text", "text": "Hi"}]})
        memory.as_chat_messages()[0]["content"][0]["text"] = "Bye"
        assert memory.as_chat_messages()[0]["content"][0]["text"] == "Hi"


class TestResponseItems:
    @pytest.mark.parametrize("role", ["system", "developer", "user", "assistant"])
    def test_text_goes_as_a_string(self, memory_of, role):
        assert memory_of({"role": role, "content": "Hi"}).as_response_items() == [
            {"type": "message", "role": role, "content": "Hi"}
        ]

    def test_assistant_parts_go_as_one_string_never_as_input_text(self, memory_of):
        parts = [{"type": "text", "text": "One"}, {"type": "text", "text": "Two"}]
        assert memory_of({"role": "assistant", "content": parts}).as_response_items() == [
            {"type": "message", "role": "assistant", "content": "One\n\nTwo"}
        ]

    def test_user_parts_go_as_input_parts(self, memory_of):
        parts = [
            {"type": "text", "text": "See"},
            {"type": "image_url", "image_url": {"url": "https://x/y"}},
            {"type": "image_url", "image_url": {"url": "https://x/z", "detail": "low"}},
            {"type": "file", "file": {"file_id": "file-abc"}},
            {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
            {"odd": 1},
        ]
        assert memory_of({"role": "user", "content": parts}).as_response_items() == [
            {
                "type": "message",
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "See"},
                    {"type": "input_image", "image_url": "https://x/y", "detail": "auto"},
                    {"type": "input_image", "image_url": "https://x/z", "detail": "low"},
                    {"type": "input_file", "file_id": "file-abc"},
                    {"type": "input_text", "text": "[input_audio not shown]"},
                    {"type": "input_text", "text": "[content not shown]"},
                ],
            }
        ]

    def test_a_call_and_its_result_go_as_items_of_their_own(self, memory_of):
        assert memory_of(assistant("Let me see.", "c1"), result("c1")).as_response_items() == [
            {"type": "message", "role": "assistant", "content": "Let me see."},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "42"},
        ]

    def test_a_call_without_words_has_no_message_item(self, memory_of):
        items = memory_of(assistant(None, "c1"), result("c1")).as_response_items()
        assert [item["type"] for item in items] == ["function_call", "function_call_output"]

    @pytest.mark.parametrize("content", ["", [{"type": "refusal", "refusal": "No."}]])
    def test_an_assistant_message_without_text_makes_no_item(self, content):
        assert list(response_items(parse_message({"role": "assistant", "content": content}))) == []

    def test_parts_of_a_tool_result_go_as_text(self, memory_of):
        parts = [{"type": "text", "text": "4"}, {"type": "text", "text": "2"}]
        answer = {"role": "tool", "tool_call_id": "c1", "content": parts}
        assert memory_of(assistant(None, "c1"), answer).as_response_items()[-1]["output"] == "4\n\n2"


class TestDigest:
    def test_by_rule_1_it_is_the_hash_of_the_shown_messages_in_canonical_json(self, memory_of):
        canonical = b'[{"content":"Hi","role":"user"}]'
        memory = memory_of(user("Hi"))
        assert memory.digest("all") == memory.by_rule("last=1").digest() == hashlib.sha256(canonical).hexdigest()

    def test_by_rule_2_it_is_a_chain_that_each_message_extends(self, memory_of):
        path = hashlib.sha256(b"threadledger memory 2").digest()
        assert memory_of().digest() == path.hex()
        for count, said in enumerate(("Hi", "Hello"), 1):
            path = hashlib.sha256(path + b'{"content":"%b","role":"user"}' % said.encode()).digest()
            assert memory_of(*map(user, ("Hi", "Hello")[:count])).digest() == path.hex()

    def test_a_call_without_a_result_is_hashed_as_it_is_stored(self, memory_of):
        memory = memory_of(assistant(None, "c1"))
        assert len(memory.shown()) == 2
        calls = b'[{"function":{"arguments":"{}","name":"f"},"id":"c1","type":"function"}]'
        said = b'{"content":null,"role":"assistant","tool_calls":%b}' % calls
        assert memory.digest() == hashlib.sha256(bytes.fromhex(EMPTY_PATH) + said).hexdigest()

    def test_equal_views_have_equal_digests_whatever_their_ids_and_times(self, log):
        one = fold_memory(log(said(1, "Hi"), said(2, "Hello", "assistant"), began=NOON))
        other = fold_memory(log(fact(e.ConversationStarted, key="k"), said(8, "Hi"), said(9, "Hello", "assistant")))
        assert one.digest() == other.digest()

    @pytest.mark.parametrize(
        "other",
        [
            [],
            [user("Hi"), user("Hi")],
            [user("hi")],
            [assistant("Hi")],
            [user("Hi") | {"name": "ann"}],
            [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
        ],
        ids=str,
    )
    def test_other_views_have_other_digests(self, memory_of, other):
        assert memory_of(*other).digest() != memory_of(user("Hi")).digest()

    def test_the_order_counts(self, memory_of):
        assert memory_of(user("a"), user("b")).digest() != memory_of(user("b"), user("a")).digest()

    def test_half_a_character_in_an_old_log_can_be_hashed(self, log):
        assert fold_memory(log(said(1, "\ud800"))).digest()

    @for_all(st.lists(st.sampled_from(["a", "b"]), max_size=3), st.lists(st.sampled_from(["a", "b"]), max_size=3))
    def test_digests_are_equal_where_the_views_are_and_only_there(self, memory_of, one, other):
        first, second = memory_of(*map(user, one)), memory_of(*map(user, other))
        assert (first.digest() == second.digest()) == (first.as_chat_messages() == second.as_chat_messages())


def test_the_estimate_counts_text_calls_and_what_stands_around_them(memory_of):
    assert Memory().estimated_tokens() == 0
    assert memory_of(user("")).estimated_tokens() == 4
    assert memory_of(user("parcel")).estimated_tokens() == 5
    bare, calling = memory_of(assistant("a")), memory_of(assistant("a", "c1"), result("c1"))
    assert calling.estimated_tokens() > bare.estimated_tokens() + 4


class TestSystemMessages:
    def test_a_window_keeps_those_of_the_beginning_and_no_later_ones(self, memory_of):
        first, later = {"role": "system", "content": "Be brief."}, {"role": "developer", "content": "Be kind."}
        memory = memory_of(first, user("a"), later, user("b"), user("c"))
        assert memory.window(last=1).as_chat_messages() == [first, user("c")]
        assert memory.window(tokens=14).as_chat_messages() == [first, user("c")]
        assert memory.window(last=1).window(last=1).as_chat_messages() == [first, user("c")]

    def test_a_rule_that_was_stored_before_describes_the_view_that_was_seen_then(self, memory_of):
        first = {"role": "system", "content": "Be brief."}
        memory = memory_of(first, user("a"), user("b"))
        assert memory.by_rule("last=1").as_chat_messages() == [user("b")]
        assert memory.by_rule("last=1,v2").as_chat_messages() == [first, user("b")]
        assert memory.by_rule("all").window(last=1).rule == "last=1,v2"
        assert memory.by_rule("all").window(last=3).rule == "last=3"
        assert (memory.window(last=1).rule, memory.window(last=3).rule) == ("2;last=1", "2;last=3")
