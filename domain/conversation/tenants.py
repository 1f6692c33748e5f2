"""Name the conversations of the tenants of the served API.

Only names keep tenants apart: a tenant's conversations have keys that begin with its own prefix, and a caller without a
tenant reaches no key that begins with the prefix of any.
"""

from __future__ import annotations

import re

from ..errors import InvalidInput

TENANT = "tenant:"
"""Prefix of the keys of all tenants' conversations."""

TENANT_NAME = re.compile("[a-z0-9_-]{1,63}")
"""What the name of a tenant looks like: no name is the beginning of another one's prefix."""


def check_tenant(name: object) -> str:
    """Return the name of a tenant.

    Raises:
        InvalidInput: it has other characters than a name may have.
    """
    if not isinstance(name, str) or TENANT_NAME.fullmatch(name) is None:
        raise InvalidInput(
            f"{name!a:.80} is not the name of a tenant: use 1 to 63 of the characters a to z, 0 to 9, _ and -"
        )
    return name


def tenant_key(tenant: str, key: str) -> str:
    """Return the key under which a conversation of a tenant is stored; without a tenant, the key itself."""
    return f"{TENANT}{tenant}/{key}" if tenant else key


def key_in_tenant(tenant: str, key: str) -> str | None:
    """Return the key that `tenant_key` was given; None for a conversation that does not belong to the tenant.

    Without a tenant, None is returned for the conversations of all tenants.
    """
    if not tenant:
        return None if key.startswith(TENANT) else key
    prefix = tenant_key(tenant, "")
    return key[len(prefix) :] if key.startswith(prefix) else None


def tenant_of(key: str) -> str:
    """Return the tenant that a conversation belongs to; empty if it belongs to none."""
    tenant, slash, _ = key.removeprefix(TENANT).partition("/")
    return tenant if key.startswith(TENANT) and slash else ""
