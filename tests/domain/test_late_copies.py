"""Surplus copies in a thread: what is provably ours is named, what is not never is; and the record of what was mended."""

import json
from collections import Counter
from functools import partial as fact
from itertools import count

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from threadledger.domain.conversation import ConversationState, evolve
from threadledger.domain.conversation import events as e
from threadledger.domain.threads import Doubt, ThreadItem, digest
from threadledger.domain.threads.late_copies import open_doubts, surplus

NOON = "2026-11-22T12:00:00.000000Z"
numbers = count(1)


def item(letter, message_id=""):
    """A capital is what a user says, any other letter the answer of a model; a digit is a call to a tool."""
    item_id = f"item_{next(numbers)}"
    if letter.isdigit():
        return ThreadItem("tool_call", "web_search", "{}", letter, message_id=message_id, item_id=item_id)
    name = "user" if letter.isupper() else "assistant"
    return ThreadItem("message", name, letter, message_id=message_id, item_id=item_id)


def items(letters):
    return [item(letter) for letter in letters]


def journal_of(letters):
    return [item(letter, f"m{number}") for number, letter in enumerate(letters)]


def sent(letters, **how):
    """A write of which only the text is known."""
    return Doubt.of(items(letters), NOON, **how)


def asked(letters):
    return sent(letters, asked=True)


def letters_of(thread):
    return "".join(entry.call_id or entry.content for entry in thread)


def places(thread, found):
    """Where in the thread the named entries stand."""
    ids = [entry.item_id for entry in thread]
    return [ids.index(entry.item_id) for entry in found]


def without(thread, found):
    gone = {entry.item_id for entry in found}
    return [entry for entry in thread if entry.item_id not in gone]


def named(journal, thread, *doubts):
    thread = items(thread)
    return places(thread, surplus(journal_of(journal), thread, doubts))


class TestByContent:
    """A Conversation's items bear no id of ours."""

    @pytest.mark.parametrize(
        ("journal", "thread", "doubt", "found"),
        [
            ("AaB", "AaBB", sent("B"), [3]),
            ("AaB", "AaBaB", sent("aB"), [3, 4]),
            ("AaBb", "AaBBb", sent("B"), [3]),
            ("AaBb", "AaBbB", sent("B"), [4]),
            ("AA", "AAA", sent("A"), [2]),
            ("Aa12B", "Aa12Ba12", sent("a12"), [5, 6, 7]),
            ("AB", "ABXB", sent("B"), [3]),
            ("AB", "XAYBZB", sent("B"), [5]),
        ],
        ids=[
            "last",
            "two",
            "before what came next",
            "after it",
            "thrice",
            "calls",
            "foreign between",
            "foreign all over",
        ],
    )
    def test_a_late_copy_of_an_unanswered_write_is_surplus(self, journal, thread, doubt, found):
        assert named(journal, thread, doubt) == found

    def test_the_copy_is_taken_that_leaves_the_journals_order(self):
        assert named("AaBb", "BAaBb", sent("B")) == [0]
        assert named("AaBbC", "AaBCbC", sent("C")) == [3]

    def test_an_equal_text_before_all_that_the_write_came_after_is_not_its_copy(self):
        journal = journal_of("AaBb")
        doubt = Doubt.of(journal[2:3], NOON)
        assert surplus(journal, items("BAaBb"), [doubt]) == []
        thread = items("BAaBBb")
        assert places(thread, surplus(journal, thread, [doubt])) == [4]

    def test_where_every_choice_leaves_the_same_the_later_copy_is_taken(self):
        assert named("AB", "ABAB", sent("AB")) == [2, 3]
        assert named("ABAB", "ABABAB", sent("BA")) == [3, 4]
        assert named("ABA", "ABABA", sent("AB", whole=True), sent("BA", whole=True)) == [3, 4]

    def test_a_write_that_landed_once_is_the_journals_own_however_late_it_came(self):
        assert named("AaB", "AaB", sent("B")) == []
        assert named("AaBB", "AaB", sent("B")) == []

    def test_equal_texts_that_the_journal_has_are_not_surplus(self):
        assert named("AAA", "AAA", sent("A"), sent("A")) == []

    def test_a_copy_of_what_was_never_doubted_is_foreign(self):
        assert named("AaBb", "AaBbAa", sent("B")) == []
        assert named("AaBb", "AaBbB") == []

    def test_one_doubt_explains_one_copy_and_two_explain_two(self):
        assert named("AB", "ABBB", sent("B"), sent("B")) == [2, 3]

    def test_more_copies_than_the_doubts_explain_prove_nothing(self):
        assert named("AB", "ABBB", sent("B")) == []

    def test_a_beginning_of_a_write_may_have_landed_where_the_provider_takes_it_in_parts(self):
        assert named("ABC", "ABCAB", sent("ABC")) == [3, 4]
        assert named("ABC", "ABCBC", sent("ABC")) == []

    def test_no_beginning_of_a_write_that_is_taken_whole_is_ours(self):
        assert named("ABC", "ABCAB", sent("ABC", whole=True)) == []
        assert named("ABC", "ABCABC", sent("ABC", whole=True)) == [3, 4, 5]

    def test_nothing_is_taken_of_which_the_journal_needs_every_copy(self):
        assert named("ABA", "BAA", sent("A")) == []
        assert named("BA", "AABX", sent("A")) == [1]

    def test_the_last_copy_of_a_message_stays_even_where_the_journal_has_lost_it(self):
        assert named("A", "AB", sent("B")) == []
        assert named("A", "ABB", sent("B")) == [2]

    def test_a_thread_that_lags_behind_is_mended_all_the_same(self):
        assert named("AaBbCc", "AaBB", sent("B")) == [3]
        assert named("AaBbC", "BAaBb", sent("B")) == [0]


class TestOutputOfAnUnansweredRequest:
    def test_the_models_output_behind_a_late_question_goes_with_it(self):
        assert named("Aa", "AaAx", asked("A")) == [2, 3]
        assert named("Aa", "AxAa", asked("A")) == [0, 1]
        assert named("Aa", "AaA1x", asked("A")) == [2, 3, 4]

    def test_an_output_that_is_equal_to_the_answer_is_another_output(self):
        assert named("Aa", "AaAa", asked("A")) == [2, 3]

    def test_it_ends_at_the_next_entry_of_the_journal_and_at_whatever_a_user_says(self):
        assert named("AaBb", "AaAxBb", asked("A")) == [2, 3]
        assert named("Aab", "AaAxb", asked("A")) == [2, 3]
        assert named("Aa", "AaAxXy", asked("A")) == [2, 3]

    def test_what_stands_behind_a_write_that_asked_nobody_is_foreign(self):
        assert named("Aa", "AaAx", sent("A")) == [2]

    def test_what_stands_behind_a_part_of_a_question_is_foreign(self):
        assert named("ABa", "ABaAx", asked("AB")) == []

    def test_an_output_between_its_question_and_the_answer_that_came_instead_is_surplus(self):
        assert named("Aa", "Axa", asked("A")) == [1]
        assert named("AB", "AxB", asked("A")) == [1]

    def test_an_output_is_left_while_the_thread_lacks_anything_of_the_journal(self):
        assert named("AaB", "AxB", asked("A")) == []

    def test_an_output_that_may_still_be_taken_as_the_answer_is_left(self):
        assert named("A", "Ax", asked("A")) == []
        assert named("Aa", "Ax", asked("A")) == []

    def test_what_a_model_said_elsewhere_is_foreign(self):
        assert named("Aa", "Aax", asked("A")) == []
        assert named("AaBb", "AaBxb", asked("A")) == []


class TestByIdentity:
    """A message of an Assistants thread bears our message id in its metadata."""

    def test_a_doubted_message_that_stands_there_more_than_once_is_surplus_beyond_the_first(self):
        journal = journal_of("AaB")
        thread = [*journal, item("X"), item("B", "m2")]
        assert places(thread, surplus(journal, thread, [Doubt.of(journal[2:], NOON)])) == [4]

    def test_every_further_copy_is_ours_however_many_there_are(self):
        journal = journal_of("AB")
        thread = [*journal, item("B", "m1"), item("B", "m1")]
        assert places(thread, surplus(journal, thread, [Doubt.of(journal[1:], NOON)])) == [2, 3]

    def test_a_message_of_equal_text_and_another_id_is_another_message(self):
        journal = journal_of("AA")
        assert surplus(journal, list(journal), [Doubt.of(journal[1:], NOON)]) == []
        thread = [*journal, item("A", "m9")]
        assert surplus(journal, thread, [Doubt.of(journal[1:], NOON)]) == []

    def test_where_entries_bear_ids_one_without_is_foreign_whatever_it_says(self):
        journal = journal_of("AB")
        thread = [*journal, item("B")]
        assert surplus(journal, thread, [Doubt.of(journal[1:], NOON)]) == []

    def test_a_copy_of_a_message_that_was_not_doubted_stays(self):
        journal = journal_of("AB")
        thread = [*journal, item("A", "m0")]
        assert surplus(journal, thread, [Doubt.of(journal[1:], NOON)]) == []

    def test_pieces_of_one_long_message_are_told_apart_by_their_text(self):
        journal = [item("A", "m1"), item("B", "m1"), item("A", "m1")]
        assert surplus(journal, list(journal), [Doubt.of(journal, NOON)]) == []
        thread = [*journal, item("B", "m1")]
        assert places(thread, surplus(journal, thread, [Doubt.of(journal, NOON)])) == [3]

    def test_messages_that_changed_places_are_not_taken_for_copies(self):
        journal = journal_of("AB")
        assert surplus(journal, journal[::-1], [Doubt.of(journal, NOON)]) == []


class TestWhatIsStoredOfADoubt:
    def test_it_comes_back_from_json_as_it_was(self):
        doubt = Doubt.of(journal_of("AB"), NOON, asked=True)
        assert Doubt.from_json(json.loads(json.dumps(doubt.as_json()))) == doubt
        assert (doubt.asked, doubt.whole, doubt.at, doubt.items[1].message_id) == (True, True, NOON, "m1")

    def test_what_a_newer_version_notes_besides_is_passed_over(self):
        stored = {"items": [["d", "m1", "new"]], "at": NOON, "new": 1}
        assert Doubt.from_json(stored).items[0].message_id == "m1"

    def test_it_is_small_however_long_the_text(self):
        long = ThreadItem("message", "user", "x" * 8_000_000, message_id="m1")
        assert len(json.dumps(Doubt.of([long], NOON).as_json())) < 300

    def test_kind_name_text_and_call_are_what_an_entry_is_known_by(self):
        base = ThreadItem("message", "user", "a", "c")
        others = [
            ThreadItem(*values) for values in (("tool_result", "user", "a", "c"), ("message", "assistant", "a", "c"))
        ]
        others += [ThreadItem("message", "user", "b", "c"), ThreadItem("message", "user", "a", "d")]
        assert len({digest([each]) for each in (base, *others)}) == 5


class TestOpenDoubts:
    def test_a_doubt_that_has_landed_explains_no_further_copy(self):
        journal, doubts = journal_of("AaB"), [sent("B"), sent("a")]
        thread = items("AaBB")
        assert open_doubts(journal, thread, doubts) == [doubts[1]]

    def test_a_doubt_that_has_not_shown_itself_stays(self):
        doubts = [sent("B")]
        assert open_doubts(journal_of("AaB"), items("AaB"), doubts) == doubts


def mixed(draw, *sequences):
    """Several sequences in one, each in its own order."""
    left, mixed_up = [list(sequence) for sequence in sequences if sequence], []
    while left:
        chosen = draw(st.sampled_from(left))
        mixed_up.append(chosen.pop(0))
        left = [sequence for sequence in left if sequence]
    return mixed_up


NOBODY = st.just([])


@st.composite
def late_threads(draw, foreign=NOBODY):
    """A journal; writes of it that were doubted; and a thread with the journal and all those writes once more, each where
    it landed: a write for itself, with nothing between its entries."""
    journal = draw(st.text("ABab1", min_size=1, max_size=8))
    doubts, landed = [], []
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(journal) - 1))
        end = draw(st.integers(start + 1, len(journal)))
        is_asked = draw(st.booleans())
        doubts.append(Doubt.of(journal_of(journal)[start:end], NOON, asked=is_asked, whole=draw(st.booleans())))
        part = journal[start : end if doubts[-1].whole else draw(st.integers(start + 1, end))]
        output = draw(st.text("ab1x", max_size=2)) if is_asked else ""
        landed.append((draw(st.integers(start, len(journal))), items(part + output)))
    others = draw(foreign)
    writes = []
    for place, entry in enumerate([*items(journal), None]):
        writes += [write for before, write in landed if before == place]
        writes += [[entry]] if entry is not None else []
    writes = mixed(draw, writes, [[entry] for entry in others])
    return journal, [entry for write in writes for entry in write], doubts, others


strangers = st.text("XYZ", max_size=3).map(items)


class TestInAnyThread:
    @for_all(late_threads())
    def test_what_remains_of_a_journal_with_late_copies_is_the_journal(self, drawn):
        journal, thread, doubts, _ = drawn
        found = surplus(journal_of(journal), thread, doubts)
        assert letters_of(without(thread, found)) == journal

    @for_all(late_threads(strangers))
    def test_strangers_among_them_are_never_named_and_hide_nothing(self, drawn):
        journal, thread, doubts, others = drawn
        found = surplus(journal_of(journal), thread, doubts)
        assert not {entry.item_id for entry in found} & {entry.item_id for entry in others}
        ours = without(without(thread, found), others)
        assert letters_of(ours) == journal

    @for_all(st.text("ABab", max_size=8), st.text("ABabX", max_size=12))
    def test_without_doubts_nothing_is_surplus(self, journal, thread):
        assert surplus(journal_of(journal), items(thread), []) == []

    @for_all(
        st.text("ABab", max_size=6),
        st.text("ABabX", max_size=10),
        st.lists(st.builds(sent, st.text("ABab", max_size=3), asked=st.booleans(), whole=st.booleans()), max_size=3),
    )
    def test_in_a_thread_of_any_content_it_keeps_within_its_bounds(self, journal, thread, doubts):
        wanted, held = journal_of(journal), items(thread)
        found = surplus(wanted, held, doubts)
        left = without(held, found)
        assert surplus(wanted, left, doubts) == []
        kept = Counter(wanted) & Counter(held)
        assert not kept - Counter(left), "the journal lacks an entry that it had"
        allowed = sum((Counter(known.digest for known in doubt.items) for doubt in doubts), Counter())
        others = [entry for entry in found if not allowed[digest([entry])]]
        assert all(entry.name != "user" for entry in others)
        asked_for = sum(doubt.asked for doubt in doubts)
        assert asked_for or not Counter(digest([entry]) for entry in found) - allowed
        assert [entry for entry in held if entry in found and entry.content == "X"] == []

    @for_all(st.data())
    def test_by_identity_every_late_copy_is_found_among_strangers(self, data):
        letters = data.draw(st.text("AB", min_size=1, max_size=6))
        journal = journal_of(letters)
        chosen = data.draw(st.lists(st.integers(0, len(letters) - 1), max_size=4))
        late = [item(letters[number], f"m{number}") for number in chosen]
        foreign = items(data.draw(st.text("ABX", max_size=3)))
        thread = mixed(data.draw, journal, *([copy] for copy in late), foreign)
        found = surplus(journal, thread, [Doubt.of([journal[number]], NOON) for number in chosen])
        left = without(without(thread, found), foreign)
        assert [entry.message_id for entry in left] == [entry.message_id for entry in journal]
        assert len(found) == len(late)

    def test_a_long_thread_is_gone_through_once(self):
        letters = "AB" * 5_000
        assert named(letters, letters + "B", sent("B")) == [10_000]

    def test_a_thread_of_few_texts_with_too_many_explanations_is_left_alone(self):
        letters = "ABC" * 700
        doubts = [sent(letters[start : start + 3]) for start in range(8)]
        assert named(letters, letters + letters[:24], *doubts) == []


class TestTheRecord:
    def test_what_was_mended_is_recorded(self, given):
        given(fact(e.ConversationStarted, key="k")).when(
            lambda it: it.reconcile_thread(
                "conversations", "conv_1", 7, sent=2, deleted=["msg_9"], adopted=1, reason="late"
            )
        ).then(
            fact(
                e.ThreadReconciled,
                backend="conversations",
                thread_id="conv_1",
                memory_version=7,
                sent=2,
                deleted=["msg_9"],
                adopted=1,
                reason="late",
            )
        )

    def test_a_thread_in_which_nothing_was_mended_is_not_recorded(self, given):
        given(fact(e.ConversationStarted, key="k")).when(
            lambda it: it.reconcile_thread("conversations", "conv_1", 7, reason="looked at")
        ).then_nothing()

    def test_it_changes_nothing_but_the_version(self, log):
        started, reconciled = log(
            fact(e.ConversationStarted, key="k"),
            fact(e.ThreadReconciled, backend="conversations", thread_id="conv_1", memory_version=1, deleted=["msg_9"]),
        )
        before = vars(evolve(ConversationState(), started))
        after = vars(evolve(evolve(ConversationState(), started), reconciled))
        assert {name for name in before if before[name] != after[name]} == {"version", "last_at"}
