"""Bodies that providers really sent, each with its public source and its cause (`tests/causes/`).

They are shortened, and ids, keys and organizations are removed. Where a report has only the message, it is in the
envelope of its provider.
"""

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from threadledger.adapters.openai import Context, failure_of_response, read_body
from threadledger.domain.failures import Cause, Failure, advise, diagnose

FOLDER = Path(__file__).parents[1] / "causes"
FILES = sorted(FOLDER.glob("*.jsonl"))
CORPUS = [
    pytest.param(body, id=f"{path.stem}-{number}-{body['provider']}")
    for path in FILES
    for number, body in enumerate(map(json.loads, path.read_text(encoding="utf-8").splitlines()), start=1)
]
BODIES = [each.values[0] for each in CORPUS]

OF_THE_PROFILE = {
    Cause.ASSISTANT_MISSING,
    Cause.ASSISTANT_MISCONFIGURED,
    Cause.INSTRUCTIONS_TOO_LONG,
    Cause.TOO_MANY_TOOLS,
    Cause.TOOL_NOT_SUPPORTED,
    Cause.TOOL_FAILED,
}


def failure_of(sent: dict[str, Any]) -> Failure:
    """The facts of a body, as our readers find them: in a refused request, or in a response with HTTP 200."""
    content, content_type = sent["body"].encode(), sent.get("content_type", "application/json")
    context = Context("chat", sent.get("endpoint", "POST /chat/completions"), None, sent["status"], None, content_type)
    if sent["status"] >= 400:
        response = httpx2.Response(sent["status"], headers={"content-type": content_type}, content=content)
        return failure_of_response(response, context, {})
    outcome = read_body(content, context).outcome
    assert isinstance(outcome, Failure), sent
    return outcome


@pytest.mark.parametrize("sent", CORPUS)
def test_what_a_provider_sent_has_its_cause(sent: dict[str, Any]) -> None:
    assert diagnose(failure_of(sent)).value == sent["cause"], sent["body"]


def test_few_bodies_have_no_cause() -> None:
    unknown = [sent for sent in BODIES if diagnose(failure_of(sent)) is Cause.UNKNOWN]
    assert len(unknown) < 0.03 * len(BODIES)


def test_advice_names_the_profile_only_for_what_the_profile_caused() -> None:
    for sent in BODIES:
        failure = failure_of(sent)
        cause = diagnose(failure)
        advice = advise(cause, failure.code).lower()
        assert cause in OF_THE_PROFILE or ("profile" not in advice and "instructions" not in advice), sent


def test_every_body_has_a_public_source_and_no_secret() -> None:
    from threadledger.domain.failures import redact

    assert len(BODIES) >= 150
    assert len({(sent["status"], sent["body"]) for sent in BODIES}) == len(BODIES)
    for sent in BODIES:
        assert sent["source"].startswith("https://"), sent
        assert redact(sent["body"], 10_000) == sent["body"], sent["source"]
