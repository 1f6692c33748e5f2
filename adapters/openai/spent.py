"""What a run has used so far, as the provider counts it: a run that fails in the end has been paid for all the same."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from threadledger.domain import Failure, ProviderRefused, Usage

USAGE = "usage"
"""The key of a failure's details under which its run's tokens stand, where the provider said how many they were."""


class Spent:
    """The tokens of one run."""

    def __init__(self) -> None:
        self.usage = Usage()

    def add(self, input_tokens: Any, output_tokens: Any) -> None:
        """Of one more answer; None for what is not said."""
        self.usage = Usage(
            self.usage.input_tokens + (input_tokens or 0), self.usage.output_tokens + (output_tokens or 0)
        )

    @contextmanager
    def told(self) -> Iterator[None]:
        """A failure that comes up inside says what its run has used."""
        try:
            yield
        except ProviderRefused as refused:
            if self.usage == Usage():
                raise
            raise ProviderRefused(self._with_usage(refused.failure)) from refused

    def _with_usage(self, failure: Failure) -> Failure:
        counts = {"input_tokens": self.usage.input_tokens, "output_tokens": self.usage.output_tokens}
        return replace(failure, details=dict(failure.details) | {USAGE: counts})
