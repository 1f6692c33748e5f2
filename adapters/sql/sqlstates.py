"""Explain PostgreSQL's errors: what happened, whether trying again helps, and what to do.

The codes are those of https://www.postgresql.org/docs/current/errcodes-appendix.html; `errors.py` describes the categories.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_CONFLICT = "other transactions were in its way; try again"
_LOST = "check that the server is running and reachable, then try again"
_FULL = "close other connections, raise max_connections, or put PgBouncer in front of the server; then try again"
_SIGN_IN = "correct the user, password or database name in THREADLEDGER_DB"
_PARAMETER = "correct the parameter of THREADLEDGER_DB that the message names, or the server's setting"
_POOLER = "a pooler seems to be in front of the server: add pgbouncer=true to the query of THREADLEDGER_DB"
_DAMAGE = "run threadledger db check, and restore the database from a backup"
_LOCK = "another process holds a lock for too long; try again, or find it in pg_stat_activity"
_TEXT = "PostgreSQL cannot store this text: remove the characters named in the message"

BY_STATE: Mapping[str, tuple[str, str]] = {
    "08": ("lost", _LOST),
    "08P01": ("lost", _LOST),  # protocol_violation: also what PgBouncer reports when it has lost the server
    "22": ("unusable", _TEXT),
    # read_only_sql_transaction
    "25006": (
        "read-only",
        "this server is a hot standby or set to read-only: write to the primary, or name both servers in the URL with "
        "target_session_attrs=read-write",
    ),
    "25P03": ("lost", "idle_in_transaction_session_timeout ended the connection; raise it, then try again"),
    "25P04": ("lost", "transaction_timeout ended the connection; raise it, then try again"),
    "26000": ("unusable", _POOLER),  # invalid_sql_statement_name: prepared on another connection
    "28": ("unusable", _SIGN_IN),
    "3D000": ("unusable", _SIGN_IN),  # invalid_catalog_name: there is no such database
    "3F000": ("unusable", "create the schema that search_path names, or correct search_path"),  # invalid_schema_name
    "40001": ("repeat", _CONFLICT),  # serialization_failure; on a standby, a conflict with recovery
    "40P01": ("repeat", _CONFLICT),  # deadlock_detected
    "42703": ("damaged", _DAMAGE),  # undefined_column
    "42P01": ("damaged", _DAMAGE),  # undefined_table
    "42501": ("unusable", "grant the database user the right named in the message, then try again"),
    "42P05": ("unusable", _POOLER),  # duplicate_prepared_statement
    "53": ("unusable", "the server has run out of a resource: free some, then try again"),
    "53100": ("unusable", "the server's disk is full: free space on it, then try again"),
    "53200": ("unusable", "the server is out of memory: free some, then try again"),
    "53300": ("full", _FULL),
    "55P03": ("unusable", _LOCK),  # lock_not_available
    # query_canceled. A cancelled statement is rolled back. A cancelled wait for a standby raises no error: the row is stored.
    "57014": (
        "unusable",
        "the server cancelled the statement because of statement_timeout, or an administrator did; raise the timeout, "
        "then try again",
    ),
    "57P01": ("lost", _LOST),  # admin_shutdown, also pg_terminate_backend
    "57P02": ("lost", _LOST),  # crash_shutdown
    "57P03": ("lost", "the server is starting or stopping; try again"),  # cannot_connect_now
    "57P04": ("unusable", "the database was dropped: restore it, or correct THREADLEDGER_DB"),
    "57P05": ("lost", "idle_session_timeout ended the connection; try again"),
    "58": ("unusable", "the server cannot read or write its files: check its log and its disk"),
    "XX001": ("damaged", _DAMAGE),
    "XX002": ("damaged", "run REINDEX, then threadledger db check; restore a backup if it finds something"),
}
"""Category and advice by SQLSTATE, or by its class, the first two characters."""

OTHER = ("unusable", "check the server's log and the permissions of the database user")

BY_TEXT: Sequence[tuple[tuple[str, ...], tuple[str, str]]] = (
    (
        (
            *(
                "invalid connection option",
                "for connection option",
                'value: "',
                "bad value for",
                "definition of service",
            ),
            *("unrecognized configuration parameter", "for parameter", "to set parameter"),
            *("does not support SSL", "certificate", "private key file"),
        ),
        ("unusable", _PARAMETER),
    ),
    (
        (
            *("does not exist", "password authentication failed", "no password supplied", "no pg_hba.conf entry"),
            *("no such database", "no such user", "not permitted to log in", "permission denied for database"),
        ),
        ("unusable", _SIGN_IN),
    ),
    (
        ("unsupported startup parameter",),
        (
            "unusable",
            "PgBouncer refuses a parameter of the URL: remove it, or name it in PgBouncer's ignore_startup_parameters; "
            "set a search_path with ALTER ROLE instead",
        ),
    ),
    (
        (
            *("too many clients", "too many connections", "connection slots are reserved"),
            "no more connections allowed",  # PgBouncer's max_client_conn
        ),
        ("full", _FULL),
    ),
    (
        ("session is read-only", "server is in hot standby mode", "not accepting connections in hot standby"),
        ("lost", "no server of the URL accepts writes yet: promote one, then try again"),
    ),
    (
        (
            *("Connection refused", "No such file or directory", "resolve host", "translate host name"),
            *("timeout expired", "timed out", "No route to host", "Network is unreachable"),
        ),
        ("absent", _LOST),
    ),
)
"""Category and advice by the text of a failed connection, in order: libpq passes on no SQLSTATE.

A server whose messages are not in English answers with a text that is not listed here, which counts as `lost`.
"""

_MOST_TELLING = ("unusable", "full", "lost", "absent")
"""Order in which the failures of several hosts count."""


def explained(state: str) -> tuple[str, str]:
    """Return category and advice for a SQLSTATE."""
    return BY_STATE.get(state) or BY_STATE.get(state[:2]) or OTHER


def connection_refusal(message: str, otherwise: tuple[str, str] = ("lost", _LOST)) -> tuple[str, str]:
    """Return category and advice for a failed or broken connection; psycopg lists one failure for each host.

    `otherwise` is returned for a text that is not listed.
    """
    failures = [_refusal(each, otherwise) for each in message.split("\n- host: ")[1:] or [message]]
    return min(failures, key=lambda failure: _MOST_TELLING.index(failure[0]))


def _refusal(message: str, otherwise: tuple[str, str]) -> tuple[str, str]:
    found = (explanation for texts, explanation in BY_TEXT if any(text in message for text in texts))
    return next(found, otherwise)
