"""Profiles are listed with the outcome of their runs, and two of them compared, on each database."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from freezegun import freeze_time

from threadledger.domain.conversation import Profile, RunPlan
from threadledger.domain.errors import InvalidInput, NotFound
from threadledger.domain.ids import now
from threadledger.domain.ledger import AsyncLedger, Ledger

SEARCH = {"type": "function", "function": {"name": "web_search"}}
OPEN = {"type": "function", "function": {"name": "web_open"}}
STRICT = {"type": "function", "function": {"name": "web_open", "strict": True}}
FILES = {"type": "file_search"}

JOHN = Profile("John", "Be kind.\nBe brief.\nAlways.", "gpt-4o", json.dumps([SEARCH, OPEN]))
JANE = replace(
    JOHN,
    name="Jane",
    instructions="Be kind.\nBe thorough.\nAlways.",
    tools_json=json.dumps([STRICT, FILES]),
    settings_json='{"temperature": 0.5}',
)


@pytest.fixture
def ledger(open_any_store: Callable[[], Ledger]) -> Ledger:
    return two_profiles(open_any_store())


@pytest.fixture
def local(open_store: Callable[[], Ledger]) -> Ledger:
    """The same on SQLite alone, for what is refused before a database is asked."""
    return two_profiles(open_store())


def two_profiles(ledger: Ledger) -> Ledger:
    """Define two profiles; one of three runs of the first failed, and both of the second."""
    for actor, profile, ends in ((None, JOHN, "aaf"), ("ann", JANE, "ff")):
        journal = ledger.journal if actor is None else ledger.as_actor(actor).journal
        journal.define_profile(profile)
        for number, end in enumerate(ends):
            run(ledger, f"{profile.name}-{number}", profile, fails=end == "f")
    return ledger


def run(ledger: Ledger, key: str, profile: Profile, *, fails: bool) -> None:
    from threadledger.domain.conversation import Completion, text_message
    from threadledger.domain.failures import Failure

    plan = RunPlan("chat", "gpt-4o", profile_hash=profile.hash)
    run_id = ledger.journal.commit(key, lambda it: it.start_run("x-" + key, plan), create=True)
    if fails:
        ledger.journal.commit(key, lambda it: it.fail_run(run_id, Failure("failed", code="server_error"), 0.5))
    else:
        ledger.journal.commit(
            key, lambda it: it.complete_run_elsewhere(run_id, Completion([text_message("assistant", "Yes.")]), 0.5)
        )


def test_profiles_are_listed_with_their_failure_rates_newest_first(ledger: Ledger) -> None:
    jane, john = ledger.profiles()
    assert (jane.name, jane.hash, jane.actor, john.actor) == ("Jane", JANE.hash, "ann", None)
    assert (john.runs, john.failed, round(john.failure_rate, 3)) == (3, 1, 0.333)
    assert (jane.runs, jane.failed, jane.failure_rate) == (2, 2, 1.0)
    assert (john.instructions, john.tools, john.model) == ("Be kind.", 2, "gpt-4o")
    assert jane.defined_at >= john.defined_at
    assert jane.as_json()["failure_rate"] == 1.0


def test_runs_in_several_hours_and_profiles_without_runs_are_counted_too(ledger: Ledger) -> None:
    ledger.journal.define_profile(replace(JOHN, name="Jim", instructions=""))
    with freeze_time(now() + timedelta(hours=2)):
        run(ledger, "John-2", JOHN, fails=True)  # in the exchange of an earlier run
        jim, jane, john = ledger.profiles()
    assert (jim.runs, jim.failed, jim.failure_rate, jim.instructions) == (0, 0, 0.0, "")
    assert (john.runs, john.failed, jane.runs) == (4, 2, 2)
    by_profile = {row.value: (row.runs, row.failed) for row in ledger.summary("profile")}
    assert {each.hash: (each.runs, each.failed) for each in (jane, john)} == by_profile


def test_profiles_are_read_in_pages(ledger: Ledger) -> None:
    ledger.journal.define_profile(replace(JOHN, name="Jim"))
    first = ledger.profiles(limit=2)
    ledger.journal.define_profile(replace(JOHN, name="June"))
    second = ledger.profiles(limit=2, after=first.cursor)
    assert [each.name for each in (*first, *second)] == ["Jim", "Jane", "John"]
    assert (second.cursor, ledger.profiles().cursor, ledger.profiles(limit=0)) == (None, None, [])
    for given in (ledger.runs(limit=1).cursor, "p1.x", 7):
        with pytest.raises(InvalidInput):
            ledger.profiles(after=given)  # type: ignore[arg-type]  # as an app without a type checker may pass it


def test_a_difference_names_what_changed_and_how_often_the_runs_of_each_failed(ledger: Ledger) -> None:
    found = ledger.diff_profiles(JOHN.hash[:8], JANE.hash)
    assert (found.before.failure_rate < found.after.failure_rate, found.same) == (True, False)
    assert found.changes == {"name": ("John", "Jane")}
    assert found.instructions.splitlines() == [
        *("--- before", "+++ after", "@@ -1,3 +1,3 @@"),
        *(" Be kind.", "-Be brief.", "+Be thorough.", " Always."),
    ]
    assert (found.tools_added, found.tools_removed, found.tools_changed) == (
        ["file_search"],
        ["web_search"],
        ["web_open"],
    )
    assert found.settings == {"temperature": (None, 0.5)}
    document = json.loads(json.dumps(found.as_json()))
    assert document["name"] == {"before": "John", "after": "Jane"}
    assert document["model"] is None
    assert document["settings"] == {"temperature": {"before": None, "after": 0.5}}
    assert document["after"]["failed"] == 2
    back = ledger.diff_profiles(JANE.hash, JOHN.hash)
    assert (back.before, back.tools_added) == (found.after, ["web_search"])


def test_a_profile_is_equal_to_itself_and_tools_of_one_name_are_told_apart(ledger: Ledger) -> None:
    same = ledger.diff_profiles(JOHN.hash, JOHN.hash)
    assert (same.same, same.changes, same.instructions, same.settings) == (True, {}, "", {})
    twice = replace(JOHN, tools_json=json.dumps([SEARCH, OPEN, OPEN]))
    ledger.journal.define_profile(twice)
    assert ledger.diff_profiles(JOHN.hash, twice.hash).tools_added == ["web_open #2"]


@pytest.mark.parametrize("given", ["", "xyz", "A" * 64, "a" * 65, "%", 7, None, "a\0"])
def test_what_is_no_hash_is_refused_in_one_sentence(local: Ledger, given: Any) -> None:
    with pytest.raises(InvalidInput, match="is not the hash of a profile"):
        local.diff_profiles(JOHN.hash, given)


def test_a_beginning_of_no_hash_or_of_several_is_not_found(local: Ledger) -> None:
    missing = next(each for each in "0123456789abcdef" if each not in {JOHN.hash[0], JANE.hash[0]})
    with pytest.raises(NotFound, match=f"no profile begins with '{missing}'"):
        local.diff_profiles(missing, JOHN.hash)
    for number in range(16):
        local.journal.define_profile(replace(JOHN, name=f"John {number}"))
    hashes = [each.hash for each in local.profiles()]
    first = next(each[0] for each in hashes if [other[0] for other in hashes].count(each[0]) > 1)
    with pytest.raises(NotFound, match="several profiles begin with"):
        local.diff_profiles(first, JOHN.hash)


def test_an_awaited_ledger_lists_and_compares_profiles(ledger: Ledger) -> None:
    async def scenario() -> None:
        async with AsyncLedger(ledger) as awaited:
            assert [each.name for each in await awaited.profiles(limit=1)] == ["Jane"]
            assert (await awaited.diff_profiles(JOHN.hash, JANE.hash)).after.failed == 2

    asyncio.run(scenario())
