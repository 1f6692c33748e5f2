"""Define the fault matrix: every possible fault at every step of an exchange, on every backend, in every mode.

This module contains the table; `playing.py` plays one cell of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

HASTY_SECONDS = 0.4
"""Timeout of one attempt, in seconds, if a request hangs."""

Action = Mapping[str, Any]
MODES = ("sync", "async", "sync stream", "async stream")


@dataclass(frozen=True)
class Setup:
    """Describe the ledger of some cells; `routes` maps the routes of its exchanges to the faults that lead there."""

    name: str
    settings: Mapping[str, Any]
    threads: str
    routes: Mapping[str, Sequence[Action]]


ASSISTANTS, ASSISTANT_LIST = "POST /assistants", "GET /assistants"
THREADS, MESSAGES, MESSAGE_LIST = (
    "POST /threads",
    "POST /threads/{thread_id}/messages",
    "GET /threads/{thread_id}/messages",
)
RUNS, RUN, RUN_LIST = (
    "POST /threads/{thread_id}/runs",
    "GET /threads/{thread_id}/runs/{run_id}",
    "GET /threads/{thread_id}/runs",
)
OUTPUTS = "POST /threads/{thread_id}/runs/{run_id}/submit_tool_outputs"
CANCEL = "POST /threads/{thread_id}/runs/{run_id}/cancel"
ERASE = "DELETE /threads/{thread_id}/messages/{message_id}"
CONVERSATIONS, ITEMS = "POST /conversations", "POST /conversations/{conversation_id}/items"
ITEM_LIST = "GET /conversations/{conversation_id}/items"
ERASE_ITEM = "DELETE /conversations/{conversation_id}/items/{item_id}"
RESPONSES, RESPONSE, CANCEL_RESPONSE = (
    "POST /responses",
    "GET /responses/{response_id}",
    "POST /responses/{response_id}/cancel",
)
CHAT = "POST /chat/completions"
MODEL_ROUTES = (RUNS, OUTPUTS, RESPONSES, CHAT)

UNWELL = {"refuse": {"status": 500}}
IN_CONVERSATIONS: Mapping[str, Sequence[Action]] = {
    CONVERSATIONS: (),
    ITEMS: ({"on": RESPONSES, "fail": True, "times": 2},),
    ITEM_LIST: ({"on": RESPONSES, "lose_answer": True},),
    ERASE_ITEM: ({"on": RESPONSES, "land_late": 1},),
}
IN_THREADS: Mapping[str, Sequence[Action]] = {
    THREADS: (),
    MESSAGES: (),
    MESSAGE_LIST: ({"on": MESSAGES, "lose_answer": True},),
    ERASE: ({"on": MESSAGES, "land_late": 2},),
}
SETUPS = (
    Setup(
        "assistants",
        {"use_assistants_api": True, "backends": ("chat",), "threads": "assistants"},
        "assistants",
        {
            **IN_THREADS,
            ASSISTANT_LIST: (),
            ASSISTANTS: (),
            RUNS: (),
            RUN: (),
            OUTPUTS: (),
            MESSAGE_LIST: (),
            RUN_LIST: ({"on": RUNS, "lose_answer": True},),
            CANCEL: ({"on": RUN, **UNWELL, "times": 4},),
            ERASE: ({"on": RUNS, "incomplete": "max_completion_tokens"},),
            CHAT: ({"on": RUNS, "fail": True, "times": 2},),
        },
    ),
    Setup(
        "responses",
        {"backends": ("responses", "chat"), "threads": "conversations"},
        "conversations",
        {**IN_CONVERSATIONS, RESPONSES: (), CHAT: ({"on": RESPONSES, "fail": True, "times": 2},)},
    ),
    Setup(
        "background",
        {"backends": ("responses", "chat"), "threads": "conversations", "background": True},
        "conversations",
        {
            **IN_CONVERSATIONS,
            RESPONSES: (),
            RESPONSE: (),
            CANCEL_RESPONSE: ({"on": RESPONSE, **UNWELL, "times": 4},),
        },
    ),
    Setup(
        "stateless",
        {"backends": ("responses", "chat"), "threads": "assistants", "stateless": True},
        "assistants",
        {**IN_THREADS, RESPONSES: ()},
    ),
    Setup("chat", {"backends": ("chat",), "threads": "conversations"}, "conversations", {
        CONVERSATIONS: (),
        ITEMS: (),
        ITEM_LIST: ({"on": ITEMS, "lose_answer": True},),
        ERASE_ITEM: ({"on": ITEMS, "land_late": 2},),
        CHAT: (),
    }),
)  # fmt: skip


def refusing(status: int, **words: Any) -> Action:
    """Return a fault that refuses a request."""
    return {"refuse": {"status": status, **words}}


EVERYWHERE: Mapping[str, Action] = {
    **{f"refuse {status}": refusing(status) for status in (400, 401, 403, 404, 409, 422, 429, 500, 503)},
    "refuse 429 retry-after 1": refusing(429, code="rate_limit_exceeded", headers={"retry-after": "1"}),
    "refuse 429 retry-after 90": refusing(429, code="rate_limit_exceeded", headers={"retry-after": "90"}),
    "refuse 429 quota": refusing(429, code="insufficient_quota", type="insufficient_quota"),
    "refuse 503 retry-after 1": refusing(503, headers={"retry-after": "1"}),
    "drop": {"drop": True},
    "lose_answer": {"lose_answer": True},
    **{f"land_late {requests}": {"land_late": requests} for requests in (1, 2, 3)},
    "hang": {"hang": 30},
    "slow": {"slow": 0.02},
    "slow beyond the limit": {"slow": HASTY_SECONDS + 0.2},
    "reply html": {"reply": {"content_type": "text/html", "text": "<html>Please log in.</html>"}},
    "reply html 502": {"reply": {"status": 502, "content_type": "text/html", "text": "<html>Bad gateway</html>"}},
    "reply broken JSON": {"reply": {"text": '{"id": "x", '}},
    "reply {}": {"reply": {"text": "{}"}},
    "reply nothing": {"reply": {"text": ""}},
    "gone": {"gone": True},
}
OF_MODELS: Mapping[str, Action] = {
    **{
        f"fail {code}": {"fail": {"code": code, "message": "It failed."}}
        for code in ("server_error", "rate_limit_exceeded", "invalid_prompt")
    },
    **{
        f"incomplete {why}": {"incomplete": why}
        for why in ("max_completion_tokens", "max_prompt_tokens", "max_output_tokens", "content_filter")
    },
    "end expired": {"end": "expired"},
    "end cancelled": {"end": "cancelled"},
}
OF_STREAMS: Mapping[str, Action] = {
    **{
        f"truncate {kind} {events}{'' if done else ' undone'}": {
            "truncate": {"events": events, "kind": kind, "done": done}
        }
        for kind in ("clean", "broken")
        for events in (0, 1, 3, 6, 9)
        for done in (True, False)
    },
    **{f"garble {events}": {"garble": {"events": events}} for events in (0, 1, 6)},
    **{
        f"error_event {form} {events}": {"error_event": {"form": form, "events": events}}
        for form in ("flat", "envelope")
        for events in (0, 1, 6)
    },
    **{f"hang within the stream {events}": {"hang": {"seconds": 30, "events": events}} for events in (0, 6)},
}
OF_THREADS: Mapping[str, Action] = {"thread_gone": {"thread_gone": True}}
LOCKED: Mapping[str, Action] = {"locked": refusing(400, code="conversation_locked")}
ACTIVE: Mapping[str, Action] = {
    "active run": refusing(400, message="Thread thread_1 already has an active run run_1."),
    "busy thread": refusing(400, message="Can't add messages to thread_1 while a run run_1 is active."),
}


@dataclass(frozen=True)
class Cell:
    """Describe one fault at one step: it happens after `after` successful requests, once or (`times` None) always."""

    setup: Setup
    route: str
    fault: str
    action: Action = field(compare=False)
    after: int = 0
    times: int | None = 1
    mode: str = "sync"
    foreign: bool = False
    """Whether another program writes into the thread between the two questions."""
    same: bool = False
    """Whether the second question has the same text as the first."""

    @property
    def id(self) -> str:
        """Return the name of the cell."""
        often = "" if self.times else ", always"
        more = (", foreign" if self.foreign else "") + (", same" if self.same else "")
        return f"{self.setup.name}: {self.fault} at {self.route}, after {self.after}{often}, {self.mode}{more}"

    @property
    def hasty(self) -> bool:
        """Return whether the timeouts are short because a request hangs."""
        polled = self.route in {OUTPUTS, CANCEL} and self.times is None  # a waiting run is polled until its timeout
        return polled or self.fault.startswith("hang") or "beyond" in self.fault

    @property
    def faults(self) -> list[Action]:
        """Return the faults that lead to the step, and the fault of the step itself."""
        return [
            *self.setup.routes[self.route],
            {"on": self.route, "after": self.after, "times": self.times, **self.action},
        ]


def faults_at(setup: Setup, route: str) -> Iterator[tuple[str, Action]]:
    """Yield the faults that are possible on a route."""
    for name, action in EVERYWHERE.items():
        # A 404 for an existing entry would be a wrong response, not a failure.
        if not (route.startswith("DELETE") and name == "refuse 404"):
            yield name, action
    if route in MODEL_ROUTES:
        for name, action in OF_MODELS.items():
            if not ("end" in action and route == CHAT) and not (name == "end expired" and route == RESPONSES):
                yield name, action
        yield from OF_STREAMS.items()
    if "{thread_id}" in route or "{conversation_id}" in route or route == RESPONSES:
        yield from OF_THREADS.items()
    if route in {RESPONSES, ITEMS, ERASE_ITEM}:
        yield from LOCKED.items()
    if route in {RUNS, MESSAGES}:
        yield from ACTIVE.items()


def cells() -> Iterator[Cell]:
    """Yield all cells of the matrix."""
    for setup in SETUPS:
        for route in setup.routes:
            for name, action in faults_at(setup, route):
                for times, after in ((1, 0), (1, 1), (None, 0)):
                    for mode in MODES[2:] if name in OF_STREAMS else MODES:
                        for foreign, same in ((False, False), (True, False), (False, True)):
                            yield Cell(setup, route, name, action, after, times, mode, foreign, same)


def dealt() -> Iterator[Cell]:
    """Yield every other fault of each step, and those in between of the next step; faults of few steps are not left out.

    A step that several backends have is run on each in rotation; so are modes and the other dimensions.
    """
    modes, streamed = cycle(MODES), cycle(MODES[2:])
    places = cycle(((1, 0), (1, 1), (1, 0), (None, 0), (1, 1)))
    others = cycle(
        ((False, False), (False, True), (False, False), (True, False), (False, False), (False, True), (True, False))
    )
    skipped, common = cycle((False, True)), {*EVERYWHERE, *OF_STREAMS}
    having = {route: [each for each in SETUPS if route in each.routes] for each in SETUPS for route in each.routes}
    for setup in SETUPS:
        for route in setup.routes:
            next(skipped)
            for number, (name, action) in enumerate(faults_at(setup, route)):
                if setup is not having[route][number % len(having[route])] or (name in common and next(skipped)):
                    continue
                mode = next(streamed if name in OF_STREAMS else modes)
                times, after = next(places)
                yield Cell(setup, route, name, action, after, times, mode, *next(others))
