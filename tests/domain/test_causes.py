"""Bodies that providers really sent, each with its public source and its cause (`tests/causes/`).

They are shortened, and ids, keys and organizations are removed. Where a report has only the message, it is in the
envelope of its provider.
"""

import json
from pathlib import Path
from typing import Any

import pytest

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
    """The facts of a body, as the adapters have them: the error wherever it is, and the body itself."""
    details = {"body": sent["body"]} | {name: sent[name] for name in ("content_type", "endpoint") if name in sent}
    try:
        body = json.loads(sent["body"])
    except ValueError:
        message = None if "html" in sent.get("content_type", "") else sent["body"]
        return Failure("error", message=message, http_status=sent["status"], details=details)
    error = body[0] if isinstance(body, list) and body else body
    error = error.get("response", error) if isinstance(error, dict) else error
    for name in ("error", "detail", "errors"):
        inner = error.get(name) if isinstance(error, dict) else None
        if inner:
            error = inner[0] if isinstance(inner, list) else inner
            break
    facts = error if isinstance(error, dict) else {"message": error}
    text = {name: str(value) for name, value in facts.items() if isinstance(value, (str, int))}
    return Failure(
        "error",
        code=text.get("code"),
        type=text.get("type", text.get("status")),
        message=text.get("message", text.get("msg")),
        param=text.get("param"),
        http_status=sent["status"],
        details=details,
    )


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
