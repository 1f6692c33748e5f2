"""Limits of recording, each with its unit."""

RUN_SECONDS_DEFAULT = 600.0
"""A recorded run's limit where the app's client sets none, or the run may outlast one request: the SDK's own default."""

REMOTE_RUNS_MAX = 1_000
"""Runs at the provider that are watched for their end: an app that never looks at one again must not fill the memory."""

PLACES_MAX = 10_000
"""Responses and threads whose conversation is remembered, so that what follows on them is recorded there."""

THREAD_MESSAGES_MAX = 100
"""Messages asked for of one run in a thread: the most that one page takes."""
