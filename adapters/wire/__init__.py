"""Speak OpenAI's wire protocol: routes, addresses, request bodies, objects, errors, pages and streams.

The package is stateless and does not depend on a store or on the simulator. The simulator and a server share it; each
binds its own handlers to the operations of the route table. The modules are public too.
"""

from typing import TYPE_CHECKING

from threadledger.domain.faces import lazy_face

if TYPE_CHECKING:
    from .addresses import Address, address_of
    from .errors import ApiError
    from .events import Event
    from .requests import IncomingRequest, Reply, RouteCall, json_body, reply_headers, require_beta, require_key
    from .routes import APIS, CHAT, RESPONSE, RUN, Route, Router, route_named
    from .sse import EventStream
    from .validation import Json

__all__ = [
    "APIS",
    "CHAT",
    "RESPONSE",
    "RUN",
    "Address",
    "ApiError",
    "Event",
    "EventStream",
    "IncomingRequest",
    "Json",
    "Reply",
    "Route",
    "RouteCall",
    "Router",
    "address_of",
    "json_body",
    "reply_headers",
    "require_beta",
    "require_key",
    "route_named",
]

if not TYPE_CHECKING:
    __getattr__ = lazy_face(
        __name__,
        {
            "addresses": "Address address_of",
            "errors": "ApiError",
            "events": "Event",
            "requests": "IncomingRequest Reply RouteCall json_body reply_headers require_beta require_key",
            "routes": "APIS CHAT RESPONSE RUN Route Router route_named",
            "sse": "EventStream",
            "validation": "Json",
        },
    )
