"""Read the headers that show by which name a server is addressed, and whether a web page sent the request."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit


def host_name(host: str) -> str:
    """Return the name or address of a Host header in lower case, without its port; "" if it is not valid."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def host_port(host: str) -> int | None:
    """Return the port of a Host header, or None if it has none, or no valid one."""
    try:
        return urlsplit(f"//{host}").port
    except ValueError:
        return None


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
