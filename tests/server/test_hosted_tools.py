"""Check that tools which only a provider could run are refused by name, or left out and named: never accepted and ignored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from threadledger.adapters.server import ServeSettings
from threadledger.adapters.server.hosted_tools import (
    SERVER_RUN,
    checked_attachments,
    checked_choice,
    checked_resources,
    checked_tools,
    losses_of,
)
from threadledger.adapters.wire import ApiError

REFUSE, DROP = ServeSettings(), ServeSettings(hosted_tools="drop")
WEATHER = {"type": "function", "function": {"name": "weather"}}
HOSTED = ("code_interpreter", "file_search", "retrieval", "web_search", "browser", "mcp", "tool_of_next_year")

CASES: list[tuple[Callable[[ServeSettings], tuple[Any, list[str]]], str, str, Any]] = [
    *(
        (
            lambda settings, kind=kind: checked_tools([WEATHER, {"type": kind}], settings),
            kind,
            "tools[1].type",
            [WEATHER],
        )
        for kind in HOSTED
    ),
    (
        lambda settings: checked_choice({"type": "file_search"}, [WEATHER], settings),
        "file_search",
        "tool_choice.type",
        None,
    ),
    (
        lambda settings: checked_attachments(
            [{"file_id": "f"}, {"file_id": "g", "tools": [{"type": "mcp"}]}], settings
        ),
        "mcp",
        "attachments[1].tools[0].type",
        [{"file_id": "f", "tools": []}, {"file_id": "g", "tools": []}],
    ),
    (
        lambda settings: checked_resources(
            {"code_interpreter": {"file_ids": ["file-1"]}, "file_search": {"vector_store_ids": ["vs_1"]}}, settings
        ),
        "code_interpreter",
        "tool_resources.code_interpreter",
        {"file_search": {"vector_store_ids": ["vs_1"]}},
    ),
]


@pytest.mark.parametrize(("check", "kind", "param", "kept"), CASES)
def test_a_hosted_tool_is_refused_by_name_with_what_to_do(check: Any, kind: str, param: str, kept: Any) -> None:
    with pytest.raises(ApiError) as caught:
        check(REFUSE)
    refusal = caught.value
    assert (refusal.status, refusal.code, refusal.param) == (400, "unsupported_tool", param)
    assert refusal.message == (
        f"The tool '{kind}' is not run by this server: remove it, offer a function in its place, or leave out all such tools "
        'with hosted_tools = "drop" in the table [serve] of threadledger.toml.'
    )


@pytest.mark.parametrize(("check", "kind", "param", "kept"), CASES)
def test_a_hosted_tool_is_left_out_and_named_if_the_settings_say_so(
    check: Any, kind: str, param: str, kept: Any
) -> None:
    assert check(DROP) == (kept, [kind])


@pytest.mark.parametrize("settings", [REFUSE, DROP])
def test_functions_pass_unchanged(settings: ServeSettings) -> None:
    choice = {"type": "function", "function": {"name": "weather"}}
    assert checked_tools([WEATHER, WEATHER], settings) == ([WEATHER, WEATHER], [])
    assert checked_tools(None, settings) == ([], [])
    for chosen in (choice, "auto", "none", "required", None):
        assert checked_choice(chosen, [WEATHER], settings) == (chosen, [])
    assert checked_attachments(None, settings) == ([], [])


@pytest.mark.parametrize("settings", [REFUSE, DROP])
@pytest.mark.parametrize("empty", [None, {}, {"code_interpreter": {"file_ids": []}, "file_search": None}])
def test_resources_that_name_nothing_are_no_use_of_a_tool(settings: ServeSettings, empty: Any) -> None:
    assert checked_resources(empty, settings) == ({}, [])


@pytest.mark.parametrize("settings", [REFUSE, DROP])
def test_a_search_of_files_is_kept_where_the_server_runs_it(settings: ServeSettings) -> None:
    search = {"type": "file_search"}
    assert checked_tools([WEATHER, search], settings, own=SERVER_RUN) == ([WEATHER, search], [])
    assert checked_choice(search, [WEATHER, search], settings) == (search, [])
    given = [{"file_id": "file-1", "tools": [search]}]
    assert checked_attachments(given, settings) == (given, [])


def test_a_choice_that_needs_a_tool_is_left_out_with_the_last_tool() -> None:
    assert checked_choice("required", [], DROP) == (None, [])


def test_a_type_is_named_once_and_counts_as_a_loss() -> None:
    found = checked_tools([{"type": "mcp", "server_label": "a"}, {"type": "mcp"}, {"type": "file_search"}], DROP)
    assert found == ([], ["mcp", "file_search"])
    assert losses_of(found[1]) == {"tool:mcp": 1, "tool:file_search": 1}


@pytest.mark.parametrize(
    ("tools", "param"), [("x", "tools"), (["x"], "tools[0]"), ([{}], "tools[0].type"), ([{"type": 7}], "tools[0].type")]
)
def test_what_is_no_list_of_tools_is_a_400(tools: Any, param: str) -> None:
    with pytest.raises(ApiError) as caught:
        checked_tools(tools, DROP)
    assert (caught.value.status, caught.value.param) == (400, param)
