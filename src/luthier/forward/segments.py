"""Packed rows as runs of tokens: what rows begin with in common is a run of its own, laid out once.

Shape suffixes: N = rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.models.blocks.attention import Segment

MIN_SHARED = 8
"""Shorter common prefixes are not worth a segment of their own."""


def segments(ids_N: Sequence[NDArray[Any]], share: bool) -> tuple[list[Segment], list[NDArray[np.int64]]]:
    """The segments in layout order (parents before children), and for each row the places of its tokens.

    `ids_N` are equal only where the model reads the same (`Encoded.identity_ids`).
    """
    order = sorted(range(len(ids_N)), key=lambda n: ids_N[n].tolist()) if share else list(range(len(ids_N)))
    shared = [common(ids_N[a], ids_N[b]) if share else 0 for a, b in pairwise(order)]
    found: list[Segment] = []
    place_N: list[NDArray[np.int64]] = [np.empty(0, np.int64)] * len(ids_N)

    def add(start: int, end: int, parent: int | None) -> int:
        offset = found[-1].end if found else 0
        found.append(Segment(offset, offset + end - start, parent))
        return len(found) - 1

    def grow(low: int, high: int, done: int, parent: int | None, path: NDArray[np.int64]) -> None:
        """Lay out rows order[low:high], whose first `done` tokens lie at `path` and end in segment `parent`."""
        if high - low == 1:
            n = order[low]
            if len(ids_N[n]) > done:
                segment = found[add(done, len(ids_N[n]), parent)]
                path = np.concatenate([path, np.arange(segment.start, segment.end)])
            place_N[n] = path
            return
        depth = min(shared[low : high - 1])
        if depth - done >= MIN_SHARED:
            parent = add(done, depth, parent)
            path, done = np.concatenate([path, np.arange(found[parent].start, found[parent].end)]), depth
        first = low
        for i in range(low, high):
            if i == high - 1 or shared[i] - done < MIN_SHARED:
                grow(first, i + 1, done, parent, path)
                first = i + 1

    grow(0, len(order), 0, None, np.empty(0, np.int64))
    return found, place_N


def common(a: NDArray[Any], b: NDArray[Any]) -> int:
    """Length of the common prefix."""
    length = min(len(a), len(b))
    different = np.flatnonzero(a[:length] != b[:length])
    return int(different[0]) if len(different) else length
