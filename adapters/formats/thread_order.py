"""Sort the messages and tool calls of a thread chronologically.

Messages are sorted by `created_at`, which has a resolution of one second; equal timestamps keep the order of the list.
The tool calls of a run precede the message that the run wrote next.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

Thing = Mapping[str, Any]


def in_order(messages: Sequence[Thing], steps: Sequence[Thing], order: str | None, is_page: bool) -> list[Thing]:
    """Return messages and tool call steps, oldest first. `order` is the order given by the dump (`asc`, `desc`), if any."""
    said = _oldest_first(messages, _is_newest_first(messages, order, is_page))
    made = _oldest_first(steps, _is_newest_first(steps, None, False))
    before: defaultdict[str, list[Thing]] = defaultdict(list)
    after: defaultdict[str, list[Thing]] = defaultdict(list)
    alone: list[Thing] = []
    for index, step in enumerate(made):
        if step.get("type") != "tool_calls":
            continue
        next_message = _next_message(step, made[index + 1 :], said)
        of_run = [message for message in said if _is_of_run(message, step)]
        if next_message is not None:
            before[next_message].append(step)
        elif of_run:
            after[of_run[-1]["id"]].append(step)
        else:
            alone.append(step)
    placed = [each for message in said for each in (*before[message["id"]], message, *after[message["id"]])]
    for step in alone:
        placed.insert(_place_by_time(step, placed), step)
    return placed


def created_at(thing: Thing) -> float | None:
    """Return the Unix time of a message or step, or None if it has no valid one."""
    found = thing.get("created_at")
    return float(found) if isinstance(found, (int, float)) and not isinstance(found, bool) else None


def _is_newest_first(things: Sequence[Thing], order: str | None, is_page: bool) -> bool:
    if order in {"asc", "desc"}:
        return order == "desc"
    times = [moment for thing in things if (moment := created_at(thing)) is not None]
    if times and times[0] != times[-1]:
        return times[0] > times[-1]
    # All within one second: assume that the user wrote the first message.
    first, last = (things[0].get("role"), things[-1].get("role")) if things else (None, None)
    return last == "user" if first == "assistant" else is_page and last == first == "user" and len(things) > 1


def _oldest_first(things: Sequence[Thing], newest_first: bool) -> list[Thing]:
    listed = list(reversed(things)) if newest_first else list(things)
    times: list[float] = []
    for thing in listed:  # an object without a timestamp keeps its position after its predecessor
        moment = created_at(thing)
        times.append(moment if moment is not None else times[-1] if times else float("-inf"))
    return [listed[index] for index in sorted(range(len(listed)), key=times.__getitem__)]


def _is_of_run(message: Thing, step: Thing) -> bool:
    return message.get("run_id") is not None and message.get("run_id") == step.get("run_id")


def _next_message(step: Thing, later: Sequence[Thing], said: Sequence[Thing]) -> str | None:
    """Return the id of the next message written by the step's run, found by the run's steps or else by timestamp."""
    ids = {message["id"] for message in said}
    for each in later:
        details = each.get("step_details")
        if each.get("run_id") == step.get("run_id") and isinstance(details, Mapping):
            creation = details.get("message_creation")
            message_id = creation.get("message_id") if isinstance(creation, Mapping) else None
            if isinstance(message_id, str) and message_id in ids:
                return message_id
    moment = created_at(step)
    for message in said:
        written = created_at(message)
        if _is_of_run(message, step) and (moment is None or written is None or written >= moment):
            return str(message["id"])
    return None


def _place_by_time(step: Thing, placed: Sequence[Thing]) -> int:
    """Return the index after the last object that is not newer than the step."""
    moment = created_at(step)
    if moment is None:
        return len(placed)
    return next((index for index, each in enumerate(placed) if (created_at(each) or moment) > moment), len(placed))
