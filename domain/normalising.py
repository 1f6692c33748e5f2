"""Normalise a provider's messages: replace whatever changes from one failure to the next.

Placeholders replace ids, numbers, paths, addresses, times and quoted names. The result and the rule version are part of
a group's id: a new rule version creates new groups and never silently moves a failure from one group to another.
"""

import hashlib
import json
import re
from functools import lru_cache

RULE_VERSION = 1
"""Version of this rule. Increment it with every change, however small: see `group_id`."""

GROUP_ID_CHARS = 10
"""Length of a group's id, in characters."""

_CHANGING = re.compile(
    r"""
      (?P<kept><(?:address|id|n|name|path|time)>)
    | (?P<name>"[^"]*" | `[^`]*` | “[^”]*” | ‘[^’]*’ | «[^»]*» | (?<!\w)'[^']+'(?!\w))
    | (?<!\w)(?:  # all others begin where a word may begin: in the middle of one nothing is tried
      (?P<address>
          [A-Za-z][A-Za-z0-9+.-]*://[^\s'"<>`]*[^\s'"<>`.,;:!?)\]]          # https://…
        | [A-Za-z0-9][\w.+-]*@[\w-]+(?:\.[\w-]+)+                            # mail
        | \d{1,3}(?:\.\d{1,3}){3}(?::\d+)?(?![\w.]*\d)                      # IPv4
        | (?<!:)(?:[0-9A-Fa-f]{0,4}:){3,7}[0-9A-Fa-f]{1,4}(?![\w:])           # IPv6
      )
    | (?P<time>
          \d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:\s?(?:Z|UTC|[+-]\d\d:?\d\d))?)?(?!\w)
        | \d{1,2}:\d\d(?::\d\d(?:[.,]\d+)?)?(?!\w)
        | (?:\d+(?:\.\d+)?(?:ms|us|µs|s|m|h|d)){1,4}(?!\w)                   # 20ms, 6m0s
      )
    | (?P<path>
          (?<!/)(?:~|\.{1,2})?(?:/\.?[\w@%+~-]+(?:\.[\w@%+~-]+)*)+/?          # /srv/app/main.py
        | [A-Za-z]:\\(?:[^\s'"<>|*?]*[\w)])?                                 # C:\app\main.py
        | (?<!/)[\w-]+/(?:[\w.-]+/)*[\w-]+\.[A-Za-z]\w{0,4}(?!\w)            # app/main.py
      )
    | (?P<id>
          [0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}(?!\w)
        | 0[xX][0-9A-Fa-f]+(?!\w)
        | (?<!-)[A-Za-z]{2,16}[_-](?=[A-Za-z]*\d|[A-Za-z]*[a-z][A-Z])[A-Za-z0-9]{8,}(?!\w)    # thread_…, org-…
        | (?=[A-Fa-f]*\d)(?=\d*[A-Fa-f])[0-9A-Fa-f]{8,}(?!\w)
        | (?<!-)(?=[\w-]{20})(?=[A-Za-z_-]*\d)(?=[\d_-]*[A-Za-z])[A-Za-z0-9_-]{20,}(?![\w-])
      )
    | (?P<n>[-+]?\d+(?:[.,_]\d+)*(?:[eE][-+]?\d+)?(?:[kKMGT]?i?[bB]|[kKMGT])?(?!\w))
    )
    """,
    re.VERBOSE,
)


@lru_cache(maxsize=1_024)
def normalised(message: str) -> str:
    """Return the message in one line, with placeholders for what changes from one failure to the next. Idempotent."""
    before, text = "", " ".join(message.split())
    while text != before:  # one replacement can enable another; each pass leaves less to replace
        before, text = text, _CHANGING.sub(_placeholder, text)
    return text


@lru_cache(maxsize=1_024)
def group_id(cause: str, backend: str, message: str) -> str:
    """Return the id of the group with this cause, backend and normalised message, under this rule version."""
    named = json.dumps([RULE_VERSION, cause, backend, message], separators=(",", ":"))
    return hashlib.sha256(named.encode()).hexdigest()[:GROUP_ID_CHARS]


def _placeholder(match: re.Match[str]) -> str:
    return match[0] if match.lastgroup == "kept" else f"<{match.lastgroup}>"
