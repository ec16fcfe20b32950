"""Texts as units, in numpy alone: words, and single signs of scripts that put no spaces between words.

A unit is a hash of 64 bits that spacing, case, width and punctuation do not change. It is the same on every machine, in
every process and whatever text stands beside (Python's own `hash` is not).

Shapes: C characters of all texts together, U units, T texts.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

WORD, SIGN, SYMBOL, DIGIT, OPERATOR, SPACE = 1, 2, 4, 8, 16, 32
"""What a character is: part of a word; a unit by itself; a symbol that is one; a digit; a sign of arithmetic; a
blank."""
KIND = 24
"""The kind stands above the folded code of a character, which has 21 bits."""
BATCH = 1 << 17
"""Characters that are worked on at a time: what is made of them stays in the processor's cache."""
MARKUP = "`|~>"
"""Symbols that say how a text is set, and not what it says."""
SIGNS_OF_ARITHMETIC = "+-−±×÷*/=<>≤≥≠^%√"
ODD = 0x9E3779B97F4A7C15
UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x0F00, 0x0FFF),  # Tibetan
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x3007),
    (0x3040, 0x30FF),  # kana
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x323AF),
)
LAST = 0x323B0
"""No letter has a code from here on."""
BLOCK = 256
"""Characters whose kinds are looked up together."""
EVERYDAY = 0x2100
"""Codes below are of scripts with an alphabet, and of punctuation."""


@dataclass(frozen=True)
class Units:
    """`hashes_U` of all texts, one after the other; text t has those from `starts[t]` up to `starts[t + 1]`.
    `numbers_T` tells texts apart whose figures differ."""

    hashes_U: Hashes
    starts: NDArray[np.int64]
    numbers_T: Hashes
    at_U: NDArray[np.int64]
    """Where each begins in the texts laid end to end, with one character between two."""


def of(texts: Sequence[str], *, symbols: bool = True) -> Units:
    """The units of each text. Without `symbols` only words and signs of scripts count."""
    joined = "\n".join(texts)
    codes_C = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)
    marked_C = _table(symbols)[codes_C]
    kinds_C = (marked_C >> np.uint64(KIND)).astype(np.uint8)
    word_C = (kinds_C & WORD).view(np.bool_)
    begins_C = word_C.copy()
    np.greater(word_C[1:], word_C[:-1], out=begins_C[1:])
    begins_C |= (kinds_C & (SIGN | SYMBOL)) != 0
    at_U = np.flatnonzero(begins_C)
    ends_T = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)) + 1)
    starts = np.concatenate([[0], np.searchsorted(at_U, ends_T)])
    folded_C = marked_C & np.uint64((1 << KIND) - 1)
    return Units(mixed(_runs(folded_C, at_U)), starts, _numbers(codes_C, folded_C, kinds_C, ends_T), at_U)


def batches(sizes: Sequence[int]) -> Iterator[slice]:
    """Cuts things of so many characters into runs of about `BATCH` characters, at least one thing in each."""
    first, held = 0, 0
    for i, size in enumerate(sizes):
        if held and held + size > BATCH:
            yield slice(first, i)
            first, held = i, 0
        held += size
    if first < len(sizes):
        yield slice(first, len(sizes))


def mixed(hashes: Hashes) -> Hashes:
    """Every bit of each hash made to hang on all its bits (murmur3's finisher). In place."""
    shift = np.uint64(33)
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        hashes ^= hashes >> shift
        hashes *= np.uint64(factor)
    hashes ^= hashes >> shift
    return hashes


def constants(count: int, salt: int) -> Hashes:
    """So many numbers that look random, the same for ever: drawn by a counter and not by a library's generator."""
    counted = np.arange(1, count + 1, dtype=np.uint64) + np.uint64(salt << 32)
    return mixed(counted * np.uint64(ODD))


def _runs(values: Hashes, at: NDArray[np.int64]) -> Hashes:
    """A hash of the values from each place in `at` up to the next, wherever in the array they stand."""
    powers, inverses = _powers(_enough(len(values)))
    sums = np.zeros(len(values) + 1, np.uint64)
    np.cumsum(values * powers[: len(values)], out=sums[1:])
    until = np.append(at[1:], len(values))
    return (sums[until] - sums[at]) * inverses[at]


def windows(values: Hashes, width: int) -> Hashes:
    """A hash of every `width` values that follow one another, from each place on where there are so many."""
    powers, inverses = _powers(_enough(len(values)))
    sums = np.zeros(len(values) + 1, np.uint64)
    np.cumsum(values * powers[: len(values)], out=sums[1:])
    return (sums[width:] - sums[:-width]) * inverses[: max(len(values) - width + 1, 0)]


def _numbers(
    codes_C: NDArray[np.uint32], folded_C: Hashes, kinds_C: NDArray[np.uint8], ends_T: NDArray[np.int64]
) -> Hashes:
    """A hash of each text's figures in their order, with the signs of arithmetic before them; 0 where it has none.

    Sums that differ in a figure or a sign share nearly all their words and are yet two sums.
    """
    digit_C = kinds_C & DIGIT != 0
    ahead_C = np.zeros(len(digit_C) + 2, np.bool_)
    ahead_C[:-2] = digit_C
    blank_C = np.append(kinds_C[1:] & SPACE != 0, False) if len(digit_C) else digit_C
    sign_C = (kinds_C & OPERATOR != 0) & (ahead_C[1:-1] | (blank_C & ahead_C[2:] & _within_line(codes_C, kinds_C)))
    at = np.flatnonzero(digit_C | sign_C)
    values = np.where(digit_C[at], folded_C[at], codes_C[at])
    values[np.flatnonzero(np.diff(at, prepend=-2) > 1)] += np.uint64(1 << 40)  # "1 2" is not "12"
    starts = np.concatenate([[0], np.searchsorted(at, ends_T)])
    powers, inverses = _powers(_enough(len(values)))
    sums = np.zeros(len(values) + 1, np.uint64)
    np.cumsum(values * powers[: len(values)], out=sums[1:])
    return mixed((sums[starts[1:]] - sums[starts[:-1]]) * inverses[starts[:-1]])


def _within_line(codes_C: NDArray[np.uint32], kinds_C: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Whether something stands before each character, at most a blank away: else a dash is the mark of an item."""
    says_C = kinds_C & SPACE == 0
    within_C = np.zeros(len(says_C), np.bool_)
    within_C[1:] = says_C[:-1]
    within_C[2:] |= ~says_C[1:-1] & (codes_C[1:-1] != ord("\n")) & says_C[:-2]
    return within_C


def _enough(length: int) -> int:
    return 1 << max(length, BATCH * 2).bit_length()


@cache
def _powers(length: int) -> tuple[Hashes, Hashes]:
    """The powers of an odd number modulo 2^64, and their inverses."""
    return tuple(  # type: ignore[return-value]
        np.cumprod(np.concatenate([np.ones(1, np.uint64), np.full(length, base, np.uint64)]), dtype=np.uint64)
        for base in (ODD, pow(ODD, -1, 1 << 64))
    )


@dataclass
class _Table:
    """For each character its kind, and above 0 the code that stands for it in units. From `EVERYDAY` on it is filled
    block by block, when a text has a character of the block: all of Unicode would keep every process waiting."""

    symbols: bool
    made: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0x110000 // BLOCK, np.bool_))
    entries: Hashes = field(default_factory=lambda: np.zeros(0x110000, np.uint64))

    def __post_init__(self) -> None:
        for block in range(EVERYDAY // BLOCK):
            self._make(block)

    def __getitem__(self, codes_C: NDArray[np.uint32]) -> Hashes:
        if codes_C.max(initial=0) >= EVERYDAY:
            blocks_C = codes_C // np.uint32(BLOCK)
            for block in np.unique(blocks_C[~self.made[blocks_C]]).tolist():
                self._make(block)
        return self.entries[codes_C]

    def _make(self, block: int) -> None:
        codes = range(block * BLOCK, min((block + 1) * BLOCK, LAST))
        for code in codes:
            entry = _entry(chr(code))
            if entry & WORD << KIND and any(first <= code <= last for first, last in UNSPACED):
                entry ^= (WORD | SIGN) << KIND
            if entry & SYMBOL << KIND and not self.symbols:
                entry = 0
            self.entries[code] = entry
        self.made[block] = True


_table = cache(_Table)


def _entry(sign: str) -> int:
    category = unicodedata.category(sign)
    if category == "Cn":
        return 0
    kind = OPERATOR if sign in SIGNS_OF_ARITHMETIC else 0
    if sign.isspace():
        return SPACE << KIND
    if category[0] == "N" and (value := unicodedata.digit(sign, None)) is not None:
        return ord("0") + value | (WORD | DIGIT) << KIND
    if category[0] in "LNM":
        folded: Any = unicodedata.normalize("NFKC", sign).casefold()
        return ord(folded if len(folded) == 1 else sign) | WORD << KIND
    if (category[0] == "S" and sign not in MARKUP) or sign in "%&@/\\":
        return ord(sign) | (SYMBOL | kind) << KIND
    return kind << KIND
