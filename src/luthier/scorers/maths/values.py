"""What a final answer is worth, where that can be read without algebra: a number with its unit, or several of them.

Everything here takes text in one spelling (`spelling.plain`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from luthier.scorers.maths.units import SCALES, UNITS, WORDS

LONGEST = 400
"""Digits of a number, and the largest power of ten, beyond which nothing is computed."""

_WHOLE = r"(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d+)"
_DECIMAL = rf"(?:{_WHOLE}(?:\.\d*)?|\.\d+)"
_POWER = r"(?:[eE](?P<e>[+-]?\d+)|\s*(?:\\times|\\cdot|\*|x)\s*10\s*(?:\^\s*\{?\s*(?P<ten>[+-]?\s*\d+)\s*\}?))"
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?)\s*(?P<money>\$?)\s*(?P<inner>[+-]?)\s*(?:"
    rf"(?:(?P<whole>\d+)\s*(?:\+\s*|\s+)?)?\\frac\s*\{{\s*(?P<top>-?\s*{_DECIMAL})\s*\}}\s*\{{\s*(?P<below>{_DECIMAL})\s*\}}"
    rf"|(?:(?P<mixed>\d+)(?:\s+|\s*-\s*))?(?P<over>{_DECIMAL})\s*/\s*(?P<under>{_DECIMAL})"
    rf"|(?P<repeated>\d*\.\d*)\\overline\s*\{{(?P<period>\d+)\}}"
    rf"|(?P<decimal>{_DECIMAL}){_POWER}?"
    rf"|10\s*\^\s*\{{?\s*(?P<alone>[+-]?\d+)\s*\}}?"
    r")(?P<rest>.*)",
    re.DOTALL,
)
_REST = re.compile(
    r"(?:\s*(?P<scale>hundred|thousand|million|billion|trillion)\b)?(?:\s*(?P<percent>%|per ?cent\b))?(?P<unit>.*)",
    re.IGNORECASE | re.DOTALL,
)
_UNIT = re.compile(r"(?:[^\W\d_]|['/.\-()^{}² ]|(?<=\^)\d|(?<=\^\{)\d)*")
_NO_UNIT = re.compile(
    r"\b(?:or|and|not|nor|but|pi|sqrt|sin|cos|tan|log|ln|exp|mod)\b|(?<![\w'/.])[b-z](?![\w'.])|/\s*$", re.IGNORECASE
)
"""What makes more of the words behind a number than its unit: another answer, a function, a variable."""
_NAMED = re.compile(r"([A-Za-z](?:_\{?\w+\}?)?(?:\([a-z]\))?)\s*=\s*(.+)", re.DOTALL)
_WITHIN = re.compile(r"[A-Za-z]\s*\\in\s*(.+)", re.DOTALL)
_PAIRS = {"(": ")]", "[": ")]", "⦃": "⦄", "{": "}"}


@dataclass(frozen=True)
class Number:
    """A rational number. `digits`: how many it was written with behind the point; None where it is no decimal."""

    value: Fraction | None
    """None: too large to be computed with, and equal to nothing."""
    digits: int | None = None
    percent: bool = False
    unit: str = ""
    quotient: bool = False
    """Written as one number over another."""

    @property
    def exact(self) -> bool:
        """Could it be written as a decimal that ends?"""
        below = 1 if self.value is None else self.value.denominator
        for prime in (2, 5):
            while below % prime == 0:
                below //= prime
        return below == 1


@dataclass(frozen=True)
class Several:
    """More than one answer: solutions or a set (in any order), or a tuple or an interval (in theirs)."""

    kind: Literal["list", "set", "tuple"]
    items: tuple[str, ...]
    ends: str = "()"
    """The brackets of a tuple or interval: (1, 2] is not [1, 2]."""


def number(text: str) -> Number | None:
    """A number that stands alone, with a unit or without; None for anything else."""
    word, _, behind = text.partition(" ")
    if word.casefold() in WORDS:
        unit = _unit(f" {behind}")
        return None if unit is None else Number(Fraction(WORDS[word.casefold()]), unit=unit)
    found = _NUMBER.fullmatch(text)
    if found is None or (found["sign"] and found["inner"]):
        return None
    rest = _REST.fullmatch(found["rest"])
    if rest is None:
        return None
    unit = _unit(rest["unit"])
    if unit is None:
        return None
    value, digits = _value(found)
    if value is not None and rest["scale"]:
        value, digits = value * SCALES[rest["scale"].casefold()], None
    if value is not None and "-" in (found["sign"], found["inner"]):
        value = -value
    quotient = bool(found["top"] or found["over"])
    return Number(value, digits, bool(rest["percent"]), unit or ("$" if found["money"] else ""), quotient)


def _unit(rest: str) -> str | None:
    """What is said behind a number as its unit; None where it is more than that (another number, a variable)."""
    bare = rest.strip(" .,;:")
    apart = rest[:1] in (" ", "-", "/")  # 5x is no 5; 5 apples, 5-foot and 5/day are
    if not bare or (bare in UNITS and (apart or len(bare) > 1)):
        return bare
    return bare if apart and _UNIT.fullmatch(bare) and not _NO_UNIT.search(bare) else None


def _value(found: re.Match[str]) -> tuple[Fraction | None, int | None]:
    """The number as a fraction, and how many digits of it stand behind the point."""
    if any(len(part) > LONGEST for part in found.groupdict().values() if part and part != found["rest"]):
        return None, None
    if found["top"]:
        return _over(found["whole"], found["top"], found["below"])
    if found["over"]:
        return _over(found["mixed"], found["over"], found["under"])
    if found["period"]:
        whole, _, behind = found["repeated"].partition(".")
        shift, period = 10 ** len(behind), found["period"]
        return Fraction(int(whole + behind or "0"), shift) + Fraction(
            int(period), (10 ** len(period) - 1) * shift
        ), None
    if found["alone"]:
        power = int(found["alone"])
        return (Fraction(10) ** power, None) if abs(power) <= LONGEST else (None, None)
    written = _bare(found["decimal"])
    power = int((found["e"] or found["ten"] or "0").replace(" ", ""))
    if abs(power) > LONGEST:
        return None, None
    return Fraction(written) * Fraction(10) ** power, max(len(written.partition(".")[2]) - power, 0) or None


def _over(whole: str | None, top: str, below: str) -> tuple[Fraction | None, int | None]:
    under = Fraction(_bare(below))
    if under == 0:
        return None, None
    part = Fraction(_bare(top)) / under
    return part + int(whole or 0), None


def _bare(written: str) -> str:
    return written.replace(",", "").replace(" ", "").rstrip(".") or "0"


def several(text: str) -> Several | None:
    """More than one answer, each as it is written; None where the text is one."""
    text = named(text)[1]
    opening, closing = text[:1], text[-1:]
    if opening in _PAIRS and closing in _PAIRS[opening] and _closes(text) == len(text) - 1:
        inner = text[1:-1].strip()
        items = _split(inner, words=False)
        if opening in "⦃{":
            return Several("set", _apart(items)) if inner else None
        return Several("tuple", items, opening + closing) if len(items) > 1 else None
    items = _split(text, words=True)
    if len(items) < 2 or number(text) is not None:
        return None
    names = [named(item)[0] for item in items]
    if all(names) and len(set(names)) == len(names):  # x = 1, y = 2: whichever is told first
        return Several("tuple", tuple(named(item)[1] for _, item in sorted(zip(names, items, strict=True))))
    return Several("list", _apart(tuple(named(item)[1] for item in items)))


def named(text: str) -> tuple[str, str]:
    """`x = 5` as x and 5, `x ∈ [1, 2]` as its right side; what has no name has the empty one."""
    found = _NAMED.fullmatch(text)
    if found is not None and "=" not in found[2]:
        return found[1], found[2].strip()
    within = _WITHIN.fullmatch(text)
    return ("", within[1].strip()) if within is not None else ("", text)


def _apart(items: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(items))


def _closes(text: str) -> int:
    """The place of the bracket that closes the first one; -1 where none does."""
    depth = 0
    for place, char in enumerate(text):
        depth += (char in "([⦃{") - (char in ")]⦄}")
        if depth == 0:
            return place
    return -1


_SPACED = re.compile(r",\s")
_WORD = re.compile(r"\s(?:and|or)\s", re.IGNORECASE)


def _split(text: str, words: bool) -> tuple[str, ...]:
    """The parts between commas that stand in no brackets. 1,000 has no parts, unless brackets are around it."""
    apart = bool(_SPACED.search(text)) or words
    items, depth, start, place = [], 0, 0, 0
    while place < len(text):
        char = text[place]
        depth += (char in "([⦃{") - (char in ")]⦄}")
        ends = 0
        if depth == 0 and char in ",;" and not (char == "," and apart and _groups_digits(text, place)):
            ends = 1
        elif depth == 0 and words and char == " ":
            between = _WORD.match(text, place)
            ends = len(between[0]) if between else 0
        if ends:
            items.append(text[start:place].strip())
            start = place = place + ends
        else:
            place += 1
    items.append(text[start:].strip())
    return tuple(item for item in items if item)


def _groups_digits(text: str, place: int) -> bool:
    return place > 0 and text[place - 1].isdigit() and re.match(r",\d{3}(?!\d)", text[place : place + 5]) is not None
