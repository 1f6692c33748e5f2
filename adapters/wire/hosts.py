"""Read the headers that show by which name a server is addressed, and whether a web page sent the request."""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address

HOST = re.compile(
    r"(?:(?P<name>[a-z0-9._-]+)|\[(?P<ip6>[0-9a-f:]*:[0-9a-f:.]*)\])(?::(?P<port>[0-9]{1,5}))?",
    re.ASCII | re.IGNORECASE,
)
"""A Host header: a name or an address, and a port. It has no user, which `//user@name` of a URL may have."""

PORT_MAX = 65_535


def host_name(host: str) -> str:
    """Return the name or address of a Host header in lower case, without its port; "" if it is not valid."""
    name, _ = _parts_of(host)
    return name


def host_port(host: str) -> int | None:
    """Return the port of a Host header, or None if it has none, or no valid one."""
    _, port = _parts_of(host)
    return port


def _parts_of(host: str) -> tuple[str, int | None]:
    found = HOST.fullmatch(host)
    if found is None:
        return "", None
    port = int(found["port"]) if found["port"] else None
    if port is not None and port > PORT_MAX:
        return "", None
    return (found["name"] or found["ip6"]).lower(), port


def ip_of(name: str) -> IPv4Address | IPv6Address | None:
    """Return the address that a host name is, or None if it is a name."""
    try:
        return ip_address(name)
    except ValueError:
        return None


def is_loopback(name: str) -> bool:
    """Return whether a name or address always means this machine."""
    address = ip_of(name)
    return name.lower() == "localhost" if address is None else address.is_loopback


def is_cross_site(headers: Mapping[str, str]) -> bool:
    """Return whether a browser says that a page of another origin sent the request."""
    return headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
