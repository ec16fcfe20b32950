"""The memory of pages: slabs of many, which never move."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

SLAB = 32 * 2**20
"""Bytes of a slab, at least a page."""
LINE = 64
"""Bytes to whose multiples pages are aligned."""


class Pages:
    """Pages of so many bytes, by number."""

    def __init__(self, size: int) -> None:
        self.bytes = size
        self._slabs: list[NDArray[np.uint8]] = []
        self._at = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self._at)

    def grow(self, pages: int) -> None:
        """See to it that pages 0 .. `pages` - 1 have memory. It is zero, and taken from the machine when first used."""
        while len(self._at) < pages:
            count = max(1, SLAB // self.bytes)
            slab = np.zeros(count * self.bytes + LINE, np.uint8)
            first = -(-slab.ctypes.data // LINE) * LINE
            self._slabs.append(slab)
            self._at = np.concatenate([self._at, first + np.arange(count) * self.bytes])

    def copy(self, source: int, target: int) -> None:
        """Copy a page. Raises ValueError for one that has no memory."""
        self._page(target)[:] = self._page(source)

    def of(self, lists: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(addresses of the pages, one list after the other; where each list begins). Raises ValueError as `copy`."""
        lengths = [len(pages) for pages in lists]
        number = np.fromiter((page for pages in lists for page in pages), np.int64, sum(lengths))
        if len(number) and (number.min() < 0 or number.max() >= len(self._at)):
            bad = number[(number < 0) | (number >= len(self._at))][0]
            raise ValueError(f"page {bad} has no memory: there are {len(self._at)}")
        return self._at[number], np.cumsum([0, *lengths[:-1]])

    def _page(self, number: int) -> NDArray[Any]:
        if not 0 <= number < len(self._at):
            raise ValueError(f"page {number} has no memory: there are {len(self._at)}")
        count = max(1, SLAB // self.bytes)
        slab = self._slabs[number // count]
        offset = int(self._at[number]) - slab.ctypes.data
        return slab[offset : offset + self.bytes]
