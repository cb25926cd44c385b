"""What can be seen of a running server: Prometheus metrics, and one JSON line a request.

Neither holds inputs or outputs.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable
from typing import IO, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from prompt_jax.serve.engine import Engine

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """Of one server, in a registry of their own."""

    def __init__(self, engine: Engine):
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "prompt_jax_requests", "Answered requests.", ["route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "prompt_jax_request_seconds",
            "From the request to the end of its answer.",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self.first_token = Histogram(
            "prompt_jax_first_token_seconds",
            "From the request to its first token.",
            buckets=SECONDS,
            registry=registry,
        )
        self.open = Gauge("prompt_jax_open_requests", "Being answered.", registry=registry)
        registry.register(_OfEngine(engine))


class _OfEngine:
    """What is read from an engine when metrics are asked for."""

    def __init__(self, engine: Engine):
        self.engine = engine

    def collect(self) -> Iterable[Metric]:
        worker, table = self.engine.worker, self.engine.table
        about = "Tokens written."
        yield CounterMetricFamily("prompt_jax_generated_tokens", about, value=worker.tokens)
        slots = 0 if worker.shape is None else worker.shape.slots
        size = sum(entry.facts["bytes"] for entry in table.values())
        gauges = {
            "waiting_inputs": ("Inputs in the queue.", len(worker.waiting)),
            "busy_slots": ("Inputs being decoded.", len(worker.live)),
            "slots": ("Inputs that may be decoded at a time.", slots),
            "prompts": ("Prompts loaded.", len(table)),
            "prompt_bytes": ("Their arrays.", size),
        }
        for name, (about, value) in gauges.items():
            yield GaugeMetricFamily(f"prompt_jax_{name}", about, value=value)


class Log:
    """JSON lines, by default on standard error."""

    def __init__(self, file: IO[str] | None = None, now: Callable[[], float] = time.time):
        self.file, self.now = file, now

    def __call__(self, event: str, level: str = "info", **facts: Any) -> None:
        line = {"time": round(self.now(), 3), "level": level, "event": event, **facts}
        print(json.dumps(line), file=self.file or sys.stderr, flush=True)
