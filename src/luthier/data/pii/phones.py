"""Telephone numbers: those whose form says so in some country, and those that a word near says to be one."""

from __future__ import annotations

import re
from collections.abc import Iterator

from luthier.data.pii import context
from luthier.data.pii.found import Found
from luthier.data.pii.lengths import country_code

_BEFORE, _BEHIND = r"(?<![A-Za-z0-9_.+/#$€£¥=-])(?<!\d[ ,])", r"(?![A-Za-z0-9_]|[-./]\d|,\d| ?[%°])"
_EXTENSION = r"(?:[ ,]{0,2}(?:x|ext\.?|extension|#|转|分机)[ .]?\d{1,6})?"

_INTERNATIONAL = re.compile(
    r"(?<![A-Za-z0-9_.+/#$=-])(?:\(\+\d{1,3}\)|\+(?:\d{1,3}| \d{1,3}(?=[ .(-]))|00\d{1,3}(?=[ .(-]"
    r"|\d{8}))(?:[ .-]?\(0?\d{1,4}\)|[ .-]?\(?\d{1,5}\)?)(?:[ ./-]?\d{1,8}){1,5}"
    + _EXTENSION
    + r"(?![A-Za-z0-9_]|\.\d)"
)
_NATIONAL = {
    "us": r"(?:1[ .-])?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}[ .-])\d{3}[.-]\d{4}|[2-9]\d{2} [2-9]\d{2} \d{4}"
    r"|\d{3}-\d{3}-\d{4}",
    "cn": r"1[3-9]\d(?:\d{8}|[ -]\d{4}[ -]\d{4})|\(?0(?:10|2\d|[3-9]\d{2})\)?[ -]?[2-8]\d{6,7}|(?:400"
    r"|800)-\d{3}-\d{4}|400-\d{4}-\d{3}",
    "gb": r"\(?0[12378]\d{2,4}\)? \d{3,4} \d{3,4}|\(?0[12378]\d{3,4}\)? \d{5,6}|07\d{9}|0[12]\d{8,9}",
    "fr": r"0[1-9](?:([ .-])\d{2}\1\d{2}\1\d{2}\1\d{2}|\d{8})",
    "de": r"\(?0[1-9]\d{1,4}\)?[ /-]{1,3}\d{3,5}(?:[ -]?\d{2,5}){0,2}|01[5-7]\d{8,9}",
    "": r"\(\d{2,5}\) ?\d{3,4}[ -]\d{3,4}|0\d{1,3}(?:([ -])\d{2,4}\1\d{2,4}|(?:[ -]\d{2,4}){3})|\d{2} \d{4} "
    r"\d{4}(?= ?(?:\n|$))|[6-9]\d{4} \d{5}",
}
"""What is written so is a telephone number in that country, without more; "" is several countries'."""
_PATTERNS = {region: re.compile(f"{_BEFORE}(?:{forms}){_EXTENSION}{_BEHIND}") for region, forms in _NATIONAL.items()}
_NEAR = re.compile(
    r"(?<![A-Za-z0-9_.$€£¥/])(?<!\d[:.-])\+?\(?\d{1,15}+(?:(?:[ .\-/]|\)[ .-]?|[ .-]\(| [-/] )\d{1,12}+){0,7}+"
    + _EXTENSION
    + r"(?![A-Za-z0-9_]|[,.]\d|%| ?(?:dollars|people|元))"
)
_DATE = re.compile(
    r"(?:(?:18|19|20)\d{2}[-./ ](?:0?[1-9]|1[0-2])(?:[-./ ]\d{1,2}.*)?|\d{1,2}([-./])\d{1,2}\1(?:\d{2}|\d{4})"
    r"|(?:18|19|20)\d{2} ?[-–] ?(?:18|19|20)\d{2})\Z"
)
_REACH = 44
"""A word for a telephone speaks for a number that begins so many characters behind it."""


def phones(text: str, low: str, regions: frozenset[str] | None) -> Iterator[Found]:
    """Numbers as these regions write them (None: all), international ones, and those near a word for a telephone.
    `low`: the text in small letters."""
    for found in _INTERNATIONAL.finditer(text):
        if _possible(found[0]) and not context.of_a_thing(low, found.start()):
            yield _whole(text, found.start(), found.end())
    for region, pattern in _PATTERNS.items():
        if regions is None or not region or region in regions:
            for found in pattern.finditer(text):
                if not _DATE.match(found[0]) and not _binary(found[0]) and not context.of_a_thing(low, found.start()):
                    yield _whole(text, found.start(), found.end())
    yield from _said(text, low)


def _said(text: str, low: str) -> Iterator[Found]:
    """Numbers behind a word for a telephone, a few words apart, and before one."""
    words = context.phone_words(low)
    reach = 0
    for _, end in words:
        for found in _NEAR.finditer(text, max(end, reach), min(len(text), end + 2 * _REACH)):
            if found.start() > end + _REACH:
                break
            reach = found.end()
            if _national(found[0]) and not context.of_a_thing(low, found.start()):
                yield _whole(text, found.start(), found.end())
    if words:
        for found in _NEAR.finditer(text):
            if context.phone_behind(low, found.end()) and _national(found[0]):
                yield _whole(text, found.start(), found.end())


def _whole(text: str, start: int, end: int) -> Found:
    """Without the bracket that is opened or closed for more than the number."""
    written = text[start:end]
    if written.startswith("(") and ")" not in written:
        start += 1
    return Found(start, start + len(text[start:end].rstrip(" .-(/")), "phone", "phone")


def _possible(written: str) -> bool:
    digits = _digits(written)
    if digits.startswith("00"):
        digits = digits[2:]
    return 8 <= len(digits) <= 15 and digits[0] != "0"


def _national(written: str) -> bool:
    digits = _digits(written)
    groups = re.findall(r"\d+", written)
    return (
        7 <= len(digits) <= 15
        and len(set(digits)) > 1
        and not _DATE.match(written.strip("() "))
        and not re.fullmatch(r"\d+\.\d+", written)  # a decimal
        and sum(len(group) == 1 for group in groups) < 3  # 1 2 3 4 counts
        and not written.count("(") > 1
    )


def _digits(written: str) -> str:
    return re.sub(r"\D", "", re.split(r"(?i)[ ,]*(?:x|ext|#|转|分机)", written, maxsplit=1)[0])


def canonical(written: str) -> str:
    """The number that three spellings share: no signs between, no country code, no zero of a trunk, no extension."""
    digits = _digits(written)
    if written.lstrip("( ").startswith("+") or digits.startswith("00"):
        digits = digits.removeprefix("00")
        digits = digits[len(country_code(digits)) :]
    elif len(digits) == 11 and digits[0] == "1" and re.match(r"1[ .(-]", written):
        digits = digits[1:]
    return digits.lstrip("0")


def _binary(written: str) -> bool:
    return set(_digits(written)) <= {"0", "1"}
