"""Handle /_simulator: read and change the simulation while it runs.

These requests need no API key. A web page that the user has open could send them too, so they are refused if they come from
a page of another origin, or by a name that a page's owner could have pointed at this machine (DNS rebinding).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ..wire import APIS, ApiError, IncomingRequest, errors
from ..wire.hosts import host_name, ip_of, is_cross_site
from .faults import as_json
from .provider import Provider
from .script import Reader, ScriptError, parse_answers, parse_faults, parse_limits
from .state_file import answer_json

CONTROL_PREFIX = "/_simulator"


LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
"""Names by which a simulator on loopback is reached."""


def control(provider: Provider, incoming: IncomingRequest, listens_on: str) -> tuple[int, dict[str, Any]]:
    """Answer a control request with a status and a JSON object; `listens_on` is the simulator's host."""
    try:
        _refuse_web_pages(incoming, listens_on)
        return 200, _dispatch(provider, incoming)
    except (ScriptError, json.JSONDecodeError, UnicodeDecodeError) as error:
        return 400, ApiError(400, str(error)).body()
    except ApiError as error:
        return error.status, error.body()


def _refuse_web_pages(incoming: IncomingRequest, listens_on: str) -> None:
    host = incoming.headers.get("host", "")
    if not _is_own_name(host_name(host), listens_on):
        raise ApiError(
            403,
            f"The simulator listens on {listens_on}, and this request is for the host {host!a}: control it by its address.",
        )
    if incoming.headers.get("origin", f"http://{host}") != f"http://{host}" or is_cross_site(incoming.headers):
        raise ApiError(403, "A web page of another origin must not control the simulator: use curl or the Python API.")


def _is_own_name(name: str, listens_on: str) -> bool:
    """Return whether a name can only mean this simulator.

    On loopback, these are the loopback names. On a network these are also IP addresses and names without a dot (a
    container, a machine of the local network), because the domain of a web page has a dot.
    """
    if listens_on in LOOPBACK_NAMES:
        return name in LOOPBACK_NAMES
    return bool(name) and (name == listens_on or "." not in name or ip_of(name) is not None)


def _dispatch(provider: Provider, incoming: IncomingRequest) -> dict[str, Any]:
    action = ACTIONS.get((incoming.method, incoming.path.removeprefix(CONTROL_PREFIX)))
    if action is None:
        raise errors.unknown_url(incoming.method, incoming.path)
    answer = action(provider, json.loads(incoming.body or b"{}"))
    provider.save()
    return answer


def state(provider: Provider, _body: Any = None) -> dict[str, Any]:
    """Return the whole state as a JSON-compatible object."""
    with provider.lock:
        messages, items = provider.messages, provider.items
        runs = list(provider.runs.values())
        return {
            "seed": provider.store.ids.seed,
            "assistants": list(provider.assistants.values()),
            "threads": [
                {**thread, "messages": messages[key], "runs": [run for run in runs if run["thread_id"] == key]}
                for key, thread in provider.threads.items()
            ],
            "conversations": [{**value, "items": items[key]} for key, value in provider.conversations.items()],
            "responses": list(provider.responses.values()),
            "chat_completions": provider.completions,
            "files": list(provider.files.values()),
            "answers": [answer_json(answer) for answer in provider.store.answers.left],
            "faults": _faults(provider),
            "retired_apis": list(provider.retired_apis),
            "retired_models": sorted(provider.store.retired_models),
            "rate_limits": _limits(provider),
            "request_counts": provider.request_counts,
        }


def _requests(provider: Provider, _body: Any) -> dict[str, Any]:
    with provider.lock:
        listed = [
            {"method": r.method, "path": r.path, "status": r.status, "request_id": r.request_id, "body": r.body}
            for r in provider.requests
        ]
        return {"requests": listed, "counts": provider.request_counts}


def _files(provider: Provider, _body: Any) -> dict[str, Any]:
    return {"files": list(provider.files.values())}


def _add_faults(provider: Provider, body: Any) -> dict[str, Any]:
    faults = parse_faults(_listed(body, "faults"), "faults")
    with provider.lock:
        for fault in faults:
            provider.faults.add(fault)
        return {"faults": _faults(provider)}


def _clear_faults(provider: Provider, _body: Any) -> dict[str, Any]:
    with provider.lock:
        provider.faults.clear()
    return {"faults": []}


def _add_answers(provider: Provider, body: Any) -> dict[str, Any]:
    answers = parse_answers(_listed(body, "answers"), "answers")
    with provider.lock:
        provider.store.answers.add(answers)
        return {"answers": [answer_json(answer) for answer in provider.store.answers.left]}


def _lose(provider: Provider, body: Any) -> dict[str, Any]:
    reader = Reader(body, "")
    reader.only(("id",))
    identifier = reader.required_string("id")
    try:
        provider.lose(identifier)
    except KeyError as error:
        raise ApiError(
            404, f"Nothing with id '{identifier}': pass the id of an assistant, thread, conversation, response or file."
        ) from error
    return {"lost": identifier}


def _retire(provider: Provider, body: Any) -> dict[str, Any]:
    reader = Reader(body, "")
    reader.only(("api",))
    reader.required_string("api")
    provider.retire(reader.string("api", None, APIS) or "")
    return {"retired_apis": list(provider.retired_apis)}


def _set_limits(provider: Provider, body: Any) -> dict[str, Any]:
    limits = parse_limits(body)
    with provider.lock:
        provider.rates.set(limits)
        return {"rate_limits": _limits(provider)}


def _reset(provider: Provider, _body: Any) -> dict[str, Any]:
    provider.reset()
    return state(provider)


def _limits(provider: Provider) -> dict[str, Any]:
    return {kind: {"per_minute": bucket.limit, "left": bucket.left} for kind, bucket in provider.rates.buckets.items()}


def _listed(body: Any, key: str) -> list[Any]:
    """Return a list: the body itself, the list under `key`, or the body as a single fault or answer."""
    if isinstance(body, list):
        return body
    return Reader(body, "").array(key) if isinstance(body, dict) and key in body else [body]


def _faults(provider: Provider) -> list[dict[str, Any]]:
    return [as_json(state) for state in provider.faults.states]


ACTIONS: dict[tuple[str, str], Callable[[Provider, Any], dict[str, Any]]] = {
    ("GET", "/state"): state,
    ("GET", "/requests"): _requests,
    ("GET", "/files"): _files,
    ("POST", "/faults"): _add_faults,
    ("DELETE", "/faults"): _clear_faults,
    ("POST", "/answers"): _add_answers,
    ("POST", "/lose"): _lose,
    ("POST", "/retire"): _retire,
    ("POST", "/rate_limits"): _set_limits,
    ("POST", "/reset"): _reset,
}
