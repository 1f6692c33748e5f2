"""A thread against the journal, message by message."""

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from threadledger.domain import alignment
from threadledger.domain.alignment import differing
from threadledger.domain.threads import Comparison, ThreadItem, ThreadState, Verification, compare, differences


def items(letters):
    return [
        ThreadItem("message", "user", letter, message_id=f"m{number}", version=number)
        for number, letter in enumerate(letters, 2)
    ]


def told(journal, thread):
    return [
        (
            each.change,
            each.journal_place,
            each.journal.content if each.journal else None,
            each.thread_place,
            each.thread.content if each.thread else None,
        )
        for each in differences(items(journal), items(thread))
    ]


class TestDifferences:
    @pytest.mark.parametrize(
        ("journal", "thread", "found"),
        [
            ("", "", []),
            ("abc", "abc", []),
            ("abc", "ab", [("missing", 3, "c", None, None)]),
            ("abc", "ac", [("missing", 2, "b", None, None)]),
            ("abc", "bc", [("missing", 1, "a", None, None)]),
            ("ab", "abX", [("extra", None, None, 3, "X")]),
            ("ab", "aXb", [("extra", None, None, 2, "X")]),
            ("abc", "aXc", [("different", 2, "b", 2, "X")]),
            ("abcd", "aXd", [("different", 2, "b", 2, "X"), ("missing", 3, "c", None, None)]),
            ("abc", "aXYc", [("different", 2, "b", 2, "X"), ("extra", None, None, 3, "Y")]),
            ("abc", "bca", [("missing", 1, "a", None, None), ("extra", None, None, 3, "a")]),
            ("aa", "a", [("missing", 2, "a", None, None)]),
            ("", "X", [("extra", None, None, 1, "X")]),
        ],
    )
    def test_each_entry_that_differs_is_told_with_its_places_in_the_threads_order(self, journal, thread, found):
        assert told(journal, thread) == found

    def test_the_journals_message_is_named_and_what_each_side_says(self):
        mine = ThreadItem("tool_call", "web_search", "{}", "c1", message_id="m7", version=9)
        theirs = ThreadItem("message", "user", "hello")
        assert [each.as_json() for each in differences([mine], [theirs])] == [
            {
                "change": "different",
                "journal_place": 1,
                "thread_place": 1,
                "message_id": "m7",
                "version": 9,
                "journal_kind": "tool_call",
                "journal_name": "web_search",
                "journal_call_id": "c1",
                "journal_text": "{}",
                "thread_kind": "message",
                "thread_name": "user",
                "thread_call_id": "",
                "thread_text": "hello",
            }
        ]

    def test_what_is_extra_names_no_message_of_the_journals(self):
        (extra,) = differences([], items("X"))
        assert (extra.message_id, extra.version, extra.as_json()["journal_text"]) == (None, None, None)

    @for_all(st.text("abcd", max_size=14), st.text("abcd", max_size=14))
    def test_as_many_are_told_as_are_counted(self, journal, thread):
        found = compare(items(journal), items(thread))
        counts = [each.change for each in differences(items(journal), items(thread))]
        assert (counts.count("missing"), counts.count("extra"), counts.count("different")) == (
            found.missing,
            found.extra,
            found.different,
        )

    @for_all(st.text("abc", max_size=14), st.text("abc", max_size=14))
    def test_the_journal_changed_by_what_is_told_is_the_thread(self, journal, thread):
        changed: list[str] = list(thread)
        for _, journal_place, mine, thread_place, theirs in reversed(told(journal, thread)):
            if thread_place is not None:
                assert changed.pop(thread_place - 1) == theirs
            if journal_place is not None:
                place = thread_place or 1 + _place_for(journal, thread, journal_place)
                changed.insert(place - 1, mine)
        assert "".join(changed) == journal


def _place_for(journal, thread, journal_place):
    """How many of the thread's entries stand before what is missing."""
    shift = 0
    for j1, j2, _, t2 in differing(journal, thread):
        if j1 < journal_place <= j2:
            return t2
        shift = t2 - j2
    return journal_place + shift


class TestAlignment:
    @for_all(st.text("abc", max_size=12), st.text("abcd", max_size=12))
    def test_as_much_as_can_be_is_left_equal(self, left, right):
        left_over = sum(l2 - l1 for l1, l2, _, _ in differing(left, right))
        assert len(left) - left_over == _longest(left, right)

    @for_all(st.text("ab", max_size=12), st.text("ab", max_size=12))
    def test_between_the_blocks_both_are_equal(self, left, right):
        equal_left, equal_right, l1, r1 = "", "", 0, 0
        for start, end, other_start, other_end in differing(left, right):
            equal_left += left[l1:start]
            equal_right += right[r1:other_start]
            l1, r1 = end, other_end
        assert equal_left + left[l1:] == equal_right + right[r1:]

    @for_all(
        st.lists(st.integers(0, 5), max_size=60),
        st.lists(
            st.tuples(st.integers(0, 60), st.sampled_from(["cut", "add", "change"]), st.integers(0, 9)), max_size=6
        ),
    )
    def test_a_few_edits_of_a_long_thread_leave_as_much_equal_as_without_trimming(self, left, edits):
        right = list(left)
        for place, edit, entry in edits:
            right[place : place + (edit != "add")] = [] if edit == "cut" else [entry]
        left_over = sum(l2 - l1 for l1, l2, _, _ in differing(left, right))
        assert len(left) - left_over == _longest(left, right)

    def test_rows_are_made_only_of_entries_between_equal_ends_that_both_threads_have(self, monkeypatch):
        widths = []
        longest = alignment._longest
        monkeypatch.setattr(alignment, "_longest", lambda one, other: widths.append(len(one)) or longest(one, other))
        left = [f"text {number}" for number in range(5_000)]
        right = [f"edited {number}" if number % 100 == 50 else text for number, text in enumerate(left)]
        assert len(list(differing(left, right))) == 50
        right[1_000:1_002] = right[1_001], right[1_000]
        assert len(list(differing(left, right))) == 52
        assert widths == [0, 2]

    def test_rows_that_were_not_kept_are_made_again(self):
        left = [number % 7 for number in range(400)]
        right = [number % 5 for number in range(300)]
        left_over = sum(l2 - l1 for l1, l2, _, _ in differing(left, right))
        assert len(left) - left_over == _longest(left, right)

    @pytest.mark.parametrize(
        ("journal", "thread"),
        [
            ([f"mine {n}" for n in range(2_000)], [f"theirs {n}" for n in range(2_000)]),
            ([f"{n}" for n in range(2_000)], [f"{n}" for n in reversed(range(2_000))]),
            (["yes", "no"] * 1_000, ["no", "no", "yes"] * 667),
        ],
        ids=["nothing in common", "backwards", "two texts"],
    )
    def test_no_pair_of_long_threads_compares_entries_with_each_other_again_and_again(self, journal, thread):
        looks = 0

        class Entry(str):
            __slots__ = ()
            __hash__ = str.__hash__

            def __eq__(self, other):
                nonlocal looks
                looks += 1
                return str.__eq__(self, other)

        list(differing([Entry(each) for each in journal], [Entry(each) for each in thread]))
        assert looks < 20 * (len(journal) + len(thread))


def _longest(left, right):
    row = [0] * (len(right) + 1)
    for one in left:
        before = row[:]
        for place, other in enumerate(right, 1):
            row[place] = before[place - 1] + 1 if one == other else max(row[place - 1], before[place])
    return row[-1]


def test_a_verification_tells_its_differences_behind_the_contracts_keys():
    found = Verification("k", "conversations", "conv_1", Comparison(ThreadState.BEHIND, 1, 0, missing=1))
    assert list(found.as_json()) == [
        *("key", "backend", "thread_id", "journal", "thread", "missing", "extra", "different", "state", "reason"),
        "differences",
    ]
