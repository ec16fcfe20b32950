"""All kinds in one pass: cheap tests first, since most texts hold nothing; then each kind's rule, and one for a place."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator

from luthier.data.pii import network, numbers, phones, secrets
from luthier.data.pii.found import KINDS, Found

_DIGITS = re.compile(r"\d(?:[ \-.()/·]{0,3}\d){5}")
_TWO = re.compile(r"\d\.\d")
_HEX = re.compile(r"[0-9A-Fa-f]{2}:[0-9A-Fa-f]{0,4}:|(?:[0-9A-Fa-f]{2}-){3}|[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}\.")
_LETTERS = re.compile(r"[A-Z]{3} ?[A-Z]{3} ?\d\d[A-Z]")
_WIDE = {code: code - 0xFEE0 for code in (*range(0xFF10, 0xFF1A), 0xFF0B, 0xFF0D, 0xFF20, *range(0xFF21, 0xFF3B), *range(0xFF41, 0xFF5B))}
_BARE = re.compile(r"\D")


def find(text: str, kinds: Collection[str] = KINDS, regions: frozenset[str] | None = None) -> list[Found]:
    """What the rules find, in order and apart. Where two kinds want a place, the first of `KINDS` has it."""
    return _found(text, kinds, regions, gated=True)


def _found(text: str, kinds: Collection[str], regions: frozenset[str] | None, gated: bool) -> list[Found]:
    """`gated`: rules that cannot find anything in a text are not asked. What is found is the same (tested)."""
    plain = text if text.isascii() else text.translate(_WIDE)  # a wide digit is one
    many = not gated or _DIGITS.search(plain) is not None
    rules: list[tuple[bool, Callable[[], Iterator[Found]]]] = [
        (True, lambda: secrets.secrets(plain)),
        ("://" in plain, lambda: network.logins(plain)),
        ("@" in plain or "at]" in plain or "at)" in plain or "at}" in plain or not gated, lambda: network.emails(plain)),
        (many, lambda: numbers.ibans(plain)),
        (many, lambda: numbers.cards(plain)),
        (many or _LETTERS.search(plain) is not None, lambda: numbers.papers(plain, regions)),
        (not gated or _TWO.search(plain) is not None or _HEX.search(plain) is not None, lambda: network.addresses(plain)),
        (not gated or _HEX.search(plain) is not None, lambda: network.macs(plain)),
        (many, lambda: phones.phones(plain, regions)),
        (True, lambda: numbers.plates(plain)),
    ]
    every = [found for at_work, rule in rules if at_work for found in rule()]
    return settled(plain, [found for found in every if found.kind in kinds]) if every else []


def settled(text: str, every: list[Found]) -> list[Found]:
    """One thing for a place: by the order of kinds, then the longest. Our own stand-ins are nothing."""
    order = {kind: place for place, kind in enumerate(KINDS)}
    every.sort(key=lambda one: (order.get(one.kind, len(order)), one.start - one.end, one.start))
    kept: list[Found] = []
    for found in every:
        if any(found.start < other.end and other.start < found.end for other in kept):
            continue
        if found.end > found.start and not _BARE.sub("", text[found.start : found.end]).startswith("10000"):
            kept.append(found)
    return sorted(kept)
