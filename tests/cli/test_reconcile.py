"""`threadledger replay reconcile` and what `replay verify` tells: as they are typed."""

import openai
import pytest

# The SDK warns at each call for assistants; that our own calls are quiet is proved in test_settings.py.
pytestmark = pytest.mark.filterwarnings(r"ignore:(The Assistants API is )?deprecated:DeprecationWarning")

MESSAGES = "POST /threads/{thread_id}/messages"
READ = "GET /threads/{thread_id}/messages"


@pytest.fixture
def sdk(provider):
    with openai.OpenAI(base_url=provider.base_url, api_key="sk-other", max_retries=0) as client:
        yield client


@pytest.fixture
def thread_of(command):
    return lambda key="k": command("show", key, "-o", "json").json["threads"]["assistants"]["thread_id"]


@pytest.fixture
def write(sdk, thread_of):
    """Somebody else writes into a thread."""
    return lambda text, key="k": sdk.beta.threads.messages.create(thread_of(key), role="user", content=text)


@pytest.fixture
def delete(sdk, thread_of):
    """Somebody else deletes one of its messages."""

    def delete_one(number, key="k"):
        thread_id = thread_of(key)
        listed = sdk.beta.threads.messages.list(thread_id, order="asc").data
        sdk.beta.threads.messages.delete(listed[number].id, thread_id=thread_id)

    return delete_one


@pytest.fixture
def journaled(command, provider):
    def append(key="k", texts=("one", "two", "three")):
        for text in texts:
            assert command("append", key, "user", text).code == 0

    append()
    return append


def test_the_plan_is_told_in_one_note_and_nothing_is_done(command, journaled, delete):
    delete(-1)
    done = command("replay", "reconcile", "k")
    assert done.code == 0
    assert "send" in done.out
    assert done.err.splitlines() == [
        "plan: 1 thread: 1 to receive 1 message; nothing was done; pass --apply to execute the plan"
    ]
    assert command("replay", "verify", "k").code == 4


def test_apply_mends_and_verify_agrees(command, journaled, delete):
    delete(1)
    done = command("replay", "reconcile", "k", "--apply", "--yes")
    assert done.code == 0
    assert done.err.splitlines()[-1] == "1 repaired"
    assert command("replay", "verify", "k").code == 0
    again = command("replay", "reconcile", "k", "--apply", "--yes")
    assert (again.code, again.err.splitlines()[-1]) == (0, "0 repaired; 1 skipped: the thread equals the journal (1)")


def test_what_is_foreign_is_told_with_the_ways_out_and_adopted_where_asked(command, journaled, write):
    write("from elsewhere")
    told = command("replay", "reconcile", "k", "--apply", "--yes")
    assert told.code == 0
    assert "--adopt" in told.err
    assert "rebuild --fresh" in told.err
    plan = command("replay", "reconcile", "k", "--adopt")
    assert plan.err.startswith("plan: 1 thread: 1 foreign message to journal; nothing was done")
    assert command("replay", "reconcile", "k", "--adopt", "--apply", "--yes").code == 0
    messages = command("show", "k", "-o", "json").json["messages"]
    assert [(each["content"], each["source"]) for each in messages][-1] == ("from elsewhere", "adopted")
    assert command("replay", "verify", "k").code == 0


def test_json_has_an_object_for_each_thread(command, journaled, write):
    write("from elsewhere")
    (told,) = command("replay", "reconcile", "k", "-o", "json").json
    assert list(told) == [
        *("key", "backend", "thread_id", "new_thread_id", "action", "missing", "extra", "different", "foreign"),
        *("sent", "adopted", "deleted", "answered", "state", "reason"),
    ]
    (done,) = command("replay", "reconcile", "k", "--adopt", "--apply", "--yes", "-o", "json").json
    assert (done["state"], done["action"], done["adopted"], done["extra"]) == ("done", "adopt", 1, 1)


def test_without_a_terminal_yes_is_needed_unless_there_is_nothing_to_mend(command, journaled, delete):
    assert command("replay", "reconcile", "k", "--apply").code == 0
    delete(-1)
    refused = command("replay", "reconcile", "k", "--apply")
    assert refused.code == 8
    assert "--yes" in refused.err


@pytest.mark.parametrize("arguments", [(), ("k", "--all"), ("k", "--limit", "0"), ("k", "--to", "nowhere")])
def test_wrong_usage_is_told(command, journaled, arguments):
    assert command("replay", "reconcile", *arguments).code == 2


def test_an_unknown_conversation_is_not_found(command, journaled):
    assert command("replay", "reconcile", "nobody").code == 6


def test_one_that_fails_is_told_and_the_others_are_mended(command, provider, journaled, delete):
    journaled("other")
    for key in ("k", "other"):
        delete(-1, key)
    provider.add_fault(READ, refuse={"status": 401}, after=2)
    done = command("replay", "reconcile", "--all", "--apply", "--yes", "-o", "json")
    assert done.code == 3
    assert sorted(each["state"] for each in done.json) == ["done", "failed"]
    provider.add_fault(READ, refuse={"status": 401})
    assert command("replay", "reconcile", "k").code == 3


def test_where_somebody_is_in_the_way_of_all_of_it_that_is_a_conflict(command, journaled, write, open_ledger, provider):
    write("from elsewhere")
    ledger = open_ledger(db="sqlite:///threadledger.db", threads="none")
    with ledger.conversation("k").run(backend="my-llm", model="llama") as run:
        done = command("replay", "reconcile", "k", "--adopt", "--apply", "--yes")
        assert done.code == 7
        assert "is open" in done.err
        run.complete("four")


def test_verify_tells_how_to_see_and_how_to_mend(command, journaled, delete):
    delete(1)
    done = command("replay", "verify", "k")
    assert "threadledger diff KEY --thread" in done.err
    assert "threadledger replay reconcile KEY --apply" in done.err


def test_verify_tells_each_difference_in_json(command, journaled, delete, write):
    delete(1)
    write("from elsewhere")
    (told,) = command("replay", "verify", "k", "-o", "json").json
    found = [(each["change"], each["journal_text"], each["thread_text"]) for each in told["differences"]]
    assert found == [("missing", "two", None), ("extra", None, "from elsewhere")]
    assert told["differences"][0]["message_id"]
