"""All kinds in one pass: cheap tests first, since most texts hold nothing; then each kind's rule."""

from __future__ import annotations

import re
from bisect import bisect, insort
from collections.abc import Callable, Collection, Iterator

from luthier.data.pii import context, network, numbers, phones, secrets
from luthier.data.pii.found import KINDS, Found

_SIX = re.compile(r"\d(?:[ \-.()/·]{0,3}\d){5}")
_FOUR = re.compile(r"\d\.\d{1,3}\.\d{1,3}\.\d")
_HEX = re.compile(r"[0-9A-Fa-f]{1,4}:[0-9A-Fa-f]{0,4}:|(?:[0-9A-Fa-f]{2}-){5}|[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}\.")
_LETTERS = re.compile(r"[A-Z]{3} ?[A-Z]{3} ?\d\d[A-Z]")
_WIDE = {
    code: code - 0xFEE0
    for code in (*range(0xFF10, 0xFF1A), 0xFF0B, 0xFF0D, 0xFF20, *range(0xFF21, 0xFF3B), *range(0xFF41, 0xFF5B))
}
_BARE = re.compile(r"\D")


def find(text: str, kinds: Collection[str] = KINDS, regions: frozenset[str] | None = None) -> list[Found]:
    """What the rules find, in order and apart. Where two kinds want a place, the first of `KINDS` has it."""
    return _found(text, kinds, regions, gated=True)


def _found(text: str, kinds: Collection[str], regions: frozenset[str] | None, gated: bool) -> list[Found]:
    """`gated`: rules that cannot find anything in a text are not asked. What is found is the same (tested)."""
    plain = text if text.isascii() else text.translate(_WIDE)  # a wide digit is one
    raw = plain.encode("utf-8", "replace")
    digits = len(raw) - len(raw.translate(None, b"0123456789")) if gated else len(raw)
    some = digits > 0
    low = context.lowered(plain) if some else plain
    many = digits >= 6 and (not gated or _SIX.search(plain) is not None)
    hexed = some and (not gated or _hexed(plain))
    rules: list[tuple[bool, Callable[[], Iterator[Found]]]] = [
        (some or secrets.BEGIN in plain, lambda: secrets.secrets(plain)),
        ("://" in plain, lambda: network.logins(plain)),
        ("@" in plain or "at]" in plain or "at)" in plain or "at}" in plain, lambda: network.emails(plain)),
        (many, lambda: numbers.ibans(plain)),
        (many, lambda: numbers.cards(plain, low)),
        (many or (digits > 6 and _LETTERS.search(plain) is not None), lambda: numbers.papers(plain, low, regions)),
        (hexed or (digits > 3 and _FOUR.search(plain) is not None), lambda: network.addresses(plain)),
        (hexed, lambda: network.macs(plain)),
        (many, lambda: phones.phones(plain, low, regions)),
        (some, lambda: numbers.plates(plain, low)),
    ]
    every = [found for at_work, rule in rules if at_work for found in rule()]
    return settled(plain, [found for found in every if found.kind in kinds]) if every else []


def _hexed(text: str) -> bool:
    parted = text.count(":") > 1 or text.count("-") > 4 or text.count(".") > 1
    return parted and _HEX.search(text) is not None


def settled(text: str, every: list[Found]) -> list[Found]:
    """One thing for a place: by the order of kinds, then the longest. Our own stand-ins are nothing."""
    order = {kind: place for place, kind in enumerate(KINDS)}
    every.sort(key=lambda one: (order.get(one.kind, len(order)), one.start - one.end, one.start))
    starts: list[int] = []  # of what is kept, in order
    kept: dict[int, Found] = {}
    for found in every:
        place = bisect(starts, found.start)
        before, behind = starts[place - 1 : place], starts[place : place + 1]
        if (before and kept[before[0]].end > found.start) or (behind and behind[0] < found.end):
            continue
        if found.end > found.start and not _BARE.sub("", text[found.start : found.end]).startswith("10000"):
            insort(starts, found.start)
            kept[found.start] = found
    return [kept[start] for start in starts]
