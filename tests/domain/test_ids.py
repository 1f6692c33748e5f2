"""Ids are UUIDs of version 7: they sort by age, and no two are equal, in whatever process."""

from __future__ import annotations

import multiprocessing
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest
from freezegun import freeze_time
from hypothesis import given
from hypothesis import strategies as st

from threadledger.domain import ids
from threadledger.domain.ids import from_iso, id_bytes, id_text, new_id, to_iso


def test_an_id_is_a_uuid_of_version_7_with_the_time_of_the_clock() -> None:
    with freeze_time("2026-11-29T12:00:00Z"):
        made = [UUID(new_id()) for _ in range(3 * ids.IDS_AT_ONCE)]
    assert {(each.version, each.variant) for each in made} == {(7, "specified in RFC 4122")}
    assert {each.int >> 80 for each in made} == {1_795_953_600_000}
    assert len(set(made)) == len(made)


def test_later_ids_sort_behind_earlier_ones() -> None:
    with freeze_time("2026-11-29T12:00:00Z") as clock:
        earlier = new_id()
        clock.tick(timedelta(milliseconds=2))
        assert earlier < new_id()


def _made(count: int) -> list[str]:
    return [new_id()[14:] for _ in range(count)]


def test_a_forked_process_does_not_make_the_ids_of_its_parent() -> None:
    new_id()  # reads the random bits of the next ones
    with multiprocessing.get_context("fork").Pool(2) as pool:
        children = pool.map(_made, [3, 3], chunksize=1)
    made = [*_made(3), *children[0], *children[1]]
    assert len(set(made)) == len(made)


@given(st.uuids())
def test_the_bytes_of_a_canonical_id_are_those_of_its_uuid(value: UUID) -> None:
    assert id_bytes(str(value)) == value.bytes
    assert id_text(value.bytes) == str(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "msg_1",
        "0123456789abcdef0123456789abcdef",
        "01234567-89AB-cdef-0123-456789abcdef",
        "0123456-789ab-cdef-0123-456789abcdef",
        "01234567-89ab-cdef-0123-456789abcde",
        "01234567-89ab-cdef-0123-456789abcdef0",
        "01234567-89ab-cdef-0123-4567-9abcdef0",
        "01234567-89ab-cdef-0123- 456789abcde",
        "01234567-89ab-cdef-0123-456789abcdeg",
        " 1234567-89ab-cdef-0123-456789abcdef",
    ],
)
def test_a_text_that_is_no_canonical_uuid_has_no_bytes(text: str) -> None:
    assert id_bytes(text) is None


@given(st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))])))
def test_a_time_has_microseconds_and_a_z_and_is_read_as_itself(moment: datetime) -> None:
    try:
        utc = moment.astimezone(UTC)
    except OverflowError:
        return
    assert to_iso(moment) == utc.strftime("%Y").zfill(4) + utc.strftime("-%m-%dT%H:%M:%S.%f") + "Z"
    assert from_iso(to_iso(moment)) == moment
