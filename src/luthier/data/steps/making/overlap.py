"""How much two texts have in common, whatever script they are in: ROUGE-L over words, in Chinese and Japanese over
signs."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from luthier.data.steps.said import WORD


def units(text: str) -> list[str]:
    """The words of a text in lower case; of scripts without spaces the single signs. A text of marks alone (an emoji,
    an operator) has those."""
    lowered = unicodedata.normalize("NFC", text).lower()
    return WORD.findall(lowered) or lowered.split()


def is_han(char: str) -> bool:
    """Is it a Chinese sign?"""
    return "\u3400" <= char <= "\u9fff" or "\uf900" <= char <= "\ufaff" or char >= "\U00020000"


def common(a: Sequence[str], b: Sequence[str]) -> int:
    """The length of the longest sequence of units that both have in this order.

    Bit-parallel (Hyyrö 2004): the row of the table is one number, so that a pool of thousands is gone through fast.
    """
    places: dict[str, int] = {}
    for index, unit in enumerate(a):
        places[unit] = places.get(unit, 0) | 1 << index
    full = (1 << len(a)) - 1
    row = full
    for unit in b:
        here = row & places.get(unit, 0)
        row = ((row + here) | (row - here)) & full
    return len(a) - row.bit_count()


def rouge_l(a: Sequence[str], b: Sequence[str]) -> float:
    """ROUGE-L's F1 of two texts in units; 1 of a text with itself, 0 where one is empty."""
    return 2 * common(a, b) / (len(a) + len(b)) if a and b else 0.0


def alike(unit: Sequence[str], pool: Sequence[Sequence[str]], limit: float) -> int | None:
    """The place of the first of the pool that is at least so like it. What cannot be, by length alone, is not
    compared."""
    for place, other in enumerate(pool):
        shorter = min(len(unit), len(other))
        if 2 * shorter >= limit * (len(unit) + len(other)) and rouge_l(unit, other) >= limit:
            return place
    return None


def numbers(text: str) -> list[str]:
    """The runs of digits in it, sorted: what a text says in other words has the same."""
    found, run = [], ""
    for char in [*unicodedata.normalize("NFKC", text), " "]:
        if char.isdecimal():
            run += str(unicodedata.decimal(char))
        elif run:
            found.append(run)
            run = ""
    return sorted(found)


__all__ = ["alike", "common", "is_han", "numbers", "rouge_l", "units"]
