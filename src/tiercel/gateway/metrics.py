"""What Prometheus reads from /metrics; several worker processes are added up.

Labels are bounded: workloads and providers of the configuration, tiers, statuses; never a key, a user or a model that a
client named.
"""

from __future__ import annotations

import os
import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from tiercel.gateway.exchange import Exchange
from tiercel.providers.failures import Attempt

__all__ = ["MULTIPROCESS", "Metrics"]

MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable that names the folder through which worker processes are added up."""
_READINGS, _BETWEEN_READINGS_S = 25, 0.02
M = TypeVar("M", Counter, Histogram)

_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """The gateway's counters."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._children: dict[tuple[Any, ...], Any] = {}
        self._due: dict[tuple[Any, ...], float] = {}
        on = self.registry
        named = ["api", "tier", "workload", "status"]
        self.requests = Counter("tiercel_requests", "Requests that were answered", named, registry=on)
        self.seconds = Histogram(
            "tiercel_request_seconds", "From a request to its last byte", ["tier"], buckets=_BUCKETS, registry=on
        )
        self.first_byte = Histogram(
            "tiercel_first_byte_seconds", "From a request to its first byte", ["tier"], buckets=_BUCKETS, registry=on
        )
        self.tokens = Counter("tiercel_tokens", "Tokens, by kind", ["tier", "workload", "kind"], registry=on)
        self.cost = Counter("tiercel_cost_usd", "What answers cost", ["tier", "workload"], registry=on)
        self.saved = Counter("tiercel_saved_usd", "What the frontier would have cost more", ["workload"], registry=on)
        self.attempts = Counter("tiercel_upstream_attempts", "Calls of providers", ["provider", "outcome"], registry=on)
        self.audits = Counter("tiercel_audits", "Audits of accepted answers", ["workload", "outcome"], registry=on)
        self.sent_back = Gauge(
            "tiercel_sent_back",
            "1 where a broken bound has sent a workload back",
            ["workload"],
            multiprocess_mode="livemax",
            registry=on,
        )
        self.dropped = Counter("tiercel_capture_dropped", "Traces that were not stored", registry=on)
        self.written = Counter("tiercel_capture_written", "Traces that were stored", registry=on)
        self.in_flight = Gauge("tiercel_in_flight", "Requests under way", multiprocess_mode="livesum", registry=on)

    def count(self, exchange: Exchange) -> None:
        """Count what became of a request; shown once `flush` was called, in the same thread."""
        tier, workload = exchange.tier, exchange.workload.name if exchange.workload else ""
        self._add(1, self.requests, exchange.api, tier, workload, str(exchange.status))
        self._of(self.seconds, tier).observe(exchange.latency_s)
        if exchange.first_byte_s is not None:
            self._of(self.first_byte, tier).observe(exchange.first_byte_s)
        if exchange.usage is not None:
            usage = exchange.usage
            for kind, number in (
                ("input", usage.input_tokens),
                ("cached_input", usage.cached_input_tokens),
                ("output", usage.output_tokens),
                ("reasoning", usage.reasoning_tokens),
            ):
                if number > 0:
                    self._add(number, self.tokens, tier, workload, kind)
        cost, frontier = exchange.cost_usd, exchange.frontier_cost_usd
        if cost:
            self._add(cost, self.cost, tier, workload)
        if cost is not None and frontier is not None and frontier > cost:
            self._add(frontier - cost, self.saved, workload)

    def _of(self, metric: M, *labels: str) -> M:
        """The child of a metric; the library would check and lock each time."""
        key = (id(metric), *labels)
        child: Any = self._children.get(key)
        if child is None:
            child = self._children[key] = metric.labels(*labels)
        return child

    def _add(self, number: float, metric: Counter, *labels: str) -> None:
        key = (metric, *labels)
        self._due[key] = self._due.get(key, 0.0) + number

    def flush(self) -> None:
        """Show what was counted: the library's counters are dear, and a batch of requests touches the same few."""
        for (metric, *labels), number in self._due.items():
            self._of(metric, *labels).inc(number)
        self._due.clear()

    def attempt(self, attempt: Attempt) -> None:
        """Count a call of a provider."""
        self._of(self.attempts, attempt.provider, attempt.outcome).inc()

    def page(self) -> bytes:
        """The metrics of all workers in Prometheus' text form."""
        if os.environ.get(MULTIPROCESS):
            from prometheus_client.multiprocess import MultiProcessCollector

            together = CollectorRegistry()
            MultiProcessCollector(together)
            for _ in range(_READINGS):
                with suppress(struct.error, ValueError):  # a worker that starts has made a file and not filled it yet
                    return generate_latest(together)
                time.sleep(_BETWEEN_READINGS_S)
            return generate_latest(together)
        return generate_latest(self.registry)


def forget_worker(pid: int) -> None:
    """Take the gauges of a worker that ended out of the sum."""
    from prometheus_client.multiprocess import mark_process_dead

    if Path(os.environ[MULTIPROCESS]).is_dir():
        mark_process_dead(pid)
