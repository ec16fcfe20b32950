"""MinHash in numpy: rows that share a band key are looked at, and no others.

Broder's minima estimate how many shingles two sets share. They lie in bands; some of a band's minima are taken over
all shingles of a row and some over those of its answers, so that neither a long prompt that many rows have nor an
answer that many give makes all of them meet. Rows alike to the degree s by both measures (shingles.py) share a given
key with the chance s^rows, and one of them with 1 - (1 - s^rows)^bands: the S-curve. Which of those that share one
are duplicates is then counted exactly (near.py): the curve says what may be missed, and nothing is dropped by chance.

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

SURE = 0.9999
"""Two rows exactly as alike as the threshold are found with at least this chance; more alike ones with a greater."""


@dataclass(frozen=True)
class Layout:
    """How minima are laid out: so many bands, each of so many minima over the whole row and over its answers."""

    bands: int
    whole: int
    answers: int

    @property
    def rows(self) -> int:
        """Minima of a band."""
        return self.whole + self.answers

    def chance(self, similarity: Any) -> Any:
        """With what chance two rows that are so alike share a band: the S-curve."""
        return 1 - (1 - np.asarray(similarity, np.float64) ** self.rows) ** self.bands


LAYOUTS = (Layout(28, 3, 2), Layout(31, 2, 2), Layout(63, 1, 1))
"""The first asks for the fewest comparisons and the least memory."""


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
    answer = (rows.hashes & np.uint32(shingles.ANSWER)).view(np.uint32) != 0
    own = rows.hashes[answer]
    lengths = rows.starts[1:] - rows.answers
    own_starts = np.cumsum(lengths) - lengths
    keys = np.empty((len(rows.numbers), at.bands + 1), np.uint64)
    keys[:, -1] = rows.identity
    count = at.bands * at.rows
    seeds = units.constants(2 * count, salt=11).astype(np.uint32)
    masks, factors = seeds[:count], seeds[count:] | np.uint32(1)
    sets = [(rows.hashes, rows.starts[:-1])] * at.whole + [(own, own_starts)] * at.answers
    room = np.empty_like(rows.hashes)
    fold = units.constants(at.rows, salt=13) | np.uint64(1)
    for band in range(at.bands):
        key = rows.numbers.copy()
        for row, (hashes, starts) in enumerate(sets):
            i = band * at.rows + row
            spread = room[: len(hashes)]
            np.bitwise_xor(hashes, masks[i], out=spread)
            np.multiply(spread, factors[i], out=spread)
            key += np.minimum.reduceat(spread, starts) * fold[row]
        keys[:, band] = units.mixed(key)
    return keys


def curve(at: Layout = LAYOUTS[0], similarities: NDArray[np.float64] | None = None) -> list[tuple[float, float]]:
    """(similarity, chance of being found) from 0.5 to 1, for tables."""
    at_S = np.arange(0.5, 1.0001, 0.05) if similarities is None else similarities
    return [(round(float(s), 3), float(at.chance(s))) for s in at_S]
