"""Check how ids of new objects are derived, and which conversations a caller reaches."""

from __future__ import annotations

import re
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threadledger.adapters.server import Caller
from threadledger.adapters.server.ids import new_id, uuid_in, wire_id
from threadledger.adapters.server.tenants import TENANT_NAME, key_of, reaches, thread_id_of
from threadledger.adapters.wire import ApiError
from threadledger.domain.conversation.tenants import check_tenant
from threadledger.domain.errors import InvalidInput

NO_TENANT, ONE, TWO = Caller(), Caller("k", "one"), Caller("k2", "one-2")


def test_the_same_request_gives_the_same_id_and_another_request_or_kind_another_one() -> None:
    made = new_id("asst_", "api:1")
    assert re.fullmatch("asst_[0-9a-f]{32}", made)
    assert new_id("asst_", "api:1") == made
    others = {
        new_id("asst_", "api:2"),
        new_id("asst_", "api:1:0"),
        new_id("thread_", "api:1").replace("thread", "asst"),
    }
    assert len(others | {made}) == 4


@given(st.uuids())
def test_a_uuid_comes_back_from_its_wire_id(value: UUID) -> None:
    assert wire_id("run_", str(value)) == f"run_{value.hex}"
    assert uuid_in("run_", f"run_{value.hex}") == str(value)


@pytest.mark.parametrize(
    "given_id", ["run_", "run_abc123", "msg_" + "0" * 32, "run_" + "A" * 32, "run_" + "0" * 33, ""]
)
def test_an_id_of_another_form_has_no_uuid(given_id: str) -> None:
    assert uuid_in("run_", given_id) is None


def test_a_thread_of_a_tenant_has_a_key_with_the_tenants_prefix() -> None:
    assert key_of(NO_TENANT, "thread_1") == "thread_1"
    assert key_of(ONE, "thread_1") == "tenant:one/thread_1"
    assert key_of(ONE, "tenant:one-2/thread_1") == "tenant:one/tenant:one-2/thread_1"
    assert thread_id_of(ONE, "tenant:one/thread_1") == thread_id_of(NO_TENANT, "thread_1") == "thread_1"


@pytest.mark.parametrize("thread_id", ["", "tenant:one/thread_1", "tenant:", "a\0b", "a\ud800b", "x" * 201])
def test_an_id_that_no_thread_of_the_caller_can_have_is_a_404(thread_id: str) -> None:
    with pytest.raises(ApiError) as caught:
        key_of(NO_TENANT, thread_id)
    assert (caught.value.status, caught.value.message) == (404, f"No thread found with id '{thread_id}'.")


@pytest.mark.parametrize("thread_id", ["", "a\0b", "x" * 200])
def test_so_is_one_that_is_too_long_with_the_tenants_prefix(thread_id: str) -> None:
    with pytest.raises(ApiError) as caught:
        key_of(ONE, thread_id)
    assert caught.value.status == 404


@given(st.sampled_from([NO_TENANT, ONE, TWO]), st.sampled_from([NO_TENANT, ONE, TWO]), st.text(max_size=60))
def test_no_caller_reaches_a_thread_of_another_tenant(owner: Caller, other: Caller, thread_id: str) -> None:
    try:
        key = key_of(owner, thread_id)
    except ApiError:
        return
    assert thread_id_of(owner, key) == thread_id
    assert reaches(other, key) == (owner.tenant == other.tenant)
    if owner.tenant != other.tenant:
        with pytest.raises(ValueError, match="not one of the tenant"):
            thread_id_of(other, key)


def test_the_name_of_a_tenant_has_few_characters_and_no_slash() -> None:
    assert all(TENANT_NAME.fullmatch(name) and check_tenant(name) == name for name in ("a", "a-b_9", "x" * 63))
    for wrong in ("", "A", "a/b", "a b", "x" * 64, "é", "a\n", None):
        with pytest.raises(InvalidInput, match="is not the name of a tenant: use 1 to 63 of the characters"):
            check_tenant(wrong)
