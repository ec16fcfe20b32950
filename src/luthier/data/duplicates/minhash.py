"""MinHash in numpy: rows that share a band key are looked at, and no others.

Broder's minima estimate how many shingles two sets share. They lie in bands; some of a band's minima are taken over
all shingles of a row and some over those of its answers, so that neither a long prompt that many rows have nor an
answer that many give makes all of them meet. Rows alike to the degree s by both measures (shingles.py) share a given
key with the chance s^rows, and one of them with 1 - (1 - s^rows)^bands: the S-curve. Which of those that share one
are duplicates is then counted exactly (near.py): the curve says what may be missed, and nothing is dropped by chance.

Beside the keys lies a sketch, two bits of each minimum (b-bit minwise hashing). Two rows agree in these with the
chance (1 + 3 s) / 4; those that agree in too few of them need not be read again to be counted.

Shapes: N rows of data, B bands, W words of a sketch, Q pairs of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.data.duplicates import shingles, units
from luthier.data.duplicates.shingles import Shingles, Text
from luthier.data.duplicates.units import Hashes
from luthier.errors import LuthierError

SURE = 0.9999
"""Two rows exactly as alike as the threshold are found with at least this chance; more alike ones with a greater."""
UNLIKELY = 1e-7
"""With what chance a sketch may hide that two rows are as alike as the threshold, by either measure."""
WORD = 64
"""Bits of a word of a sketch."""
BITS = (14, 16)
"""Which bits of a minimum the sketch holds: high ones hang on more bits of the hash, but of the smallest of many they
are unset. Where a row has so many shingles that these are, it agrees with more rows than it should: all are read."""


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

    @property
    def words(self) -> int:
        """Of a sketch: those of the whole row, those of its answers, for each of the bits."""
        return len(BITS) * (_words(self.bands * self.whole) + _words(self.bands * self.answers))

    def chance(self, similarity: Any) -> Any:
        """With what chance two rows that are so alike share a band: the S-curve."""
        return 1 - (1 - np.asarray(similarity, np.float64) ** self.rows) ** self.bands


def _words(bits: int) -> int:
    return -(-bits // WORD)


LAYOUTS = (Layout(28, 3, 2), Layout(31, 2, 2), Layout(63, 1, 1))
"""The first asks for the fewest comparisons and the least memory."""


def layout(threshold: float) -> Layout:
    """The layout for a threshold. Raises LuthierError for one that no layout finds surely."""
    for one in LAYOUTS:
        if one.chance(threshold) - 2 * UNLIKELY >= SURE:
            return one
    least = next(t / 100 for t in range(1, 101) if LAYOUTS[-1].chance(t / 100) - 2 * UNLIKELY >= SURE)
    raise LuthierError(
        f"near-duplicates as unlike as {threshold:g} are not found surely",
        where="dedup",
        fix=f"set a threshold from {least:g} to 1; 0.8 is usual",
    )


def band_keys(texts: Sequence[Text], at: Layout = LAYOUTS[0]) -> Hashes:
    """The keys (N, B + 1) of each row, 8 bytes a band, and last its identity. They hang on the row alone."""
    return measured(texts, at)[0]


def measured(texts: Sequence[Text], at: Layout = LAYOUTS[0]) -> tuple[Hashes, Hashes]:
    """The keys of each row, as of `band_keys`, and its sketch (N, W)."""
    keys = np.empty((len(texts), at.bands + 1), np.uint64)
    sketches = np.empty((len(texts), at.words), np.uint64)
    for part in units.batches([text.size for text in texts]):
        keys[part], sketches[part] = _keys(shingles.of(texts[part]), at)
    return keys, sketches


def _keys(rows: Shingles, at: Layout) -> tuple[Hashes, Hashes]:
    answer = (rows.hashes & np.uint32(shingles.ANSWER)).view(np.uint32) != 0
    own = rows.hashes[answer]
    lengths = rows.starts[1:] - rows.answers
    own_starts = np.cumsum(lengths) - lengths
    keys = np.empty((len(rows.numbers), at.bands + 1), np.uint64)
    keys[:, -1] = rows.identity
    count = at.bands * at.rows
    minima = np.empty((count, len(keys)), np.uint32)
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
            np.minimum.reduceat(spread, starts, out=minima[i])
            key += minima[i] * fold[row]
        keys[:, band] = units.mixed(key)
    return keys, _sketches(minima.reshape(at.bands, at.rows, -1), at)


def _sketches(minima: NDArray[np.uint32], at: Layout) -> Hashes:
    """Of each row (R, B, minima of a band) the bits of all its minima, those of the whole row and those of its answers
    in words of their own."""
    words = []
    for place in BITS:
        bits_N = ((minima >> np.uint32(place)) & np.uint32(1)).astype(np.uint8)
        for part in (bits_N[:, : at.whole], bits_N[:, at.whole :]):
            packed = np.packbits(part.reshape(-1, part.shape[-1]), axis=0, bitorder="little")
            padded = np.zeros((part.shape[-1], _words(part.shape[0] * part.shape[1]) * WORD // 8), np.uint8)
            padded[:, : len(packed)] = packed.T
            words.append(padded.view("<u8"))
    return np.concatenate(words, axis=1)


def likely(a_Q: Hashes, b_Q: Hashes, at: Layout, threshold: float) -> NDArray[np.bool_]:
    """Which pairs of rows may be as alike as the threshold, by their sketches (Q, W): all that are, but for
    `UNLIKELY`, and few others."""
    differ_Q = np.bitwise_or.reduce((a_Q ^ b_Q).reshape(len(a_Q), len(BITS), -1), axis=1)
    counts_Q = np.bitwise_count(differ_Q).astype(np.int64)
    whole, answers = at.bands * at.whole, at.bands * at.answers
    agree = (1 + (2 ** len(BITS) - 1) * threshold) / 2 ** len(BITS)
    passes: NDArray[np.bool_] = counts_Q[:, : _words(whole)].sum(axis=1) <= _most(whole, agree)
    return passes & (counts_Q[:, _words(whole) :].sum(axis=1) <= _most(answers, agree))


@cache
def _most(minima: int, chance: float) -> int:
    """In so many of these minima two rows differ at most that agree in each with this chance, but for `UNLIKELY`."""
    tail = 0.0
    for agree in range(minima + 1):
        tail += comb(minima, agree) * chance**agree * (1 - chance) ** (minima - agree)
        if tail > UNLIKELY:
            return minima - agree
    return 0


def curve(at: Layout = LAYOUTS[0], similarities: NDArray[np.float64] | None = None) -> list[tuple[float, float]]:
    """(similarity, chance of being found) from 0.5 to 1, for tables."""
    at_S = np.arange(0.5, 1.0001, 0.05) if similarities is None else similarities
    return [(round(float(s), 3), float(at.chance(s))) for s in at_S]
