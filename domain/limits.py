"""Define our own limits, each with its unit. The provider's limits are in `adapters/openai/limits.py`."""

from __future__ import annotations

KEY_CHARS_MAX = 200
"""Maximum length of a conversation's key, in characters; the minimum is 1."""

MESSAGE_BYTES_MAX = 8 * 1024 * 1024
"""Maximum size of a stored message, in bytes of UTF-8 JSON. OpenAI accepts at most 10 MiB of text in one item."""

JSON_LEVELS_MAX = 400
"""Maximum nesting of stored JSON, in levels. Python reads about 900, or fewer if the call stack is deep already."""

METADATA_BYTES_MAX = 1024 * 1024
"""Maximum size of a conversation's metadata as JSON, in bytes."""

COMPACT_KEEP_LAST = 10
"""Number of newest messages that a summary does not cover."""

BUDGET_OUTPUT_TOKENS = 4_096
"""Number of output tokens for which a budget reserves the cost of a run that sets no limit itself."""

PINS_MAX = 50
"""Maximum number of pinned messages of a conversation: each is shown to the model in every window."""

TITLE_CHARS_MAX = 500
OWNER_CHARS_MAX = 200
TAG_CHARS_MAX = 100
"""Maximum lengths of a conversation's title, of the id of its owner, and of a tag, in characters."""

TAGS_MAX = 50
"""Maximum number of tags of a conversation."""

DESCRIPTION_METADATA_BYTES_MAX = 16 * 1024
"""Maximum size of the metadata that describes a conversation, as JSON in bytes. An import may start it with more."""

IDEMPOTENCY_KEY_CHARS_MAX = 500
"""Maximum length of an idempotency key, in characters."""

DECIDE_ATTEMPTS_MAX = 20
"""Maximum attempts of a command while other writers append to the same conversation first."""

RETRIES_DEFAULT = 2
"""Number of attempts on one backend after the first."""

BACKEND_TIMEOUT_SECONDS = 60.0
"""Time limit of one attempt, in seconds."""

EXCHANGE_DEADLINE_SECONDS = 300.0
"""Time limit of a whole exchange, in seconds: all attempts of all backends, and the pauses between them."""

ATTEMPT_SECONDS_MIN = 1.0
"""Minimum time for an attempt, in seconds; with less, it is not started. Half of the deadline, if that is less."""

OWN_RUN_SECONDS_MAX = 86_400.0
"""Maximum time that an app may allow for one run of its own, in seconds: a day."""

RUN_GRACE_SECONDS = 30.0
"""Time after an attempt's limit, in seconds, in which its process may record the end; then it counts as crashed."""

BETWEEN_RUNS_SECONDS = 60.0
"""How long an exchange without an open run is reserved for its process, in seconds: the longest pause plus a margin."""

BACKOFF_FIRST_SECONDS = 0.5
BACKOFF_MAX_SECONDS = 8.0
"""Pause before a retry, in seconds: doubled at each attempt, with jitter, up to the maximum."""

RETRY_AFTER_MAX_SECONDS = 30.0
"""Longest `Retry-After` that is waited for, in seconds; a longer one causes a fallback at once."""

TURN_SECONDS_MAX = 15.0
"""Longest time that a request waits for its turn in a limit that all processes share, in seconds: the wait belongs to the time of
its run, which may be that much longer than its own limit without being taken for crashed (`RUN_GRACE_SECONDS`)."""

BREAKER_FAILURES = 5
"""Number of failures in a row after which a backend cools down."""

BREAKER_COOLDOWN_SECONDS = 30.0
BREAKER_COOLDOWN_MAX_SECONDS = 300.0
"""Duration of a cooldown, in seconds: doubled at each further failure, up to the maximum."""

BREAKER_RETRY_AFTER_MAX_SECONDS = 3_600.0
"""Longest `Retry-After` that a cooldown follows, in seconds: a wrong header must not disable a backend forever."""

SHARED_HEALTH_SECONDS = 1.0
"""How long the cooldowns that other processes have found are remembered, in seconds."""

HEALTH_ENDS = 20
"""Number of ended runs that are read per backend to determine its health."""

WAIT_BEFORE_FALLBACK_SECONDS = 10.0
"""Longest pause before a retry if another backend is left, in seconds: the caller is waiting for an answer."""

RUN_ENDING_CHARS_MIN = 6
"""Minimum length, in characters, of the end of an id that identifies a run or a job."""

SECRET_CHARS_MIN = 8
"""Minimum length of a secret that is matched by its value, in characters; a shorter one would match ordinary words."""

FAILURE_TEXT_CHARS_MAX = 2_000
"""Maximum stored length of a provider's error message, in characters."""

BODY_CHARS_MAX = 2_000
"""Maximum stored length of a provider's response body in a failure, in characters."""

PARTIAL_TEXT_CHARS_MAX = 256_000
"""Maximum stored length of an incomplete answer, in characters."""

RERUN_RUNS_PER_DAY = 100
"""Maximum number of runs that workers start on a day (UTC) to answer what failed, unless a setting says otherwise."""

REASON_CHARS_MAX = 500
"""Maximum stored length of the reason for giving up a backend, in characters."""

BODY_CHARS_MAX = 2_000
"""Maximum stored length of the raw body of a provider's error response, in characters."""

DETAILS_BYTES_MAX = 8 * 1024
"""Maximum stored size of a failure's raw details as JSON, in bytes."""

ABANDONED_KEPT = 50
"""Number of unanswered exchanges in the aggregate's state; older ones are still in the events."""

ANSWERED_KEPT = 20
"""Number of answered exchanges in the aggregate's state, so that a late caller cannot answer one of them again."""

INLINE_BYTES_MAX = 20 * 1024 * 1024
"""Maximum size of the data inside one request, in bytes of base64; OpenAI takes images of up to 20 MB there. More is refused
before the call."""

UPLOAD_BYTES_MIN = 4 * 1024 * 1024
"""Size of an attachment, in bytes, above which it is uploaded once instead of being sent inside each request."""

IMAGE_LOW_TOKENS = 85
IMAGE_TOKENS = 765
"""Tokens of an image in a budget: with the detail `low`, and otherwise: 85 and 170 for each of the four tiles of 512 pixels
of a square image. Source: OpenAI's guide "Images and vision", the section on calculating costs (GPT-4o); November 2026.
The largest images have 1,445; the size in pixels is not known here."""

IMAGE_BYTES_PER_TOKEN = 400
"""Bytes of an image inside a message that count as at least one token in a budget, so that none is free because of its
detail: a JPEG of one megapixel has about 300 kB and 765 tokens. Our own guess."""

FILE_TOKENS_GUESSED = 1_000
"""Tokens of a file in a budget of which only the id is known: about two pages. Our own guess."""

FILE_BYTES_PER_TOKEN = 4
AUDIO_BYTES_PER_TOKEN = 1_600
"""Bytes of a file, and of a recording, that count as one token in a budget. Text has about four bytes a token; OpenAI
counts one token for each 100 ms of spoken input, which are 1,600 bytes of MP3 at 128 kbit/s."""

TOOL_ROUNDS_MAX = 20
"""Maximum number of times that a model may call tools within one run."""

INTERRUPT_LOOK_SECONDS = 1.0
"""Interval at which a run in progress checks whether a newer question has replaced it, in seconds."""

LATE_ANSWER_LOOKS_MAX = 30
"""Maximum attempts to journal the answer of a run that was closed by another process, while another run is open."""

QUEUE_LOOK_FIRST_SECONDS = 0.05
QUEUE_LOOK_MAX_SECONDS = 0.25
"""Interval at which a queued question checks for a free conversation, in seconds: doubled up to the maximum."""

DOUBT_SECONDS = 600.0
"""How long an unconfirmed write may still arrive in a thread, in seconds: the openai SDK's own default timeout."""

DOUBTS_KEPT_MAX = 32
"""Maximum number of unconfirmed writes to a thread that are remembered, the newest ones."""

DOUBTS_SEARCHED_MAX = 8
"""Maximum number of unconfirmed writes, the newest ones, whose content is searched in a thread: each doubles the
search."""

LANDINGS_TRIED_MAX = 500_000
"""Maximum number of explanations tried for surplus copies (one or two seconds): repeated texts may have more."""

ORPHAN_SECONDS_MIN = 600.0
"""Minimum age of a created thread without a link, in seconds, before it counts as left by a crash: longer than a request."""

UNFINISHED_SECONDS_MIN = 86_400.0
"""The same for the thread of a rebuild that was stopped: for a day, the next rebuild or `replay resume` continues it."""

JOB_PINS_PER_EVENT = 1_000
"""Number of items of a job's plan in one event."""

JOB_BLOCK_ITEMS_MAX = 20
"""Maximum number of items that a job's worker claims, and whose results it records, at once."""

CLAIM_SECONDS = 15.0
"""How long a claim on a thread, an item of a job or an exchange lasts on a server unless it is extended, in seconds: then an
owner on another machine counts as gone. On the same machine, the claim of a process that has ended is over at once."""

CLAIM_RENEWAL_SECONDS = 4.0
"""Interval at which a process extends its claims on a server in the background, in seconds: two attempts may fail."""

FILE_CLAIM_SECONDS, FILE_CLAIM_RENEWAL_SECONDS = 60.0, 15.0
"""The same in a SQLite file: all its processes are on one machine, and an extension may wait `LOCK_TIMEOUT_SECONDS` for them."""

CLAIM_STEP_SECONDS_MAX = 600.0
"""How long claims are extended during one step of their owner, in seconds: the openai SDK's own default timeout. An
owner that makes no step for longer counts as hung."""

WORK_RETRY_FIRST_SECONDS = 2.0
WORK_RETRY_MAX_SECONDS = 300.0
"""Pause before a worker tries a failed item again, in seconds: doubled at each further failure, up to the maximum."""

WORK_ATTEMPTS_MAX = 10
"""Number of failures in a row after which a worker parks an item: about half an hour with the pauses between them."""

WORKERS_GONE_SECONDS = 86_400.0
"""How long a worker that ended without leaving is shown, in seconds."""

JOB_LOOK_SECONDS = 0.5
"""Interval at which a worker that has nothing left to claim looks for items that another one has left, in seconds."""

JOB_WORKERS_MAX = 64
"""Maximum number of workers of one process for a job."""

ASYNC_WORKERS = 8
"""Number of threads that do the database work of an asynchronous ledger, however many exchanges are in progress."""

TOOL_WORKERS = 32
"""Number of threads that call an app's blocking functions for an asynchronous ledger. `async` functions use none."""

RUNS_WATCHED_MAX = 10_000
"""Maximum number of open runs that are remembered for observers; the start of an older run is read again."""

UNANSWERED_CHECKED_MAX = 1_000
"""Number of newest failed runs without an answer whose conversations `doctor` looks at."""

LAGGING_CHECKED_MAX = 1_000
"""Number of most recently changed conversations whose threads `doctor` checks, by their stored state."""
LAGGING_LOOKED_AT_MAX = LAGGING_CHECKED_MAX
"""The same, by its name in earlier versions."""

SETTINGS_FILE_BYTES_MAX = 16 * 1024 * 1024
"""Maximum size of `.env`, `threadledger.toml`, a profile or a module of tools."""
