"""What a run will take: memory with a margin, time as a range, and what came beside it in the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from luthier.advisor import history, memory, speed
from luthier.advisor.hardware import GIB, Hardware
from luthier.advisor.history import Ended
from luthier.advisor.load import Laid
from luthier.advisor.memory import SPREAD, Memory
from luthier.advisor.setup import Setup
from luthier.advisor.speed import HIGH, LOW, PLAIN_HIGH, PLAIN_LOW, Work

UNMEASURED = "not calibrated here"


@dataclass(frozen=True)
class Forecast:
    """What is expected of a run."""

    memory: Memory
    least: float
    """Bytes that it will take at least, as far as such runs have differed from what was said of them."""
    most: float
    work: Work
    steps: int
    fastest: float | None
    """Seconds; None where this machine's rate says nothing of the other one's."""
    slowest: float | None
    at_rate: float | None
    """Seconds of all steps at the whole rate of matrix products."""
    calibrated: bool
    runs: int
    """How many runs have narrowed the range of time."""

    def fits(self, hardware: Hardware) -> bool | None:
        """Does it fit? None where that lies within the margin."""
        if self.most <= hardware.memory:
            return True
        return None if self.least <= hardware.memory else False

    def said_memory(self) -> str:
        """For the screen."""
        note = "" if self.calibrated else f" ({UNMEASURED})"
        return f"{size(self.memory.total)} ({size(self.least)} to {size(self.most)}){note}"

    def said_time(self) -> str:
        """For the screen."""
        if self.fastest is None or self.slowest is None:
            return f"{self.work.flops * self.steps / 1e12:,.0f} TFLOP, {UNMEASURED}"
        return f"{duration(self.fastest)} to {duration(self.slowest)}"

    def to_json(self) -> dict[str, Any]:
        """What a run's summary keeps."""
        return {
            "memory": round(self.memory.total),
            "memory_parts": {name: round(value) for name, value in asdict(self.memory).items()},
            "memory_range": [round(self.least), round(self.most)],
            "seconds_range": None if self.fastest is None else [round(self.fastest, 4), round(self.slowest or 0.0, 4)],
            "flops": self.work.flops * self.steps,
            "calibrated": self.calibrated,
            "runs": self.runs,
        }


def of(setup: Setup, laid: Laid, rate: float | None, threads: int = 1, known: Sequence[Ended] = ()) -> Forecast:
    """What is expected of a run. `rate`: operations a second of the machine (None: another machine's); `known`: runs
    that have ended here."""
    found, each = memory.most(setup, laid), speed.work(setup, laid)
    alike = history.like(known, setup.path, threads)
    ratios = history.spread([run for run in alike if run.predicted > 0], lambda run: run.peak / run.predicted)
    low, high = ratios or (1 - SPREAD, 1 + SPREAD)
    low, high = min(low, 1.0), max(high, 1.0)
    at_rate = None if rate is None else each.seconds(rate) * laid.steps
    fastest = slowest = None
    if at_rate is not None and rate is not None:
        timed = history.spread([run for run in alike if run.at_rate > 0], lambda run: run.seconds / run.at_rate)
        if timed is not None:
            fastest, slowest = timed[0] * at_rate, timed[1] * at_rate
        else:
            low_share, high_share = (LOW, HIGH) if setup.blocks_fused else (PLAIN_LOW, PLAIN_HIGH)
            fastest, slowest = (each.seconds(rate, share) * laid.steps for share in (high_share, low_share))
    return Forecast(
        found, low * found.total, high * found.total, each, laid.steps, fastest, slowest, at_rate,
        setup.device == "cpu", len(alike),
    )  # fmt: skip


def size(count: float) -> str:
    """Bytes for people."""
    return f"{count / 2**20:,.0f} MiB" if count < GIB else f"{count / GIB:,.1f} GiB"


def duration(seconds: float) -> str:
    """Seconds for people, to two digits or so."""
    for unit, length, most in (("s", 1, 100), ("min", 60, 100), ("h", 3600, 48), ("days", 86400, float("inf"))):
        value = seconds / length
        if value < most:
            return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
    raise ValueError(f"{seconds} is no duration")
