"""Rows as sets of shingles: what near-duplicates are told by.

A shingle is `SPAN` units in a row (units.py): three words, or three signs of Chinese. Shingles of the prompt and of
each answer are told apart, so that "both count" is exact: two rows are as alike as the less alike of *all their
shingles* and *the shingles of their answers*. The same question with another answer is another row, however long the
question is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from luthier.data.duplicates import units
from luthier.data.duplicates.units import Hashes

SPAN = 3
ANSWER = 1
"""The lowest bit of a shingle: whether it is an answer's."""


class Text(NamedTuple):
    """What a row says. `apart` is whatever must be equal in two rows for them to be duplicates at all, a label for
    one."""

    prompt: str
    answers: tuple[str, ...] = ()
    apart: str = ""

    @property
    def size(self) -> int:
        """Characters."""
        return len(self.prompt) + sum(map(len, self.answers))


@dataclass(frozen=True)
class Shingles:
    """Of N rows. Row n has `hashes[starts[n] : starts[n + 1]]`, its answers' from `answers[n]` on; at least one of
    each. Rows whose `numbers` differ are no duplicates: their figures, or what must be equal, differ."""

    hashes: NDArray[np.uint32]
    starts: NDArray[np.int64]
    answers: NDArray[np.int64]
    numbers: Hashes
    identity: Hashes
    """Rows of one identity have the same shingles, each as often, and the same numbers."""


def of(texts: Sequence[Text]) -> Shingles:
    """The shingles of each row in the order of the text, repeated ones too."""
    parts: list[str] = []
    tags: list[int] = []
    firsts = [0]
    for text in texts:
        prompt, answers = (text.prompt, text.answers) if text.answers else ("", (text.prompt,))
        parts.append(prompt)
        parts.extend(answers)
        tags.extend(range(len(answers) + 1))
        firsts.append(len(parts))
    found = units.of(parts)
    first_N, tags_P = np.array(firsts), np.array(tags)
    hashes, starts_P = _windows(found, _salts(int(tags_P.max(initial=0)) + 1)[tags_P])
    _fill_empty(parts, found, hashes, starts_P)
    small = (hashes >> np.uint64(32)).astype(np.uint32)
    answer_P = (tags_P > 0).astype(np.uint32)
    small = small & np.uint32(0xFFFFFFFE) | np.repeat(answer_P, np.diff(starts_P))
    starts = starts_P[first_N]
    numbers_N = _numbers(texts, found.numbers_T, first_N)
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(hashes)])
    identity = units.mixed(sums[starts[1:]] - sums[starts[:-1]] + numbers_N)
    return Shingles(small, starts, starts_P[first_N[:-1] + 1], numbers_N, identity)


def _salts(count: int) -> Hashes:
    return units.constants(count, salt=3)


def _windows(found: units.Units, salts_P: Hashes) -> tuple[Hashes, NDArray[np.int64]]:
    """Every SPAN units of each part; of a part with fewer, all of them; of one without any, a place to be filled."""
    counts_P = np.diff(found.starts)
    made_P = np.maximum(counts_P - (SPAN - 1), 1)
    starts_P = np.concatenate([[0], np.cumsum(made_P)])
    factors = units.constants(SPAN, salt=5) | np.uint64(1)
    padded = np.concatenate([found.hashes_U, np.zeros(SPAN, np.uint64)])
    whole_U = padded[:-SPAN] * factors[0]
    for i in range(1, SPAN):
        whole_U += padded[i : len(whole_U) + i] * factors[i]
    at = np.arange(starts_P[-1]) + np.repeat(found.starts[:-1] - starts_P[:-1], made_P)
    hashes = np.append(whole_U, np.uint64(0))[at]
    for p in np.flatnonzero(counts_P < SPAN):  # what follows it belongs to another part
        own = found.hashes_U[found.starts[p] : found.starts[p + 1]]
        hashes[starts_P[p]] = (own * factors[: len(own)]).sum(dtype=np.uint64)
    hashes += np.repeat(salts_P, made_P)
    return units.mixed(hashes), starts_P


def _fill_empty(parts: Sequence[str], found: units.Units, hashes: Hashes, starts_P: NDArray[np.int64]) -> None:
    """A part without any unit ("?!", "…") is told by its characters: no two texts share an empty set."""
    for p in np.flatnonzero(np.diff(found.starts) == 0).tolist():
        hashes[starts_P[p]] ^= np.uint64(_digest(parts[p].strip()))


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _numbers(texts: Sequence[Text], numbers_P: Hashes, first_N: NDArray[np.int64]) -> Hashes:
    within = np.arange(len(numbers_P)) - np.repeat(first_N[:-1], np.diff(first_N))
    factors = units.constants(int(within.max(initial=0)) + 1, salt=7) | np.uint64(1)
    sums = np.concatenate([[np.uint64(0)], np.cumsum(numbers_P * factors[within])])
    numbers_N = units.mixed(sums[first_N[1:]] - sums[first_N[:-1]])
    for n, text in enumerate(texts):
        if text.apart:
            numbers_N[n] ^= np.uint64(_digest(text.apart))
    return numbers_N
