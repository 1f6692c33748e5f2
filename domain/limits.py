"""Our own limits, each with its unit. The provider's limits stand in `adapters/openai/limits.py`."""

KEY_CHARS_MAX = 200
"""Characters in a conversation's key (CONTRACT: 1 to 200)."""

MESSAGE_BYTES_MAX = 8 * 1024 * 1024
"""Bytes of one message as stored (UTF-8 JSON). OpenAI takes at most 10 MiB of text in one item."""

JSON_LEVELS_MAX = 400
"""Levels of nesting in what is kept as JSON. Python reads about 900, fewer where the reader is deep in calls of its own."""

METADATA_BYTES_MAX = 1024 * 1024
"""Bytes of a conversation's metadata as JSON."""

IDEMPOTENCY_KEY_CHARS_MAX = 500
"""Characters in an idempotency key."""

DECIDE_ATTEMPTS_MAX = 20
"""How often a command is decided again after somebody else appended to the same conversation first."""

RETRIES_DEFAULT = 2
"""Attempts after the first on one backend."""

BACKEND_TIMEOUT_SECONDS = 60.0
"""One attempt's limit."""

EXCHANGE_DEADLINE_SECONDS = 300.0
"""The limit of a whole exchange: all attempts of all backends, and the pauses between them."""

ATTEMPT_SECONDS_MIN = 1.0
"""An attempt with less time than this is not begun: it would only time out. Half of the deadline where that is less."""

RUN_GRACE_SECONDS = 30.0
"""Time after an attempt's limit in which its own process may still record the end; then it counts as crashed."""

BETWEEN_RUNS_SECONDS = 60.0
"""How long an exchange without an open run is left to the process that is at it: the longest pause, and some grace."""

BACKOFF_FIRST_SECONDS = 0.5
BACKOFF_MAX_SECONDS = 8.0
"""Waiting before a retry: doubled at each attempt, with jitter, up to the maximum."""

RETRY_AFTER_MAX_SECONDS = 30.0
"""The longest `Retry-After` that is waited for; a longer one goes to the next backend at once."""

BREAKER_FAILURES = 5
"""Failures in a row after which a backend cools down."""

BREAKER_COOLDOWN_SECONDS = 30.0
BREAKER_COOLDOWN_MAX_SECONDS = 300.0
"""How long it is passed over: doubled at each further failure, up to the maximum."""

BREAKER_RETRY_AFTER_MAX_SECONDS = 3_600.0
"""The longest `Retry-After` that a cooldown follows: a header that is wrong must not shut a backend off for ever."""

HEALTH_ENDS = 20
"""Ends of runs read per backend to tell how it is."""

WAIT_BEFORE_FALLBACK_SECONDS = 10.0
"""The longest pause that is made where another backend is left: somebody is waiting for an answer."""

FAILURE_TEXT_CHARS_MAX = 2_000
"""Characters kept of a provider's error message."""

PARTIAL_TEXT_CHARS_MAX = 256_000
"""Characters kept of an answer that broke off."""

REASON_CHARS_MAX = 500
"""Characters kept of why a backend was given up."""

DETAILS_BYTES_MAX = 8 * 1024
"""Bytes kept of a failure's raw details, as JSON."""

ABANDONED_KEPT = 50
"""How many unanswered exchanges the aggregate remembers; older ones are still in the events."""

ANSWERED_KEPT = 20
"""How many answered exchanges the aggregate remembers, so that none of them is answered again by a late caller."""

TOOL_ROUNDS_MAX = 20
"""How often a model may ask for tools within one run."""

INTERRUPT_LOOK_SECONDS = 1.0
"""How often a run that is under way looks whether a newer question has taken its place."""

LATE_ANSWER_LOOKS_MAX = 30
"""How often a run that was closed by others tries to have its answer journaled while another run is open."""

QUEUE_LOOK_FIRST_SECONDS = 0.05
QUEUE_LOOK_MAX_SECONDS = 0.25
"""How often a question that waits its turn looks whether the conversation is free: doubled up to the maximum."""

DOUBT_SECONDS = 600.0
"""How long a write whose answer never came may still land in a thread: the openai SDK's own default timeout."""

DOUBTS_KEPT_MAX = 32
"""How many unanswered writes to a thread are kept in mind, the last ones."""

DOUBTS_SEARCHED_MAX = 8
"""How many unanswered writes, the last ones, are looked for in a thread by their content: each doubles the ways to try."""

LANDINGS_TRIED_MAX = 500_000
"""How many ways to explain surplus copies are tried, a second or two: a thread of the same few texts may have more."""

JOB_PINS_PER_EVENT = 1_000
"""Items of a job's plan that one event holds."""

JOB_BLOCK_ITEMS_MAX = 20
"""Items that a worker of a job takes, and whose ends it records, at once."""

JOB_CLAIM_SECONDS = 120.0
"""How long a worker holds items without a sign of life; after that, on another machine, it counts as gone."""

JOB_WORKERS_MAX = 64
"""The most workers that one process has at a job."""

ASYNC_WORKERS = 8
"""Threads that do the database's work for an asynchronous ledger, however many exchanges are under way."""

TOOL_WORKERS = 32
"""Threads that call an app's blocking functions for an asynchronous ledger. Functions that are `async` take none."""

RUNS_WATCHED_MAX = 10_000
"""Open runs that are remembered for whoever watches them; the start of an older one is looked up."""

LAGGING_LOOKED_AT_MAX = 1_000
"""Conversations, those that changed last, whose threads `doctor` looks after in the notebook."""
