"""Define the limits of recording."""

RUN_SECONDS_DEFAULT = 600.0
"""Timeout of a recorded run in seconds, if the app's client sets none or the run may outlast one request: the SDK's default."""

REMOTE_RUNS_MAX = 1_000
"""Maximum number of provider runs whose end is awaited; limits memory use if an app never polls its runs again."""

PLACES_MAX = 10_000
"""Maximum number of responses and threads whose conversation is remembered for later requests that refer to them."""

THREAD_MESSAGES_MAX = 100
"""Number of messages requested for one run of a thread: the maximum page size."""
