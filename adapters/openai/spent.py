"""Count the tokens that a run has used, as reported by the provider. A run that fails is also charged."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from threadledger.domain import Failure, ProviderRefused, Usage

USAGE = "usage"
"""Key in a failure's details for the tokens of its run, if the provider reported them."""


class Spent:
    """Count the tokens of one run."""

    def __init__(self) -> None:
        self.usage = Usage()

    def add(self, input_tokens: Any, output_tokens: Any) -> None:
        """Add the tokens of one response; None counts as 0."""
        self.usage = Usage(
            self.usage.input_tokens + (input_tokens or 0), self.usage.output_tokens + (output_tokens or 0)
        )

    @contextmanager
    def told(self) -> Iterator[None]:
        """Add the tokens used so far to a failure raised in this block."""
        try:
            yield
        except ProviderRefused as refused:
            if self.usage == Usage():
                raise
            raise ProviderRefused(self._with_usage(refused.failure)) from refused

    def _with_usage(self, failure: Failure) -> Failure:
        counts = {"input_tokens": self.usage.input_tokens, "output_tokens": self.usage.output_tokens}
        return replace(failure, details=dict(failure.details) | {USAGE: counts})
