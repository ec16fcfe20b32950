"""Pictures of rows as SVG, which take their colours from the page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from luthier.evaluate.charts import HEIGHT, WIDTH, tick
from luthier.evaluate.rows.topics import Topics

_LEFT, _RIGHT, _TOP, _BOTTOM = 12, 12, 10, 28
BINS = 40


def edges(values: NDArray[np.float64], logarithmic: bool = False) -> NDArray[np.float64]:
    """The edges of bins over all values; `logarithmic` where they are lengths."""
    low, high = float(values.min()), float(values.max())
    if logarithmic:
        return np.geomspace(max(low, 1.0), max(high, 2.0) * 1.001, BINS + 1)
    if low == high:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, BINS + 1)


def histogram(sets: Sequence[tuple[str, NDArray[np.int64]]], edges: NDArray[np.float64], title: str) -> str:
    """Counts over bins, one set drawn before the other; all of them as shares of their own."""
    most = max((float(counts.max() / max(counts.sum(), 1)) for _, counts in sets), default=0) or 1.0
    wide, high = (WIDTH - _LEFT - _RIGHT) / (len(edges) - 1), HEIGHT - _TOP - _BOTTOM
    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    base = HEIGHT - _BOTTOM
    parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{base}" y2="{base}"/>')
    for style, counts in sets:
        for number, count in enumerate(counts.tolist()):
            if count:
                tall = max(1.0, high * count / max(int(counts.sum()), 1) / most)
                parts.append(
                    f'<rect class="bin {style}" x="{_LEFT + number * wide:.1f}" y="{base - tall:.1f}" '
                    f'width="{wide - 1:.1f}" height="{tall:.1f}"><title>{tick(float(edges[number]))} to '
                    f"{tick(float(edges[number + 1]))}: {count:,}</title></rect>"
                )
    for number in range(0, len(edges), BINS // 4):
        anchor = "start" if number == 0 else "end" if number == len(edges) - 1 else "middle"
        label = tick(float(f"{edges[number]:.3g}"))
        parts.append(
            f'<text class="tick" x="{_LEFT + number * wide:.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}">{label}</text>'
        )
    return "".join([*parts, "</svg>"])


def plane(found: Topics, labels: Sequence[str]) -> str:
    """Rows as dots, in the colour of their topic; `labels` are told where the pointer stands on one."""
    width, height = 1040, 460
    low, high = np.percentile(found.places, 0.5, axis=0), np.percentile(found.places, 99.5, axis=0)
    at = np.clip((found.places - low) / np.maximum(high - low, 1e-9), 0, 1)
    parts = [f'<svg class="plane" viewBox="0 0 {width} {height}" role="img" aria-label="rows by what they are about">']
    for (x, y), topic, label in zip(at.tolist(), found.topic.tolist(), labels, strict=True):
        parts.append(
            f'<circle class="topic-{topic}" cx="{10 + x * (width - 20):.1f}" cy="{10 + (1 - y) * (height - 20):.1f}" '
            f'r="4"><title>{escape(label)}</title></circle>'
        )
    return "".join([*parts, "</svg>"])


__all__ = ["BINS", "edges", "histogram", "plane"]
