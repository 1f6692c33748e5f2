"""Texts from outside that are in an index: any length and any characters, the same on every database."""

from __future__ import annotations

import itertools
import json
import random
import string
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from threadledger.adapters.sql.views.runs import VALUE_CHARS_MAX, storable
from threadledger.domain.conversation.messages import Message, Role
from threadledger.domain.failures import SUMMARY_BY
from threadledger.domain.ids import new_id
from threadledger.domain.journal.rows import INDEXED_CHARS_MAX, indexed
from threadledger.domain.ledger import Ledger

from .importing import imported
from .writing import assert_sound

LONG = "".join(random.Random(1).choices(string.ascii_letters, k=6_000))
"""A text that does not become short when it is compressed, as PostgreSQL compresses the entries of an index."""

ODD = {"a NUL": "a\0b", "half a character": "half \ud800", "long": LONG, "long Russian": LONG.translate({99: "ж"})}

odd_texts = pytest.mark.parametrize("odd", list(ODD.values()), ids=list(ODD))


@odd_texts
def test_an_id_is_in_the_index_as_it_is_or_as_a_hash_that_fits(odd: str) -> None:
    assert indexed("msg_1") == "msg_1"
    assert indexed(odd) != indexed(odd + "x")
    assert len(indexed(odd).encode()) <= 4 * INDEXED_CHARS_MAX
    assert len(str(storable(odd)).encode()) <= 4 * VALUE_CHARS_MAX
    assert storable(LONG) != storable(LONG + "x")


@pytest.mark.parametrize("key", ["a\0b", "\U0001f600" * 500, LONG[:500]], ids=["a NUL", "2,000 bytes", "500"])
def test_an_idempotency_key_is_one_event_whatever_its_characters(
    key: str, any_db_url: str, open_store_on: Callable[[str], Ledger], new_postgres_url: Callable[[], str]
) -> None:
    chat = open_store_on(any_db_url).conversation("k")
    first = chat.append("user", "once", idempotency_key=key)
    assert chat.append("user", "once", idempotency_key=key).message_id == first.message_id
    copy = new_postgres_url()
    open_store_on(any_db_url).copy_to(copy)
    assert open_store_on(copy).conversation("k").append("user", "once", idempotency_key=key).version == first.version
    assert len(assert_sound(copy)) == 2


@odd_texts
def test_an_import_keeps_ids_of_any_kind(
    odd: str, any_db_url: str, open_store_on: Callable[[str], Ledger], tmp_path: Path
) -> None:
    said = {"role": "user", "content": "hi", "at": "2026-01-01T00:00:00Z", "exchange_id": None, "run_id": None}
    path = tmp_path / "talk.jsonl"
    path.write_text(json.dumps({"id": "k", "messages": [{**said, "source": "import", "message_id": odd}]}))
    ledger = open_store_on(any_db_url)
    assert [each["state"] for each in imported(ledger, path)] == ["imported"]
    assert [each["state"] for each in imported(ledger, path)] == ["unchanged"]
    assert list(ledger.check()) == []


@odd_texts
def test_names_and_codes_of_any_kind_are_counted_and_found(
    odd: str, any_db_url: str, open_store_on: Callable[[str], Ledger]
) -> None:
    class Refused(Exception):
        code = odd

    ledger = open_store_on(any_db_url)
    for at, (backend, model) in enumerate([(odd, "m"), ("b", odd), ("b", odd)]):
        with suppress(Refused), ledger.conversation(f"k{at}").run(backend=backend, model=model):
            raise Refused
    for by in SUMMARY_BY:
        assert sum(row.failed for row in ledger.summary(by=by)) == 3
    by_model = {row.value: row.failed for row in ledger.summary(by="model")}
    assert by_model == {"m": 1, storable(odd): 2}
    assert len(ledger.failures()) == 3
    assert [each.backend for each in ledger.failures(backend=ledger.failures()[0].backend)] == [
        ledger.failures()[0].backend
    ]
    assert sum(group.runs for group in ledger.failure_groups()) == 3
    assert all(view["parked"] == 0 for view in ledger.status()["views"])


def test_keys_of_earlier_schemas_with_a_nul_are_collected_by_an_upgrade(
    any_database: Any, open_store_on: Callable[[Any], Ledger]
) -> None:
    """The upgrade of a database calls this for each event with a key; PostgreSQL stores no NUL outside the payload."""
    from threadledger.adapters.sql.notes import noted
    from threadledger.domain.journal import noted_row

    event = open_store_on(any_database).conversation("k").append("user", "once")
    payload = {"message_id": LONG, "role": "user", "content": "x", "source": "import", "idempotency_key": "a\0b"}
    at = "2026-01-01T00:00:00.000000Z"
    row = noted_row((1, "1", event.version, "MessageJournaled", json.dumps(payload).encode(), "id", at, 1))
    for statement, values in noted([row], {"1": 1}):
        any_database.write(lambda transaction, it=statement, given=values: transaction.execute_many(it, given))
    assert any_database.query("SELECT key FROM idempotency_keys") == [(indexed("a\0b"),)]
    assert any_database.query("SELECT address FROM addresses") == [(indexed(LONG),)]


@pytest.mark.parametrize("tick_ns", [0, 1_000_000], ids=["one millisecond", "a tick at each reading"])
def test_only_a_message_whose_id_was_known_before_is_indexed_by_it_whatever_the_clock_does(
    any_database: Any, open_store_on: Callable[[Any], Ledger], monkeypatch: pytest.MonkeyPatch, tick_ns: int
) -> None:
    moments = itertools.count(time.time_ns(), tick_ns)
    ledger = open_store_on(any_database)
    chat = ledger.conversation("k")
    monkeypatch.setattr("threadledger.domain.ids.time.time_ns", lambda: next(moments))
    for text in ("One", "Two"):
        chat.append("user", text)
    chat.extend([{"role": "user", "content": "Three"}, {"role": "assistant", "content": "Four"}])
    assert any_database.query("SELECT address FROM addresses") == []
    known = new_id()
    ledger.journal.commit("k", lambda chat: chat.journal(Message(Role.USER, "Five"), message_id=known))
    assert any_database.query("SELECT address FROM addresses") == [(known,)]
