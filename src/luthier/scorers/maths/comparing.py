"""Is this answer that one? Numbers, lists, sets, tuples and words here; what needs algebra is asked of `ask`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fractions import Fraction

from luthier.scorers.maths.spelling import plain
from luthier.scorers.maths.units import UNITS
from luthier.scorers.maths.values import Number, Several, named, number, several

Ask = Callable[[str, str], bool | None]
"""Are two expressions equal? None: it cannot be said."""

LONGEST = 1000
"""Characters by which no answer is longer than what is expected."""
MOST = 50
"""Parts of a list or a set."""
DIGITS = 3
"""A decimal stands for what has none that ends (1/3) from so many digits on."""

_PROSE = re.compile(r"(?<![\\A-Za-z])(?!sqrt|sin|cos|tan|log|exp|mod|inf|[pbvBV]?matrix|cases|array)[A-Za-z]{3,}")
_ALGEBRA = re.compile(r"[-\\^_=<>+*/|\d]")
_ONLY_NUMBER = re.compile(r"(?<![\w.])-?\s?\$?\s?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:\s?/\s?\d+)?\s?%?")
_LEFT_TO_DO = re.compile(r"(?<=[\d)}%])\s*(?:[-+*/÷]|\\times|\\cdot|\\div|x)\s*(?=[\d($])")
_VARIABLE = re.compile(r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])")


def same(expected: str, found: str, ask: Ask) -> bool | None:
    """Does `found` say what `expected` says? None where only algebra could tell and `ask` could not."""
    if len(found) > len(expected) + LONGEST:
        return False
    expected, found = plain(expected), plain(found)
    if "=" not in named(expected)[1]:
        found = _last_side(found)
    return _same(expected, found, ask)


def _last_side(found: str) -> str:
    """`48 + 24 = 72` says 72; `x = 5`, several of them and inequalities stay as they are."""
    if named(found)[0] or several(found) is not None or re.search(r"[<>!]|\\(?:le|ge|ne)\b", found):
        return found
    return found.rpartition("=")[2].strip()


def _same(expected: str, found: str, ask: Ask) -> bool | None:
    if not found:
        return False
    if expected.casefold() == found.casefold():
        return True
    left, right = _read(expected), _read(found)
    if isinstance(left, Number) and right is None:
        right = _number_in_words(found)
    if isinstance(left, Number) and isinstance(right, Number):
        return _same_number(left, right)
    if isinstance(left, Several) and isinstance(right, Several):
        return _same_parts(left, right, ask)
    if isinstance(left, Number) and (isinstance(right, Several) or _unworked(found)):
        return False
    if not _is_algebra(expected) or not _is_algebra(found):
        return _bare_words(expected) == _bare_words(found) != ""
    return ask(_asked(expected), _asked(found))


def _asked(text: str) -> str:
    """An expression as algebra is to read it."""
    return _without_unit(named(text)[1]).replace("⦃", r"\{").replace("⦄", r"\}")


def _read(text: str) -> Number | Several | None:
    """A number or several answers; brackets around one alone say nothing."""
    text = named(text)[1]
    found = number(text)
    if found is not None:
        return found
    parts = several(text)
    if parts is not None and len(parts.items) == 1:
        return _read(parts.items[0])
    if parts is None and text[:1] == "(" and text[-1:] == ")" and len(text) > 2:
        return number(text[1:-1].strip())
    return parts


def _number_in_words(text: str) -> Number | None:
    """The number of a sentence that has just one: "she makes $18 a day". Two could be two answers."""
    if "\\" in text or "^" in text or not _PROSE.search(text):
        return None
    found = _ONLY_NUMBER.findall(text)
    return number(found[0].strip()) if len(found) == 1 and len(re.findall(r"\d[\d.,/ ]*", text)) == 1 else None


def _same_number(expected: Number, found: Number) -> bool:
    if expected.value is None or found.value is None:
        return False
    if found.quotient and not expected.quotient and found.value.denominator == 1:
        return False  # 144/2 leaves the dividing to the reader; 2/4 for 1/2 is a matter of taste
    factor = _conversion(expected.unit, found.unit)
    if factor is None:
        return False
    value = found.value * factor
    if _rounded(expected.value, expected, value, found):
        return True
    if expected.percent == found.percent:
        return False
    # 20 % is .2, and "20" where the question asked how many per cent
    hundredth = Fraction(1, 100)
    return (value * hundredth if found.percent else value) == (
        expected.value * hundredth if expected.percent else expected.value
    )


def _conversion(expected: str, found: str) -> Fraction | None:
    """What the found number is to be multiplied by; None where its unit measures something else."""
    if expected not in UNITS or found not in UNITS:
        return Fraction(1)
    (kind, size), (other, by) = UNITS[expected], UNITS[found]
    return by / size if kind == other else None


def _rounded(one: Fraction, written: Number, other: Fraction, spelt: Number) -> bool:
    """Are they equal, or is one the decimal that the other, which has none that ends, rounds to?"""
    if one == other:
        return True
    for decimal, number_of, true, of in ((one, written, other, spelt), (other, spelt, one, written)):
        digits = number_of.digits
        if digits is not None and not of.exact and len(str(abs(decimal * 10**digits))) >= DIGITS:
            return abs(decimal - true) * 2 <= Fraction(1, 10**digits)
    return False


def _same_parts(expected: Several, found: Several, ask: Ask) -> bool | None:
    ordered = "tuple" in (expected.kind, found.kind)
    if {expected.kind, found.kind} == {"set", "tuple"} or len(expected.items) != len(found.items):
        return False
    if expected.kind == found.kind and expected.ends != found.ends:
        return False
    if len(expected.items) > MOST:
        return False
    if ordered:
        return _all([_same(one, other, ask) for one, other in zip(expected.items, found.items, strict=True)])
    left, sure = list(found.items), True
    for item in expected.items:
        told = [_same(item, other, ask) for other in left]
        if True in told:
            del left[told.index(True)]
        elif None in told:
            sure = False
        else:
            return False
    return True if sure else None


def _all(told: Sequence[bool | None]) -> bool | None:
    if False in told:
        return False
    return None if None in told else True


def _unworked(found: str) -> bool:
    """Is it a sum, a product or a quotient of plain numbers, left to the reader?"""
    return (
        _LEFT_TO_DO.search(found) is not None
        and not _VARIABLE.search(found)
        and "\\" not in re.sub(r"\\(?:times|cdot|div)", "", found)
    )


def _is_algebra(text: str) -> bool:
    """Could algebra read it: signs or digits, or a single letter, and no prose?"""
    if _PROSE.search(_without_unit(text)):
        return False
    return bool(_ALGEBRA.search(text)) or len(text) == 1


def _without_unit(text: str) -> str:
    """An expression without the words behind it: `5\\sqrt{2} cm`."""
    head, _, unit = text.rpartition(" ")
    while head and ((unit in UNITS and len(unit) > 1) or (_PROSE.fullmatch(unit) and head[-1:] not in "+-*/=^")):
        text = head.rstrip()
        head, _, unit = text.rpartition(" ")
    return text


def _bare_words(text: str) -> str:
    """The words of an answer without its punctuation: `(C).` is C. Nothing where it has signs of mathematics."""
    return "" if _ALGEBRA.search(text) else " ".join(re.sub(r"[^\w\s]", " ", text.casefold()).split())
