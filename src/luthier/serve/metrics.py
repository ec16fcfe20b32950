"""Counts and times of a server, in Prometheus' text format."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper ends, in seconds."""
COUNTERS = {
    "requests": "Requests by endpoint and status",
    "prompt_tokens": "Tokens of prompts that were taken on",
    "cached_tokens": "Tokens of prompts that had been read before (hits)",
    "generated_tokens": "Tokens drawn",
    "cancelled": "Requests that ended before their answer did, by reason",
    "engine_faults": "Steps of the engine that failed",
    "adapter_loads": "Adapters loaded into memory",
    "adapter_evictions": "Adapters that made room for another one",
}
TIMES = {
    "time_to_first_token_seconds": "From the request to its first token",
    "inter_token_seconds": "Between two tokens of an answer",
    "step_seconds": "One step of the engine",
}
GAUGES = {
    "queue_requests": "Requests that have not begun to be answered",
    "queue_tokens": "Their tokens",
    "running": "Answers under way",
    "waiting": "Answers that wait for their turn in the engine",
    "kv_pages_held": "Pages of keys and values that answers hold",
    "kv_pages_made": "Pages that have memory",
    "kv_bytes": "Their memory",
    "kv_evicted": "Pages whose content was forgotten because their place was needed, since the start",
    "kv_preempted": "Answers that were put back because pages had run short, since the start",
    "tokens_read": "Tokens that went through the model, since the start",
    "adapters_loaded": "Adapters that the engine knows",
    "adapters_in_use": "Adapters of the shared pool that answers under way need",
    "adapter_bytes": "What the shared pool of adapters takes in memory",
    "last_step_age_seconds": "Since the last step of the engine",
}
Labels = tuple[tuple[str, str], ...]


class Metrics:
    """May be written to from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, dict[Labels, float]] = {name: defaultdict(float) for name in COUNTERS}
        self._times: dict[str, list[int]] = {name: [0] * (len(BUCKETS) + 1) for name in TIMES}
        self._sums = dict.fromkeys(TIMES, 0.0)

    def count(self, name: str, by: float = 1, **labels: str) -> None:
        """One more, or several."""
        with self._lock:
            self._counts[name][tuple(sorted(labels.items()))] += by

    def took(self, name: str, seconds: float) -> None:
        """A time was measured."""
        with self._lock:
            self._times[name][bisect_left(BUCKETS, seconds)] += 1
            self._sums[name] += seconds

    def counted(self, name: str, **labels: str) -> float:
        """What a counter has come to."""
        with self._lock:
            return self._counts[name].get(tuple(sorted(labels.items())), 0.0)

    def text(self, now: Mapping[str, float]) -> str:
        """Everything; `now` has the values of the gauges."""
        lines: list[str] = []
        with self._lock:
            for name, about in COUNTERS.items():
                lines += _head(f"{name}_total", about, "counter")
                found = self._counts[name] or {(): 0.0}
                lines += [f"luthier_{name}_total{_labels(labels)} {value:g}" for labels, value in found.items()]
            for name, about in TIMES.items():
                lines += _head(name, about, "histogram")
                total = 0
                for end, number in zip([*BUCKETS, "+Inf"], self._times[name], strict=True):
                    total += number
                    lines.append(f'luthier_{name}_bucket{{le="{end}"}} {total}')
                lines += [f"luthier_{name}_sum {self._sums[name]:.6f}", f"luthier_{name}_count {total}"]
        for name, about in GAUGES.items():
            lines += [*_head(name, about, "gauge"), f"luthier_{name} {now.get(name, 0):.10g}"]
        return "\n".join(lines) + "\n"


def _head(name: str, about: str, kind: str) -> list[str]:
    return [f"# HELP luthier_{name} {about}", f"# TYPE luthier_{name} {kind}"]


def _labels(labels: Labels) -> str:
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels) + "}" if labels else ""
