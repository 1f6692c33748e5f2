"""Pages of conversations hold what the filters say, whatever changes between them, and read what they show."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from freezegun import freeze_time
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import threadledger
from threadledger.adapters.sql import Database
from threadledger.adapters.sql.views import catching_up, listing
from threadledger.domain.conversation import Conversation, stream_of
from threadledger.domain.conversation.description import Description
from threadledger.domain.conversation.listing import ConversationFilter, ListOrder
from threadledger.domain.errors import InvalidInput
from threadledger.domain.ledger.pages import Page, cursor_of, place_in

BEGINNING = datetime(2026, 11, 22, 12, tzinfo=UTC)
KEYS = [f"k{number}" for number in range(8)]


@pytest.fixture
def ledger(open_any_store):
    return open_any_store()


@pytest.fixture
def new_url(request, tmp_path):
    """Makes the URL of a new database of one kind: an example has its own."""
    if request.param == "postgresql":
        return request.getfixturevalue("new_postgres_url")
    numbers = iter(range(10_000))
    return lambda: f"sqlite:///{tmp_path / f'{next(numbers)}.db'}"


def keys(page):
    return [state.key for state in page]


def say(ledger, key, **described):
    ledger.conversation(key).append("user", "word")
    if described:
        ledger.conversation(key).describe(**described)


def pages(ledger, between=lambda: None, limit=2, **filters):
    """All pages of a list, with something that happens between two of them."""
    found, after = [], None
    while True:
        page = ledger.conversations(limit=limit, after=after, **filters)
        assert len(page) <= limit
        assert len(found) < 200, "the pages do not end"
        found.append(keys(page))
        after = page.cursor
        if after is None:
            return found
        between()


def walked(*given, **filters):
    """The keys of all pages."""
    return [key for page in pages(*given, **filters) for key in page]


def test_a_page_is_a_list_with_the_cursor_of_the_next_one(ledger):
    for key in KEYS[:5]:
        say(ledger, key, owner="anna", title=key.upper())
    page = ledger.conversations(owner="anna", limit=2)
    assert isinstance(page, Page)
    assert (len(page), page[0].key, keys(page[:1])) == (2, "k4", ["k4"])
    assert page[0].description == Description("K4", "anna")
    assert pages(ledger, owner="anna") == [["k4", "k3"], ["k2", "k1"], ["k0"]]
    assert pages(ledger, owner="anna", limit=5) == [["k4", "k3", "k2", "k1", "k0"]]
    everything = ledger.conversations()
    assert (keys(everything), everything.cursor) == (["k4", "k3", "k2", "k1", "k0"], None)
    assert keys(ledger.conversations(after=page.cursor, owner="anna")) == ["k2", "k1", "k0"]
    assert (ledger.conversations(0), ledger.conversations(0).cursor) == ([], None)


def test_conversations_are_in_the_order_that_is_wanted(ledger):
    for key in ("a", "b", "c"):
        say(ledger, key, tags=["t"])
    say(ledger, "a")
    for filters in ({}, {"tag": "t"}):
        assert walked(ledger, **filters) == ["a", "c", "b"]
        assert walked(ledger, order="oldest", **filters) == ["b", "c", "a"]
        assert walked(ledger, order="started", **filters) == ["c", "b", "a"]


def test_since_is_a_time_or_a_span_and_a_cursor_keeps_it(ledger):
    for hour, key in enumerate(KEYS[:5]):
        with freeze_time(BEGINNING + timedelta(hours=hour)):
            say(ledger, key)
    moment = BEGINNING + timedelta(hours=2)
    assert walked(ledger, since=moment) == ["k4", "k3", "k2"]
    assert walked(ledger, since=moment + timedelta(seconds=1), order="oldest") == ["k3", "k4"]
    assert ledger.conversations(since=BEGINNING + timedelta(days=1)) == []
    with freeze_time(BEGINNING + timedelta(hours=4)) as clock:
        page = ledger.conversations(since=timedelta(hours=2), limit=2)
        clock.tick(timedelta(hours=2))
        assert keys(ledger.conversations(since=timedelta(hours=2), after=page.cursor)) == ["k2"]


def test_a_cursor_of_another_list_is_refused_and_so_is_a_text_that_is_none(ledger):
    for key in KEYS[:3]:
        say(ledger, key, owner="anna")
    cursor = ledger.conversations(owner="anna", limit=1).cursor
    for filters in ({}, {"owner": "ben"}, {"owner": "anna", "order": "oldest"}, {"owner": "anna", "archived": False}):
        with pytest.raises(InvalidInput, match="other filters"):
            ledger.conversations(after=cursor, **filters)
    filters = {"owner": "anna"} | {"after": cursor}
    assert keys(ledger.conversations(**filters)) == ["k1", "k0"]
    for wrong in ("", "x", "p1.", "p1.e30.aa", cursor[:-1], f"v{cursor}", "p1." + "W" * 5_000, 7, "p1.\ud800.x"):
        with pytest.raises(InvalidInput, match="cursor"):
            ledger.conversations(owner="anna", after=wrong)


@settings(max_examples=20)
@given(
    key=st.lists(
        st.integers(-(2**63) + 1, 2**63 - 1) | st.text(st.characters(exclude_characters="\0", codec="utf-8")),
        max_size=3,
    ),
    filters=st.dictionaries(st.text(), st.text(), max_size=2),
)
def test_a_cursor_is_read_as_it_was_written(key, filters):
    assert list(place_in(cursor_of(key, filters), filters)) == key


def test_a_place_that_no_database_stores_is_refused(ledger):
    from threadledger.domain.conversation.listing import ConversationFilter

    filters = ConversationFilter().as_json()
    for key in ([2**63, 0], [-1, 0], ["a", 0], [1], []):
        with pytest.raises(InvalidInput, match="cursor"):
            ledger.conversations(after=cursor_of(key, filters))


@pytest.mark.parametrize(
    "wrong",
    [
        {"owner": ""},
        {"owner": 7},
        {"tag": [""]},
        {"metadata": {"a": [1]}},
        {"metadata": "a"},
        {"order": "best"},
        {"archived": 1},
        {"since": "yesterday"},
    ],
)
def test_a_filter_that_nothing_can_meet_is_refused(wrong, tmp_path, open_store_on):
    with pytest.raises(InvalidInput):
        open_store_on(f"sqlite:///{tmp_path / 'x.db'}").conversations(**wrong)


def test_an_owner_a_tag_and_a_pair_of_any_text_are_found(ledger):
    odd = "é' \" % _ 漢" * 8
    say(ledger, "k", owner=odd, tags=[odd], metadata={odd: odd, "zero": 0, "none": None, "yes": True, "half": 0.5})
    say(ledger, "other", owner=odd + "x", tags=[odd + "x"], metadata={odd: "", "zero": False})
    for filters in (
        {"owner": odd},
        {"tag": odd},
        {"metadata": {odd: odd}},
        {"metadata": {"zero": 0.0, "none": None}},
        {"metadata": {"yes": True, "half": 0.5}},
    ):
        assert keys(ledger.conversations(**filters)) == ["k"]


def test_the_first_pairs_of_many_are_found(ledger):
    ledger.journal.store(Conversation.start("k", {str(number): number for number in range(200)} | {"list": [1]}))
    assert keys(ledger.conversations(metadata={"0": 0, "99": 99})) == ["k"]
    assert ledger.state("k").description.metadata["199"] == 199


# Any list, whatever was written


DESCRIBED = st.fixed_dictionaries(
    {},
    optional={
        "title": st.sampled_from(["", "T"]),
        "owner": st.sampled_from(["", "anna", "ben"]),
        "tags": st.lists(st.sampled_from("xy"), max_size=2),
        "archived": st.booleans(),
        "metadata": st.dictionaries(st.sampled_from("mn"), st.integers(0, 1), max_size=2),
    },
)
FILTERS = st.fixed_dictionaries(
    {"order": st.sampled_from(["newest", "oldest", "started"])},
    optional={
        "owner": st.sampled_from(["anna", "ben"]),
        "tag": st.sampled_from(["x", "y", ["x", "y"]]),
        "metadata": st.dictionaries(st.sampled_from("mn"), st.integers(0, 1), min_size=1, max_size=2),
        "unanswered": st.booleans(),
        "archived": st.booleans(),
    },
)
WRITES = st.lists(
    st.tuples(
        st.sampled_from(["say", "describe", "describe", "give up", "damage", "earlier"]), st.integers(0, 7), DESCRIBED
    ),
    max_size=10,
)


def write(ledger, database, what, key, described):
    match what:
        case "say":
            say(ledger, key)
        case "describe":
            ledger.conversation(key).describe(**described)
        case "give up":
            ledger.journal.commit(key, lambda it: it.abandon(it.ask(_question()), "no"), create=True)
        case "damage":
            database.execute("UPDATE streams SET state_schema = 0 WHERE name = ?", (stream_of(key),))
        case "earlier":  # a head that does not know of descriptions, and has none
            database.execute("UPDATE streams SET snapshot = replace(snapshot, '{\"described\":{},', '{')")


def _question():
    from threadledger.domain.conversation import text_message

    return text_message("user", "why?")


def is_wanted(state, filters):
    """Whether a conversation is in a list, by its state and description as they are read one by one."""
    said = state.description
    tags = filters.get("tag", [])
    return (
        filters.get("owner") in {None, said.owner}
        and set([tags] if isinstance(tags, str) else tags) <= set(said.tags)
        and all(said.metadata.get(name) == value for name, value in filters.get("metadata", {}).items())
        and filters.get("unanswered") in {None, state.unanswered > 0}
        and filters.get("archived") in {None, said.archived}
    )


@pytest.mark.parametrize("new_url", ["sqlite", "postgresql"], indirect=True)
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=WRITES, then=WRITES, filters=st.lists(FILTERS, min_size=1, max_size=3), limit=st.integers(1, 3))
def test_any_list_holds_what_its_filters_say_when_it_catches_up_and_when_it_is_built(
    new_url, open_store_on, first, then, filters, limit
):
    url = new_url()
    database = Database(url)
    with pytest.MonkeyPatch.context() as patched, open_store_on(url) as ledger:
        patched.setattr(catching_up, "BATCH_EVENTS_MAX", 3)
        ledger.journal.store(Conversation.start("k0", {"m": 1}))
        for writes in (first, then):
            for what, number, described in writes:
                write(ledger, database, what, KEYS[number], described)
            for built in (False, True):
                if built:
                    ledger.rebuild_views(["conversations"])
                newest = keys(ledger.conversations())
                states = {key: ledger.state(key) for key in ledger.journal.keys_in_order()}
                assert sorted(newest) == sorted(states)
                assert {each.key: each.description for each in ledger.conversations()} == {
                    key: state.description for key, state in states.items()
                }
                orders = {"newest": newest, "oldest": newest[::-1], "started": [*states][::-1]}
                for wanted in filters:
                    there = [key for key in orders[wanted["order"]] if is_wanted(states[key], wanted)]
                    assert walked(ledger, limit=limit, **wanted) == there
                assert ledger.status()["conversations"] == len(states)
    database.close()


CHANGES = st.lists(st.tuples(st.sampled_from(["say", "describe", "new"]), st.integers(0, 7), DESCRIBED), max_size=3)


@pytest.mark.parametrize("new_url", ["sqlite", "postgresql"], indirect=True)
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    first=st.lists(DESCRIBED, min_size=3, max_size=8),
    between=st.lists(CHANGES, max_size=5),
    wanted=FILTERS,
    limit=st.integers(1, 3),
)
def test_nothing_that_stays_as_it_is_is_skipped_or_repeated_whatever_changes_between_two_pages(
    new_url, open_store_on, first, between, wanted, limit
):
    with open_store_on(new_url()) as ledger:
        for number, described in enumerate(first):
            say(ledger, KEYS[number], **described)
        there = walked(ledger, **wanted)
        changed: set[str] = set()
        waiting, new = iter(between), iter(range(1_000))

        def change():
            for what, number, described in next(waiting, ()):
                key = f"new{next(new)}" if what == "new" else KEYS[number]
                changed.add(key)
                say(ledger, key, **(described if what != "say" else {}))

        found = walked(ledger, change, limit, **wanted)
        assert [key for key in found if key not in changed] == [key for key in there if key not in changed]


# The cost of a page


def test_a_page_is_read_from_an_index(ledger, any_database):
    """No query of a page reads a whole table or sorts more rows than the page has."""
    for number in range(300):
        say(ledger, f"c{number}", owner=f"o{number % 3}", tags=[f"t{number % 3}"], metadata={"m": number % 3})
    ledger.conversations(limit=1)
    asked: list[Any] = []
    original = listing.Listing._query

    def noted(self, *given):
        asked.append(original(self, *given))
        return asked[-1]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(listing.Listing, "_query", noted)
        for filters in ({}, {"owner": "o1"}, {"tag": "t1"}, {"metadata": {"m": 1}}, {"owner": "o1", "tag": "t1"}):
            for order in ("newest", "oldest", "started"):
                page = ledger.conversations(limit=5, order=order, **filters)
                ledger.conversations(limit=5, order=order, after=page.cursor, **filters)
    if any_database.kind.name != "sqlite":
        any_database.execute("ANALYZE")
    for query, values in asked:
        explained = "EXPLAIN QUERY PLAN " if any_database.kind.name == "sqlite" else "EXPLAIN "
        plan = "\n".join(str(row) for row in any_database.query(explained + query, values))
        wrong = ("Seq Scan", "TEMP B-TREE", "SCAN v")
        assert not [line for line in plan.splitlines() if any(each in line for each in wrong)], (query, plan)


OF_TENANTS = [f"{tenant}{key}" for key in ("a", "b", "c", "d") for tenant in ("", "tenant:one/", "tenant:one-2/")]


@pytest.mark.parametrize("order", [ListOrder.STARTED, ListOrder.FIRST])
def test_a_tenants_conversations_are_listed_whatever_is_known_of_them(ledger, any_database, order):
    def listed(tenant):
        wanted = ConversationFilter(order=order, tenant=tenant)
        found, place = ledger.journal.views.listed(wanted, 2)
        while place is not None:
            more, place = ledger.journal.views.listed(wanted, 2, place)
            found += more
        found = keys(found)
        return found if order is ListOrder.FIRST else found[::-1]

    def wanted(tenant, letters="abcd"):
        begin = f"tenant:{tenant}/" if tenant else ""
        return [f"{begin}{letter}" for letter in letters]

    tenants = ("one", "one-2", "")
    for key in OF_TENANTS:  # b and d are described, a and c are not
        say(ledger, key, **({"b": {"metadata": {"desk": "7"}}, "d": {"title": "D"}}.get(key[-1], {})))
    assert [listed(each) for each in tenants] == [wanted(each) for each in tenants]
    for key in OF_TENANTS:  # each is copied again, after a change that says nothing of it, or says something
        say(ledger, key, **({"tags": ["t"]} if key[-1] == "c" else {}))
    assert [listed(each) for each in tenants] == [wanted(each) for each in tenants]
    for key in ("a", "tenant:one/a", "tenant:one-2/b"):
        ledger.conversation(key).delete()
    any_database.execute("UPDATE streams SET snapshot = '{' WHERE name LIKE '%/c'")
    say(ledger, "c")
    ledger.journal.views.rebuild(["conversations"])
    assert [listed(each) for each in tenants] == [wanted("one", "bcd"), wanted("one-2", "acd"), wanted("", "bcd")]
    assert keys(ledger.conversations(tag="t")) != []


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"owner": ""}, "the owner is empty: pass the id of an owner, or None for all conversations"),
        ({"owner": 3}, "owner has type int: nothing was done; pass a text or None"),
        ({"tag": ""}, "a tag is empty: nothing was read; leave it out, or pass an empty list for no tags"),
        ({"tag": 3}, "tag has type int: nothing was done; pass a text or a list of texts or None"),
        ({"metadata": 3}, "metadata has type int: nothing was done; pass a dict or None"),
        (
            {"metadata": {"desk": [1]}},
            "metadata 'desk' is a list or an object: filter by a text, number, true, false or null",
        ),
        ({"pending": 1}, "pending has type int: nothing was done; pass True or False or None"),
        ({"archived": "no"}, "archived has type str: nothing was done; pass True or False or None"),
    ],
    ids=str,
)
def test_a_filter_that_no_conversation_can_meet_is_refused_by_its_name(wrong, sentence, tmp_path):
    with threadledger.open(f"sqlite:///{tmp_path / 'x.db'}", threads="none") as ledger:
        with pytest.raises(InvalidInput) as refused:
            ledger.conversations(**wrong)
        assert str(refused.value) == sentence
