"""Texts that repeat themselves: lines, paragraphs and n-grams (Gopher, arXiv:2112.11446, table A1; C4).

The thresholds of the paper are for whole web pages; answers are shorter and have refrains and lists, so ours are wider.

Words are the units, and in Chinese and Japanese single signs. A share of characters counts every place but the first.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from luthier.data.cleaning.regions import prose

Share = Annotated[float, Field(gt=0, le=1)]

_UNITS = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff]|[^\W_\u2e80-\u9fff\uf900-\ufaff]+(?:['’][^\W\d_]+)?")
_UNSPACED = re.compile("[\u2e80-\u9fff\uf900-\ufaff]")
_RUN = re.compile(r"(?![-=_.*~|+#])(\S{1,20}?)\1{19,}+")


OFTEN = 3
"""What came twice or three times is no habit yet: so many places beside the first count."""


@dataclass(frozen=True)
class Repetition:
    """How much of a text may be a repetition. A share of 1 turns its rule off."""

    lines: Share = 0.5
    """Of the lines (from four lines on), so many repeat an earlier one."""
    paragraphs: Share = 0.5
    """Of the paragraphs (from four on), so many repeat an earlier one."""
    top_2: Share = 0.3
    """Of the characters, those in the commonest two words in a row."""
    top_3: Share = 0.3
    """In the commonest three."""
    top_4: Share = 0.3
    """In the commonest four."""
    again_5: Share = 0.3
    """Of the characters, those in five words in a row that stood before."""
    again_10: Share = 0.3
    """Those in ten words in a row that stood before."""
    words: Annotated[int, Field(ge=1)] = 40
    """Shorter texts have their lines looked at, and no n-grams: a refrain is most of a short song."""

    def reason(self, text: str) -> tuple[str, str] | None:
        """Why the text repeats itself too much, and how much; None where it does not."""
        found = self._of(text)
        if found is None:
            return None
        said = prose(text)  # code and tables repeat by their nature
        return found if said.strip() == text.strip() else self._of(said)

    def _of(self, text: str) -> tuple[str, str] | None:
        found = self._of_lines(text) if "\n" in text else None
        if found is not None or len(text) < 2 * self.words:
            return found
        return self._of_units(text)

    def _of_lines(self, text: str) -> tuple[str, str] | None:
        for name, cut, most in (("lines", "\n", self.lines), ("paragraphs", "\n\n", self.paragraphs)):
            parts = [part.strip() for part in text.split(cut)] if cut in text else []
            parts = [part for part in parts if len(part) > 2]  # brackets and marks of lists repeat by their nature
            if len(parts) >= 4 and most < 1 and (share := 1 - len(set(parts)) / len(parts)) > most:
                return f"repeats its {name}", f"{share:.0%} of them"
        return None

    def _of_units(self, text: str) -> tuple[str, str] | None:
        units = units_of(text)
        if len(units) < self.words:
            return (
                ("repeats one piece", "20 times in a row and more") if len(text) > 200 and _RUN.search(text) else None
            )
        total, longest = sum(map(len, units)), max(map(len, units))
        rules = (
            (2, self.top_2, _top),
            (3, self.top_3, _top),
            (4, self.top_4, _top),
            (5, self.again_5, _again),
            (10, self.again_10, _again),
        )
        for size, most, measure in rules:
            twice = _twice(units, size)
            if twice < OFTEN:  # then no longer run of words comes more often either
                return None
            if most == 1 or twice * size * longest <= most * total:  # it cannot be as much
                continue
            if (share := measure(units, size, total)) > most:
                return "repeats itself", f"{size} words in a row, {min(share, 1):.0%} of its characters"
        return None


def units_of(text: str) -> list[str]:
    """The words of a text, without punctuation; signs of Chinese and Japanese one by one."""
    if text.isascii():
        return text.split()
    return _UNITS.findall(text) if _UNSPACED.search(text) else text.split()


def _grams(units: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
    return zip(*(units[start:] for start in range(size)), strict=False)


def _twice(units: Sequence[str], size: int) -> int:
    """How many runs of `size` units stood before."""
    return max(0, len(units) - size + 1 - len(set(_grams(units, size))))


def _top(units: Sequence[str], size: int, total: int) -> float:
    """The share of characters in the run of `size` units that comes most often, its first place left out."""
    again = Counter(_grams(units, size))
    return max(((count - 1) * sum(map(len, gram)) for gram, count in again.items() if count > OFTEN), default=0) / total


def _again(units: Sequence[str], size: int, total: int) -> float:
    """The share of characters in runs of `size` units that stood before, each character counted once."""
    seen: set[tuple[str, ...]] = set()
    covered, reach = 0, 0
    for place, gram in enumerate(_grams(units, size)):
        if gram in seen:
            covered += sum(map(len, units[max(place, reach) : place + size]))
            reach = place + size
        seen.add(gram)
    return covered / total
