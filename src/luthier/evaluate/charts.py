"""Pictures of a run: inline SVG for the report, which takes its colours from the page, and loss.png or reward.png by
matplotlib."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from luthier.evaluate.curves import Points, read_curves, smoothed, thinned, ticks
from luthier.run import Run

log = logging.getLogger(__name__)

WIDTH, HEIGHT = 520, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 12, 10, 28
_MOST_POINTS = 500  # more than there are pixels would only make the page heavy


@dataclass(frozen=True)
class Line:
    """One curve of a chart. `style` is its CSS class: raw, main, evaluation."""

    name: str
    points: Points
    style: str = "main"


def tick(value: float) -> str:
    """An axis label: 2e-4, 0.5, 1,200, 3.2M."""
    size = abs(value)
    if value == 0:
        return "0"
    if size < 0.001:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    for unit, name in ((1e9, "G"), (1e6, "M")):
        if size >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:,.0f}" if size >= 1000 else f"{value:.4g}"


def line_chart(lines: Sequence[Line], title: str) -> str:
    """Curves over steps as SVG; '' when none has a point."""
    drawn = [Line(line.name, thinned(line.points, _MOST_POINTS), line.style) for line in lines if line.points]
    if not drawn:
        return ""
    steps = [x for line in drawn for x, _ in line.points]
    values = [y for line in drawn for _, y in line.points]
    left, right, low, high = min(steps), max(steps), min(values), max(values)
    if high == low:
        low, high = low - (abs(low) or 1) * 0.5, high + (abs(high) or 1) * 0.5

    def x_of(step: float) -> float:
        return _LEFT + (step - left) / ((right - left) or 1) * (WIDTH - _LEFT - _RIGHT)

    def y_of(value: float) -> float:
        return _TOP + (high - value) / (high - low) * (HEIGHT - _TOP - _BOTTOM)

    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for value in ticks(low, high):
        y = y_of(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{tick(value)}</text>')
    whole = [step for step in ticks(left, right, 5) if float(step).is_integer()] or [left, right]
    for step in whole:
        anchor = "end" if x_of(step) > WIDTH - _RIGHT - 20 else "middle"
        parts.append(
            f'<text class="tick" x="{x_of(step):.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}">{tick(step)}</text>'
        )
    for line in drawn:
        places = [(x_of(x), y_of(y)) for x, y in line.points]
        if len(places) > 1:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            parts.append(f'<polyline class="line {line.style}" points="{path}"/>')
        if len(places) == 1 or line.style == "evaluation":
            parts += [f'<circle class="dot {line.style}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places]
    return "".join([*parts, "</svg>"])


def interval_chart(estimates: Mapping[str, Mapping[str, float | None]], bounds: Sequence[float | None]) -> str:
    """Values with their intervals, one system under the other, on one scale as SVG."""
    known = [value for one in estimates.values() for value in one.values() if value is not None]
    if not known:
        return ""
    low = bounds[0] if bounds[0] is not None else min(known)
    high = bounds[1] if bounds[1] is not None else max(known)
    width, row = 220, 22

    def x_of(value: float) -> float:
        return 6 + (value - low) / ((high - low) or 1) * (width - 12)

    height = row * len(estimates) + 2
    parts = [f'<svg class="intervals" viewBox="0 0 {width} {height}" role="img" aria-label="values with intervals">']
    for index, one in enumerate(estimates.values()):
        y, style = row * index + row // 2 + 1, "main" if index else "base"
        parts.append(f'<line class="grid" x1="6" x2="{width - 6}" y1="{y}" y2="{y}"/>')
        if one.get("low") is not None and one.get("high") is not None:
            ends = f'x1="{x_of(one["low"]):.1f}" x2="{x_of(one["high"]):.1f}"'  # type: ignore[arg-type]
            parts.append(f'<line class="whisker {style}" {ends} y1="{y}" y2="{y}"/>')
        value = one.get("value")
        if value is not None:
            parts.append(f'<circle class="dot {style}" cx="{x_of(value):.1f}" cy="{y}" r="5"/>')
    return "".join([*parts, "</svg>"])


def write_plot(run: Run) -> Path | None:
    """Draw the run's main curve into its folder, reward.png or loss.png; None, with a log line that says why, where it
    cannot be drawn."""
    curves = read_curves(run)
    name, points = curves.main
    path = run.folder / f"{name.lower()}.png"
    if not points:
        log.info("%s not drawn: no step with a loss was logged", path.name)
        return None
    if find_spec("matplotlib") is None:
        log.info("%s not drawn: matplotlib is not installed (pip install 'luthier[plots]')", path.name)
        return None
    from matplotlib.figure import Figure

    word, paid = name.lower(), name == "Reward"
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes: Any = figure.subplots()
    axes.plot(*zip(*points, strict=True), color="#8fa3bf", linewidth=0.8, alpha=0.6, label=word)
    axes.plot(*zip(*smoothed(points), strict=True), color="#2456c9", linewidth=2, label=f"{word}, smoothed")
    held_out = curves.scores if paid else curves.evaluation
    if held_out:
        label = "held-out score" if paid else "evaluation loss"
        axes.plot(*zip(*held_out, strict=True), "o-", color="#d9722b", markersize=4, label=label)
    axes.set(xlabel="step", ylabel=word)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path)
    return path
