"""Normalising: what changes from one failure to the next is taken out of its message."""

import hashlib
import io
import re
import tokenize
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from threadledger.domain.failures import DIAGNOSIS_VERSION, RULE_VERSION, Failure, GroupName
from threadledger.domain.failures import groups as rule
from threadledger.domain.failures.groups import group_id, normalised

ALREADY_KNOWN = [
    (
        "Rate limit reached for gpt-4o in organization org-AbCdEf1234567 on tokens per min (TPM): Limit 30000, Used 29,112, "
        "Requested 2000. Please try again in 6m0s. Visit https://platform.openai.com/account/rate-limits to learn more.",
        "Rate limit reached for gpt-4o in organization <id> on tokens per min (TPM): Limit <n>, Used <n>, Requested <n>. "
        "Please try again in <time>. Visit <address> to learn more.",
    ),
    ("No thread found with id 'thread_abc123DEF456'.", "No thread found with id <name>."),
    ("The model `gpt-9` does not exist", "The model <name> does not exist"),
    (
        "The server had an error. Include the request ID req_0123456789abcdef01234567 in your message.",
        "The server had an error. Include the request ID <id> in your message.",
    ),
    ("worker 123 of /srv/app/main.py stopped at 0xDEADBEEF", "worker <n> of <path> stopped at <id>"),
    (r"cannot open C:\app\data\x.db", "cannot open <path>"),
    (
        "HTTPSConnectionPool(host='api.openai.com', port=443): Read timed out. (read timeout=60)",
        "HTTPSConnectionPool(host=<name>, port=<n>): Read timed out. (read timeout=<n>)",
    ),
    (
        "refused by 10.1.2.3:8080 at 2026-11-22T12:00:00.123Z for joe@example.org",
        "refused by <address> at <time> for <address>",
    ),
    ("run 0198a1b2-0000-7000-8000-0123456789ab is gone", "run <id> is gone"),
    ("can't find the user's key", "can't find the user's key"),
    ("Sorry, something\n  went wrong.", "Sorry, something went wrong."),
]


@pytest.mark.parametrize(("message", "expected"), ALREADY_KNOWN)
def test_ids_numbers_paths_addresses_times_and_quoted_names_give_way_to_placeholders(message, expected):
    assert normalised(message) == expected


PIECES = st.sampled_from(
    ["'", '"', "`", "/", "\\", ":", "-", "_", ".", "@", "<n>", "<id", ">", "0x", "1", "7f", "ab", "é", " "]
)


@given(st.text() | st.lists(PIECES, max_size=14).map("".join))
@example("'a' b'c'd'")
@example("1-'2'3")
def test_normalising_what_is_normalised_changes_nothing(message):
    once = normalised(message)
    assert normalised(once) == once


HEX = "0123456789abcdef"
UUIDS = st.uuids().map(str).filter(lambda each: not re.match(r"(\d+d)+-", each))
"""UUIDs without one in 277, which rule 1 takes for a number of days: see the expected failure below."""
IDS = st.one_of(
    UUIDS,
    st.tuples(st.sampled_from(["req", "thread", "run", "asst", "org"]), st.text(HEX, min_size=22, max_size=22)).map(
        lambda parts: f"{parts[0]}_{parts[1]}7a"
    ),
    st.integers(0x10000000, 2**64).map(hex),
)
NUMBERS = st.one_of(
    st.integers(0, 10**9).map(str),
    st.integers(0, 10**9).map("{:,}".format),
    st.floats(0.001, 10**6).map("{:.3f}".format),
)
WORD = st.text("abcdefgh_", min_size=1, max_size=8)
PATHS = st.lists(WORD, min_size=1, max_size=5).map(lambda parts: "/" + "/".join(parts))
NAMES = st.tuples(st.sampled_from(["''", '""', "``"]), st.text("abc XYZ-09._", min_size=1, max_size=20)).map(
    lambda parts: f"{parts[0][0]}{parts[1]}{parts[0][1]}"
)
KINDS = (IDS, NUMBERS, PATHS, NAMES)
WORDS = st.sampled_from(
    ["the", "thread", "was", "not", "found:", "in", "(limit", "reached)", "for", "please", "retry,"]
)


@st.composite
def twins(draw):
    """Two messages of the same words, between which stand other ids, numbers, paths and quoted names."""
    ends = st.sampled_from(["", ".", ",", ";", ":", ")"])
    parts = draw(st.lists(st.tuples(WORDS, st.sampled_from(KINDS), ends), min_size=1, max_size=6))
    return [" ".join(f"{word} {draw(kind)}{end}" for word, kind, end in parts) for _ in range(2)]


@pytest.mark.xfail(
    strict=True, reason="rule 1 reads digits and d as days; a new rule renames all groups, so it waits for one"
)
def test_a_uuid_that_begins_like_a_number_of_days_is_an_id():
    assert normalised("run 2369904d-7610-5bfb-0168-9c5cfb6e1d20 is gone") == "run <id> is gone"


@given(twins())
def test_messages_that_differ_only_in_ids_numbers_paths_or_quoted_names_fall_into_one_group(messages):
    one, other = (GroupName.of(Failure("failed", message=each), "chat") for each in messages)
    assert one.message == other.message
    assert one.id == other.id


def test_another_cause_backend_or_message_is_another_group():
    ids = {
        group_id(*parts)
        for parts in [("a", "b", "c"), ("x", "b", "c"), ("a", "x", "c"), ("a", "b", "x"), ("ab", "", "c")]
    }
    assert len(ids) == 5


def test_a_failure_that_said_nothing_goes_by_its_code_its_type_or_its_status():
    said = [
        GroupName.of(each, "chat").message
        for each in (Failure("failed", code="c", type="t"), Failure("failed", type="t"), Failure("failed"))
    ]
    assert said == ["c", "t", "failed"]


def test_another_rule_makes_other_groups(monkeypatch):
    group_id.cache_clear()
    before = group_id("cause", "chat", "message")
    monkeypatch.setattr(rule, "RULE_VERSION", RULE_VERSION + 1)
    group_id.cache_clear()
    assert group_id("cause", "chat", "message") != before
    group_id.cache_clear()


DOMAIN = Path(rule.__file__).parent


def code_of(path):
    """A module's code without comments, empty lines and documentation."""
    kept = []
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        documentation = token.type == tokenize.STRING and token.line.lstrip().startswith(('"""', '"'))
        if token.type in {tokenize.NAME, tokenize.NUMBER, tokenize.OP} or (
            token.type == tokenize.STRING and not documentation
        ):
            kept.append(token.string)
    return hashlib.sha256(" ".join(kept).encode()).hexdigest()[:12]


def test_groups_do_not_change_unless_the_rule_has_a_new_number():
    """Golden: where one of these ids changes, raise RULE_VERSION, and write the new ids down under the new number."""
    golden = {1: "145664afe0d0 bf5c919a1394"}
    told = hashlib.sha256("\n".join(normalised(message) for message, _ in ALREADY_KNOWN).encode()).hexdigest()[:12]
    assert {RULE_VERSION: f"{told} {hashlib.sha256(rule._CHANGING.pattern.encode()).hexdigest()[:12]}"} == golden


def test_the_diagnosis_table_does_not_change_without_a_new_number():
    """Views keep causes by that number: whoever changes the table raises DIAGNOSIS_VERSION, and writes the new code's hash."""
    golden = {4: "06d90789368d 602592ee7a1e"}
    assert {DIAGNOSIS_VERSION: f"{code_of(DOMAIN / 'diagnosis.py')} {code_of(DOMAIN / 'rules.py')}"} == golden
