"""Every served route refuses in the provider's envelope, in the words of all routes: they are taken from the table of routes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from threadledger.adapters.server.handlers import HANDLERS
from threadledger.adapters.server.limits import ServerLimits
from threadledger.adapters.wire import Route

from .route_requests import SERVED, templates
from .speaking import Answered, say

Serve = Callable[..., Any]

POSTS = [route for route in SERVED if route.method == "POST"]
WITH_IDS = [route for route in SERVED if "{" in route.template and route.api != "models"]
UNKNOWN = "unknown_0123"


def fail(*_given: Any) -> Any:
    raise KeyError("planted")


FAILING = dict.fromkeys(HANDLERS, fail)


def path_of(route: Route) -> str:
    """Return the path of a route with ids that nothing has."""
    return "/v1" + re.sub(r"\{\w+\}", UNKNOWN, route.template)


def sent(server: Any, route: Route) -> Answered:
    """Send a valid request of a route, but for its ids, which nothing has, and return the answer."""
    request = next(templates(route)).filled(lambda _place, _kind: UNKNOWN)
    return say(server, route.method, request.path, request.raw, content_type=request.kind, **request.headers)


def test_another_method_is_405_with_those_of_the_path(serve: Serve) -> None:
    server = serve(FAILING)
    methods: dict[str, set[str]] = {}
    for route in SERVED:
        methods.setdefault(path_of(route), set()).add(route.method)
    for path, of_path in methods.items():
        refused = say(server, "PATCH", path)
        assert (refused.status, refused.error["code"]) == (405, "method_not_supported"), path
        allowed = refused.headers["allow"].split(", ")
        assert of_path <= set(allowed), path
        assert refused.error["message"] == f"Not allowed to PATCH on {path}: use {' or '.join(allowed)}."


def test_a_body_of_another_type_is_415(serve: Serve) -> None:
    server = serve(FAILING)
    for route in POSTS:
        refused = say(server, "POST", path_of(route), b"text", Content_Type="text/plain")
        assert (refused.status, refused.error["code"]) == (415, "unsupported_content_type"), route.name


@pytest.mark.parametrize("route", POSTS, ids=lambda route: str(route.operation))
def test_a_body_above_the_limit_is_413(serve: Serve, route: Route) -> None:
    server = serve(FAILING, limits=ServerLimits(body_bytes=1_000))
    refused = say(server, "POST", path_of(route), b" " * 1_001)
    assert (refused.status, refused.error["type"]) == (413, "invalid_request_error")
    assert refused.error["message"].startswith("Maximum content size")


def test_an_unexpected_error_is_500_and_its_text_is_not_shown(serve: Serve) -> None:
    server = serve(FAILING)
    for route in SERVED:
        refused = sent(server, route)
        assert (refused.status, refused.error["type"]) == (500, "server_error"), route.name
        assert refused.headers["x-request-id"] in refused.error["message"], route.name
        assert "planted" not in refused.raw.decode(), route.name


def test_an_id_that_nothing_has_is_404_and_named(server: Any) -> None:
    for route in WITH_IDS:
        refused = sent(server, route)
        assert (refused.status, refused.error["type"]) == (404, "invalid_request_error"), route.name
        assert UNKNOWN in refused.error["message"], route.name
