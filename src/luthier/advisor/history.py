"""What runs on this machine took, beside what had been predicted: a line for each in the cache; ranges narrow by it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from luthier import cache

RECENT = 20
"""Runs that a range is taken from: the newest of their kind."""
WORK = 0.02
"""Seconds of matrix products, at the whole rate, that a step has at least in a run that tells something of others:
below, what a step costs besides rules, as in trials with a tiny model."""
LEAST = 3
"""Fewer say nothing of how much they differ."""


@dataclass(frozen=True)
class Ended:
    """One run that has ended."""

    path: str
    """What runs of one speed have in common (`Setup.path`)."""
    threads: int
    tokens: float
    """T of its heaviest micro-batch."""
    scored: float
    peak: float
    """Bytes."""
    predicted: float
    seconds: float
    """Of its loop."""
    steps: int
    flops: float
    """Of all its steps."""
    at_rate: float
    """Seconds it would have taken at the whole rate of matrix products."""
    model: str = ""
    shape: dict[str, Any] = field(default_factory=dict)
    when: str = ""


def path() -> Path:
    """The file."""
    return cache.root() / "advisor" / "runs.jsonl"


def add(run: Ended) -> None:
    """One more run has ended."""
    path().parent.mkdir(parents=True, exist_ok=True)
    with path().open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(run)) + "\n")


def ended() -> Iterator[Ended]:
    """The runs that are known, oldest first. A line that is none (cut by a full disk, or of another version) says
    nothing of any run and counts for none."""
    if not path().is_file():
        return
    names = {each.name for each in fields(Ended)}
    for line in path().read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            found = json.loads(line)
            yield Ended(**{name: found[name] for name in names & found.keys()})
        except (ValueError, TypeError, AttributeError):
            continue


def like(runs: Sequence[Ended], kind: str, threads: int) -> list[Ended]:
    """The newest of a kind, without those whose steps are too small to tell."""
    alike = (run for run in runs if run.path == kind and run.threads == threads)
    return [run for run in alike if run.at_rate >= WORK * run.steps][-RECENT:]


def spread(runs: Sequence[Ended], ratio: Callable[[Ended], float]) -> tuple[float, float] | None:
    """The least and the largest of a ratio over these runs, and room for one more; None where they are too few.

    Of n runs the next one lies outside of what they span in 2 of n + 1 cases, whatever their distribution: so the
    span, on the scale of logarithms, is widened by that share to both sides, and by no less than 1 / 2n, or 5 %.
    """
    if len(runs) < LEAST:
        return None
    logs = sorted(math.log(max(ratio(run), 1e-6)) for run in runs)
    room = max(0.05, 0.5 / len(logs), (logs[-1] - logs[0]) * 2 / (len(logs) + 1))
    return math.exp(logs[0] - room), math.exp(logs[-1] + room)
