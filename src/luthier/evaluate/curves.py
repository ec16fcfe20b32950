"""The curves of a run, read from its events: loss, smoothed loss, evaluation loss, learning rate and the like."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from luthier.run import Run

Points = tuple[tuple[float, float], ...]
"""(step, value), in order of steps."""


@dataclass(frozen=True)
class Curves:
    """Each curve by its event's field; an absent one is empty. Values that are not finite are left out and counted."""

    steps: dict[str, Points]
    evaluation: Points
    not_finite: int
    rollouts: dict[str, Points] = field(default_factory=dict)
    """Of what the model said while it learnt from that."""
    parts: dict[str, Points] = field(default_factory=dict)
    """Of each part of the reward, by its name, where there are several."""
    scores: Points = ()
    """Of held-out prompts that the model answered: what the first part of the reward says."""

    @property
    def loss(self) -> Points:
        return self.steps["loss"]

    @property
    def main(self) -> tuple[str, Points]:
        """What says how the run went, and its name: the reward where answers were paid, else the loss."""
        paid = self.rollouts.get("reward", ())
        return ("Reward", paid) if len(paid) > 1 or (paid and len(self.loss) < 2) else ("Loss", self.loss)


JUDGED = ("reward_better", "reward_worse", "accuracy", "logp_better", "logp_worse", "kl")
"""Of those, what preference training and reward models show."""
FIELDS = ("loss", "lr", "grad_norm", "tokens_per_s", "memory", "mismatch_k3", "drift", "explained", "clipped", *JUDGED)
"""The fields of a `step` event that make a curve."""


SPOKEN = ("reward", "right", "silent", "length", "cut", "entropy", "made_per_s")
"""The fields of a `rollout` event that make one."""
PART = "reward_"
"""Begins the fields of the parts of the reward; `reward_std` is none."""


def read_curves(run: Run) -> Curves:
    """The curves of a run. Where a step was taken again after a resume, its last event counts."""
    values: dict[str, dict[float, float]] = {field: {} for field in FIELDS}
    evaluation: dict[float, float] = {}
    scores: dict[float, float] = {}
    spoken: dict[str, dict[float, float]] = {name: {} for name in SPOKEN}
    parts: dict[str, dict[float, float]] = {}
    for event in run.events():
        if event["kind"] == "step":
            for field in FIELDS:
                if event.get(field) is not None:
                    values[field][event["step"]] = float(event[field])
        elif event["kind"] == "evaluation" and event.get("score") is not None:  # the loss is what is wanting of it
            scores[event["step"]] = float(event["score"])
        elif event["kind"] == "evaluation" and event.get("loss") is not None:
            evaluation[event["step"]] = float(event["loss"])
        elif event["kind"] == "rollout":
            for name in SPOKEN:
                if event.get(name) is not None:
                    spoken[name][event["step"]] = float(event[name])
            for name in event:
                if name.startswith(PART) and name != "reward_std":
                    parts.setdefault(name.removeprefix(PART), {})[event["step"]] = float(event[name])
    everything = [*values.values(), evaluation, scores, *spoken.values(), *parts.values()]
    return Curves(
        steps={field: _points(points) for field, points in values.items()},
        evaluation=_points(evaluation),
        not_finite=sum(not math.isfinite(value) for points in everything for value in points.values()),
        rollouts={name: _points(points) for name, points in spoken.items()},
        parts={name: _points(points) for name, points in parts.items()} if len(parts) > 1 else {},
        scores=_points(scores),
    )


def _points(values: dict[float, float]) -> Points:
    return tuple((step, value) for step, value in sorted(values.items()) if math.isfinite(value))


def smoothed(points: Points) -> Points:
    """The curve under a Gaussian window of about a twentieth of the points to each side: smooth, and not late."""
    if not points:
        return ()
    radius = min(max(len(points) // 20, 1), 200)
    window = np.exp(-0.5 * (np.arange(-radius, radius + 1) / (radius / 2)) ** 2)
    inside = slice(radius, radius + len(points))
    sums = np.convolve([value for _, value in points], window)[inside]
    mass = np.convolve(np.ones(len(points)), window)[inside]
    return tuple(zip((step for step, _ in points), (sums / mass).tolist(), strict=True))


def thinned(points: Points, most: int) -> Points:
    """At most `most` points: means of equal runs of points, the last one kept as it is."""
    if len(points) <= most:
        return points
    size = math.ceil((len(points) - 1) / (most - 1))
    runs = [points[start : min(start + size, len(points) - 1)] for start in range(0, len(points) - 1, size)]
    return (*((_mean([x for x, _ in run]), _mean([y for _, y in run])) for run in runs), points[-1])


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers within [low, high]: steps of 1, 2, 2.5 or 5 times a power of ten."""
    if high <= low:
        return [low]
    rough = (high - low) / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


_BRAILLE_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))


def curve_text(run: Run, width: int = 64, height: int = 10) -> tuple[str, str]:
    """The name of a run's main curve, and the curve, smoothed, as a plot of braille dots for the terminal, with both
    ends of its axes named.

    `width` and `height` (at least 2) are those of the plot in characters, without the axes.
    """
    name, points = read_curves(run).main
    points = smoothed(points)
    if len(points) < 2:
        return name, "no curve: fewer than two steps were logged"
    steps, losses = zip(*points, strict=True)
    # a braille character holds 2 × 4 dots
    curve = np.interp(np.linspace(steps[0], steps[-1], 2 * width), steps, losses)
    low, high = curve.min(), curve.max()
    dots = np.rint((high - curve) / ((high - low) or 1) * (4 * height - 1)).astype(int)
    cells = [[0] * width for _ in range(height)]
    for column, (previous, dot) in enumerate(zip([dots[0], *dots], dots, strict=False)):
        for filled in range(min(previous, dot), max(previous, dot) + 1):  # a steep fall is drawn whole
            cells[filled // 4][column // 2] |= _BRAILLE_DOTS[column % 2][filled % 4]
    labels = [f"{high:.3f}", *[""] * (height - 2), f"{low:.3f}"]
    margin = max(map(len, labels))
    lines = [
        f"{label:>{margin}} ┤" + "".join(chr(0x2800 + cell) for cell in row)
        for label, row in zip(labels, cells, strict=True)
    ]
    axis = f"step {steps[0]:g}".ljust(width - len(f"{steps[-1]:g}")) + f"{steps[-1]:g}"
    return name, "\n".join([*lines, " " * (margin + 1) + "└" + "─" * width, " " * (margin + 2) + axis])
