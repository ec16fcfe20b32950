"""MinHash in numpy: rows that share a band key are looked at, and no others.

Broder's minima estimate how many shingles two sets share. They lie in bands; a band's key is made of minima half of
which are taken over all shingles of a row and half over those of its answers. Rows alike to the degree s by both
measures (shingles.py) share a given key with the chance s^rows, and one of them with 1 - (1 - s^rows)^bands: the
S-curve. Which of those that share one are duplicates is then counted exactly (near.py), so the curve says what may be
missed, and nothing is dropped by chance.

Shapes: N rows of data, B bands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.data.duplicates import shingles, units
from luthier.data.duplicates.shingles import Shingles, Text
from luthier.data.duplicates.units import Hashes
from luthier.errors import LuthierError

SURE = 0.998
"""Two rows exactly as alike as the threshold are found with at least this chance; more alike ones with a greater."""


@dataclass(frozen=True)
class Layout:
    """How minima are laid out: so many bands of so many rows, half of which are of the answers."""

    bands: int
    rows: int

    def chance(self, similarity: Any) -> Any:
        """With what chance two rows that are so alike share a band: the S-curve."""
        return 1 - (1 - np.asarray(similarity, np.float64) ** self.rows) ** self.bands


LAYOUTS = (Layout(21, 6), Layout(31, 4), Layout(63, 2))
"""126 minima each, or nearly; the first asks for the fewest comparisons and the least memory."""


def layout(threshold: float) -> Layout:
    """The layout for a threshold. Raises LuthierError for one that no layout finds surely."""
    for one in LAYOUTS:
        if one.chance(threshold) >= SURE:
            return one
    least = next(t / 100 for t in range(1, 101) if LAYOUTS[-1].chance(t / 100) >= SURE)
    raise LuthierError(
        f"near-duplicates as unlike as {threshold:g} are not found surely",
        where="dedup",
        fix=f"set a threshold from {least:g} to 1; 0.8 is usual",
    )


def band_keys(texts: Sequence[Text], at: Layout = LAYOUTS[0]) -> Hashes:
    """The keys (N, B + 1) of each row, 8 bytes a band, and last its identity. They hang on the row alone."""
    keys = np.empty((len(texts), at.bands + 1), np.uint64)
    for part in units.batches([text.size for text in texts]):
        keys[part] = _keys(shingles.of(texts[part]), at)
    return keys


def _keys(rows: Shingles, at: Layout) -> Hashes:
    half = at.rows // 2
    answer = (rows.hashes & np.uint32(shingles.ANSWER)).view(np.uint32) != 0
    own = rows.hashes[answer]
    lengths = rows.starts[1:] - rows.answers
    own_starts = np.cumsum(lengths) - lengths
    keys = np.empty((len(rows.numbers), at.bands + 1), np.uint64)
    keys[:, -1] = rows.identity
    count = at.bands * half
    seeds = units.constants(4 * count, salt=11).astype(np.uint32)
    masks, factors = seeds[: 2 * count], seeds[2 * count :] | np.uint32(1)
    both = ((rows.hashes, rows.starts[:-1]), (own, own_starts))
    room = [np.empty_like(hashes) for hashes, _ in both]
    fold = units.constants(at.rows, salt=13) | np.uint64(1)
    for band in range(at.bands):
        key = rows.numbers.copy()
        for row in range(half):
            for which, (hashes, starts) in enumerate(both):
                i = (band * half + row) * 2 + which
                np.bitwise_xor(hashes, masks[i], out=room[which])
                np.multiply(room[which], factors[i], out=room[which])
                key += np.minimum.reduceat(room[which], starts) * fold[2 * row + which]
        keys[:, band] = units.mixed(key)
    return keys


def curve(at: Layout = LAYOUTS[0], similarities: NDArray[np.float64] | None = None) -> list[tuple[float, float]]:
    """(similarity, chance of being found) from 0.5 to 1, for tables."""
    at_S = np.arange(0.5, 1.0001, 0.05) if similarities is None else similarities
    return [(round(float(s), 3), float(at.chance(s))) for s in at_S]
