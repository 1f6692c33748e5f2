"""Report the metrics of a worker to OpenTelemetry too (extra `otel`); without an SDK in the process, nothing happens."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from opentelemetry import metrics as otel
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

from threadledger.domain.errors import StoreError

from .status import Metric


def report(metrics: Callable[[], Iterable[Metric]], provider: MeterProvider | None = None) -> None:
    """Create an instrument for each of these metrics, which reads them when they are collected."""
    meter = otel.get_meter("threadledger", meter_provider=provider)
    for metric in metrics():
        create = meter.create_observable_counter if metric.kind == "counter" else meter.create_observable_gauge
        create(metric.name, [partial(_observed, metrics, metric.name)], description=metric.help)


def _observed(metrics: Callable[[], Iterable[Metric]], name: str, _options: CallbackOptions) -> Iterable[Observation]:
    try:
        found = next(metric for metric in metrics() if metric.name == name)
    except StoreError:  # the database is away: nothing is known now
        return []
    return [Observation(value, dict(labels)) for labels, value in found.values.items()]
