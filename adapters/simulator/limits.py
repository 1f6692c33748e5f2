"""Define the simulator's own limits, all chosen by us; the provider's limits are in `wire/limits.py`."""

from __future__ import annotations

POLL_AFTER_DEFAULT_MS = 5  # the real provider suggests about one second
REQUESTS_KEPT = 100_000  # recorded requests; older ones are dropped, their counts are kept
COMPLETIONS_KEPT = 1_000  # chat completions; older ones are deleted
AUDIO_SECONDS = 3_600  # until the sound of an answer expires
FILE_PIECE_BYTES = 1_048_576  # of a download, sent at once
START_TIMEOUT_SECONDS = 10.0
