"""What two messages of one cause have in common: a provider's message without what is different each time.

Ids, numbers, paths, addresses, times and quoted names give way to placeholders. What comes of it is part of a group's id, and
so is the number of the rule: another rule makes other groups, and never moves a failure from one group to another silently.
"""

import hashlib
import json
import re
from functools import lru_cache

RULE_VERSION = 1
"""Number of this rule. Raised with every change of it, however small: see `group_id`."""

GROUP_ID_CHARS = 10
"""Characters of a group's id."""

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
    """The message with placeholders for what changes from one failure to the next, in one line. Idempotent."""
    before, text = "", " ".join(message.split())
    while text != before:  # a placeholder may be what was in the way of the next one; each turn leaves less to replace
        before, text = text, _CHANGING.sub(_placeholder, text)
    return text


@lru_cache(maxsize=1_024)
def group_id(cause: str, backend: str, message: str) -> str:
    """The id of the failures of one cause on one backend whose normalised message is this, under this rule."""
    named = json.dumps([RULE_VERSION, cause, backend, message], separators=(",", ":"))
    return hashlib.sha256(named.encode()).hexdigest()[:GROUP_ID_CHARS]


def _placeholder(match: re.Match[str]) -> str:
    return match[0] if match.lastgroup == "kept" else f"<{match.lastgroup}>"
