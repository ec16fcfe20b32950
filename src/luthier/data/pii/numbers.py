"""Numbers with a check: cards, accounts, and the numbers that states give to persons; and papers, by the words near."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from luthier.data.pii import checksums, context
from luthier.data.pii.found import Found
from luthier.data.pii.lengths import IBAN_LENGTHS

_BEFORE, _BEHIND = r"(?<![A-Za-z0-9_.])(?<!\d[-,/])", r"(?![A-Za-z0-9_]|[-./]\d|,\d)"
_CARD = re.compile(
    _BEFORE + r"(?:\d{4}(?P<cut>[ -])\d{4}(?P=cut)\d{4}(?P=cut)(?:\d{4}(?:(?P=cut)\d{1,3})?|\d{1,3})"
    r"|3\d{3}(?P<cut2>[ -])\d{6}(?P=cut2)\d{4,5}|\d{12,19})" + _BEHIND
)
_MORE = re.compile(r"[ -]\d{4}(?!\d)")
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?=(?P<cut>[ -]?))[A-Za-z0-9 -]{11,40}")


def cards(text: str, low: str) -> Iterator[Found]:
    """Groups of four, or none: numbers in a row that happen to pass Luhn's check are no card. Of a company that is not
    known a word near must say that it is one."""
    for found in _CARD.finditer(text):
        start, end = found.span()
        if found["cut"] and (
            _MORE.match(text, end) or re.search(r"(?<!\d)\d{1,4}[ -]$", text[max(0, start - 6) : start])
        ):
            continue  # a longer row of groups
        digits = checksums.compact(found[0])
        known = checksums.card(digits) or (checksums.luhn(digits) and context.says("card", low, start, end))
        if known and len(set(digits)) > 1 and not context.of_a_thing(low, start):
            yield Found(start, end, "card", "card")


def ibans(text: str) -> Iterator[Found]:
    """As long as its country has them, written in groups of four or as one."""
    for found in _IBAN.finditer(text):
        size = IBAN_LENGTHS.get(found[0][:2].upper())
        if size is None:
            continue
        end = _after(text, found.start(), size)
        if end is None or (text[end : end + 1].isascii() and text[end : end + 1].isalnum()):
            continue
        written = text[found.start() : end]
        groups = re.split("[ -]", written)
        if any(len(group) != 4 for group in groups[:-1]) or not checksums.iban(checksums.compact(written)):
            continue
        yield Found(found.start(), end, "iban", "iban")


def _after(text: str, start: int, size: int) -> int | None:
    """Where so many letters and digits end, single blanks and hyphens between them left out."""
    left, at = size, start
    while left:
        if at >= len(text):
            return None
        if text[at].isascii() and text[at].isalnum():
            left -= 1
        elif text[at] not in " -" or text[at - 1] in " -":
            return None
        at += 1
    return at


@dataclass(frozen=True)
class Paper:
    """A number of persons: how it is written, its check, and whether a word near must say what it is."""

    rule: str
    region: str
    pattern: re.Pattern[str]
    check: Callable[[str], bool]
    told: bool = False
    kind: str = "national_id"


WEAK = frozenset({"us_ssn", "polish_pesel"})
"""Rules without a check, or with one that a number of a thing passes often enough."""


def _paper(
    rule: str, region: str, written: str, check: Callable[[str], bool], told: bool = False, kind: str = "national_id"
) -> Paper:
    return Paper(rule, region, re.compile(_BEFORE + written + _BEHIND), check, told, kind)


def _any(value: str) -> bool:
    return len(set(value)) > 1


PAPERS = (
    _paper("chinese_id", "cn", r"[1-9]\d{5}(?:\d{8}|[ -]\d{8}[ -])\d{3}[\dXx]", checksums.chinese_id),
    _paper("old_chinese_id", "cn", r"[1-9]\d{5}\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}", _any, told=True),
    _paper("us_ssn", "us", r"\d{3}-\d{2}-\d{4}", checksums.us_ssn),
    _paper("us_ssn", "us", r"(?:\d{3} \d{2} \d{4}|\d{9})", checksums.us_ssn, told=True),
    _paper("french_nir", "fr", r"[12] ?\d{2} ?\d{2} ?(?:\d{2}|2[AB]) ?\d{3} ?\d{3} ?\d{2}", checksums.french_nir),
    _paper("german_tax_id", "de", r"[1-9]\d(?: ?\d{3}){3}", checksums.german_tax_id, told=True),
    _paper("spanish_id", "es", r"(?:\d{8}|[XYZ]-?\d{7})-?[A-HJ-NP-TV-Z]", checksums.spanish_id),
    _paper("italian_code", "it", r"(?:[A-Z]{3} ?){2}\d{2}[A-EHLMPRST]\d{2} ?[A-Z]\d{3}[A-Z]", checksums.italian_code),
    _paper(
        "dutch_bsn", "nl", r"(?:\d{9}|\d{3}[. ]\d{3}[. ]\d{3}|\d{4}[. ]\d{2}[. ]\d{3})", checksums.dutch_bsn, told=True
    ),
    _paper("polish_pesel", "pl", r"\d{11}", checksums.polish_pesel),
    _paper("swedish_number", "se", r"(?:(?:19|20)\d{6}-?\d{4}|\d{6}[-+]\d{4})", checksums.swedish_number),
    _paper("finnish_number", "fi", r"\d{6}[-+A-FU-Y]\d{3}[0-9A-FHJ-NPR-Y]", checksums.finnish_number),
    _paper("belgian_number", "be", r"\d{2}\.\d{2}\.\d{2}-\d{3}\.\d{2}", checksums.belgian_number),
    _paper("belgian_number", "be", r"\d{11}", checksums.belgian_number, told=True),
    _paper("portuguese_nif", "pt", r"\d{3} ?\d{3} ?\d{3}", checksums.portuguese_nif, told=True),
    _paper("austrian_number", "at", r"\d{4} ?\d{6}", checksums.austrian_number, told=True),
    _paper("irish_pps", "ie", r"\d{7}[A-W][A-IW]?", checksums.irish_pps, told=True),
    _paper("danish_cpr", "dk", r"(?:0[1-9]|[12]\d|3[01])(?:0[1-9]|1[0-2])\d{2}-?\d{4}", _any, told=True),
    _paper("british_nino", "gb", r"[A-Z]{2} ?\d{2} ?\d{2} ?\d{2} ?[A-D]", checksums.british_nino),
    _paper("british_nhs", "gb", r"\d{3} ?\d{3} ?\d{4}", checksums.british_nhs, told=True),
    _paper("brazilian_cpf", "br", r"\d{3}\.\d{3}\.\d{3}-\d{2}", checksums.brazilian_cpf),
    _paper("brazilian_cpf", "br", r"\d{11}", checksums.brazilian_cpf, told=True),
    _paper("aadhaar", "in", r"[2-9]\d{3} ?\d{4} ?\d{4}", checksums.aadhaar, told=True),
    _paper(
        "passport", "", r"(?:[A-Z]{1,2}\d{6,8}|\d{9}|\d{2}[A-Z]{2}\d{5}|[A-Z]\d{2}[A-Z0-9]{6})", _any, True, "passport"
    ),
    _paper(
        "driving_licence",
        "",
        r"(?:[A-Z]{0,3}[- ]?\d{3}[- ]?\d{3,4}[- ]?\d{2,5}[A-Z]{0,2}|[A-Z]\d{7,14})",
        _any,
        True,
        "driving_licence",
    ),
)


def papers(text: str, low: str, regions: frozenset[str] | None) -> Iterator[Found]:
    """Numbers of persons of these regions (None: all). Those whose check lets many others pass need a word near."""
    for paper in PAPERS:
        if (regions is not None and paper.region and paper.region not in regions) or (
            paper.told and not context.told(paper.rule, low)
        ):
            continue
        for found in paper.pattern.finditer(text):
            start, end = found.span()
            if paper.told and not context.says(paper.rule, low, start, end):
                continue
            if paper.rule == "polish_pesel" and context.PHONE.search(low, max(0, start - 16), start):
                continue  # mobile numbers of China have eleven digits, too
            if paper.check(checksums.compact(found[0])) and not (paper.rule in WEAK and context.of_a_thing(low, start)):
                yield Found(start, end, paper.kind, paper.rule)


_CHINESE_PLATE = re.compile(
    "[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼][A-HJ-NP-Z][·• -]?"
    "(?:[A-HJ-NP-Z0-9]{4}[A-HJ-NP-Z0-9挂学警港澳]|[A-HJ-NP-Z0-9]{6})(?![A-Za-z0-9])"
)
_PLATE = re.compile(
    r"(?<![A-Za-z0-9-])(?=[A-Z0-9 -]{5,10}(?![A-Za-z0-9]))(?=[A-Z0-9 -]*\d)(?=[A-Z0-9 -]*[A-Z])"
    r"[A-Z0-9]{1,4}(?:[ -]?[A-Z0-9]{1,4}){1,2}(?![A-Za-z0-9])"
)


def plates(text: str, low: str) -> Iterator[Found]:
    """Of China by their form; of other countries where a word says so."""
    for found in _CHINESE_PLATE.finditer(text) if not text.isascii() else ():
        if any(sign.isdigit() for sign in found[0]):
            yield Found(found.start(), found.end(), "plate", "chinese_plate")
    if any(stem in low for stem in _STEMS):
        for found in _PLATE.finditer(text):
            if context.says("plate", low, found.start(), found.end()):
                yield Found(found.start(), found.end(), "plate", "plate")


_STEMS = ("plate", "registration", "kennzeichen", "immatric", "matrícula", "targa", "车牌")
