"""Derive the services of a served exchange: its route, the window of its memory, and functions that the client calls."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

from .policy import Candidate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..conversation.events import ExchangeRequested
    from ..conversation.messages import Message
    from .options import ExchangeOptions
    from .policy import Policy
    from .served import ServerTool
    from .services import Services


CHAT, RESPONSES = "chat", "responses"
"""Surfaces whose clients answer tool calls by another request; the third one is `assistants`."""


def of_surface(event: ExchangeRequested, options: ExchangeOptions, services: Services) -> Services:
    """Return the services of an exchange that the served API requested, with the recorded options.

    A function that its profile offers is never called here: the run ends with the call, and the client sends its result.
    """
    model = options.wanted_model
    chosen = replace(options, model=None, profile=options.profile and replace(options.profile, model=None))
    made = chosen.services_of(services)
    functions = tuple(str(tool["function"]["name"]) for tool in made.profile.tools if tool.get("type") == "function")
    profile = replace(made.profile, approval=functions, read_only=())
    policy = _routed(made.policy, services, model) if options.backend is None else options.policy_of(services)
    tools = dict.fromkeys(functions, _of_the_client)
    made = replace(made, profile=profile, policy=_windowed(policy, event.request), tools=tools)
    if made.server_tools and made.profile.tools_json != "[]":
        made = _with_server_tools(event, made)
    return of_client(event, made) if event.surface in {CHAT, RESPONSES} else made


def _with_server_tools(event: ExchangeRequested, services: Services) -> Services:
    """Return the services with functions in place of the tools that the server runs; they change nothing, and need no client."""
    profile = services.profile
    offered: list[Any] = []
    own: dict[str, ServerTool] = {}
    chosen: dict[str, str] = {}
    for tool in profile.tools:
        make = services.server_tools.get(tool.get("type", ""))
        made = make(event, tool) if make is not None else None
        name = str(made.definition["function"]["name"]) if made is not None else ""
        if made is None:
            offered.append(tool)
        elif name not in own:
            offered.append(made.definition)
            own[name] = made
            chosen[tool["type"]] = name
    if not own:
        return services
    settings = profile.settings
    choice = settings.get("tool_choice")
    if isinstance(choice, dict) and choice.get("type") in chosen:
        settings["tool_choice"] = {"type": "function", "function": {"name": chosen[choice["type"]]}}
    profile = replace(
        profile,
        tools_json=json.dumps(offered, ensure_ascii=False),
        settings_json=json.dumps(settings, ensure_ascii=False) if settings else "{}",
        read_only=(*profile.read_only, *own),
    )

    def finish(message: Message) -> Message:
        for each in own.values():
            message = each.finish(message)
        return message

    functions = {name: each.function for name, each in own.items()}
    return replace(
        services, profile=profile, tools={**services.tools, **functions}, own_tools=tuple(own), finish=finish
    )


def of_client(event: ExchangeRequested, services: Services) -> Services:
    """Return the services of a request whose client keeps its metadata and answers tool calls itself."""
    extra: Mapping[str, Any] = event.request.get("options") or {}
    policy = replace(services.policy, stream_fallback="continue")  # what was sent cannot be taken back
    profile = replace(services.profile, approval=())
    return replace(services, policy=policy, profile=profile, extra=extra, hands_over=True, metadata={})


def _routed(policy: Policy, services: Services, model: str | None) -> Policy:
    """Return a policy for a model: its route, or the chain whose first backend is asked for it."""
    if model is None:
        return policy
    route = services.routes.get(model)
    if route:
        return replace(policy, candidates=tuple(route))
    first, *others = policy.candidates or (Candidate("none", model),)
    return replace(policy, candidates=(replace(first, model=model), *others))


def _windowed(policy: Policy, request: dict[str, Any]) -> Policy:
    """Return a policy with the window of a request: its newest messages, and a budget of tokens."""
    strategy = request.get("truncation_strategy") or {}
    last = strategy.get("last_messages") if strategy.get("type") == "last_messages" else None
    tokens = request.get("max_prompt_tokens")
    return replace(
        policy,
        memory_last=last if type(last) is int and last > 0 else policy.memory_last,
        memory_tokens=tokens if type(tokens) is int and tokens > 0 else policy.memory_tokens,
    )


def _of_the_client(**_: Any) -> NoReturn:
    raise RuntimeError("the function belongs to the client of the served API: it is not called here")
