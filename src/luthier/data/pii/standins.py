"""What is put in the place of what was found: a mask that says its kind, or a pseudonym that is the same each time."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence

from luthier.data.cleaning.edits import Edit
from luthier.data.cleaning.regions import protected
from luthier.data.pii import phones
from luthier.data.pii.checksums import compact
from luthier.data.pii.found import Found

_NUMBER_BEFORE = re.compile(r"(?:[=:(\[,]|\breturn)[ \t]*$")
_NUMBER_BEHIND = re.compile(r"[ \t]*(?:[,;)\]}\n]|$)")


def masked(text: str, found: Sequence[Found]) -> list[Edit]:
    """Each thing as `[EMAIL]`, `[PHONE]`, …"""
    return _replaced(text, found, None)


def pseudonyms(text: str, found: Sequence[Found], key: bytes) -> list[Edit]:
    """Each thing as `[EMAIL-…]` with eight letters that hang on its value and the key.

    One value has the same letters in all its spellings and all texts, and nobody without the key can try values out.
    """
    return _replaced(text, found, key)


def _replaced(text: str, found: Sequence[Found], key: bytes | None) -> list[Edit]:
    edits = []
    code: list[tuple[int, int]] | None = None
    for start, end, kind, rule in found:
        old = text[start:end]
        drawn = None if key is None else _drawn(key, kind, canonical(kind, rule, old))
        new = f"[{kind.upper()}]" if drawn is None else f"[{kind.upper()}-{_letters(drawn)}]"
        if old.isascii() and old.isdigit():
            code = _code(text) if code is None else code
            if _is_number(text, start, end, code):  # where a number stands in code, a number has to stand
                new = ("10000" + (f"{drawn:020}" if drawn is not None else "0" * 20))[: max(5, end - start)]
        edits.append(Edit(start, old, new))
    return edits


def canonical(kind: str, rule: str, value: str) -> str:
    """What all spellings of a value share."""
    if kind == "email":
        for written, sign in (("at", "@"), ("dot", ".")):
            value = re.sub(rf" ?[\[({{]{written}[\])}}] ?", sign, value, flags=re.I)
        return value.replace("＠", "@").lower()
    if kind == "phone":
        return phones.canonical(value)
    if kind in ("secret", "login"):
        return value
    if kind in ("person", "address", "organisation"):
        return " ".join(value.casefold().split())
    if kind == "mac":
        return re.sub("[-:.]", "", value).lower()
    return value.lower() if kind == "ip" else compact(value)


def _drawn(key: bytes, kind: str, value: str) -> int:
    return int.from_bytes(hmac.new(key, f"{kind}\0{value}".encode(), hashlib.sha256).digest()[:8], "big")


def _letters(drawn: int) -> str:
    """Eight letters: digits would look like a number of something."""
    letters = ""
    for _ in range(8):
        drawn, place = divmod(drawn, 20)
        letters += "bcdfghjklmnpqrstvwxz"[place]
    return letters


def _code(text: str) -> list[tuple[int, int]]:
    return [(0, len(text))] if text.lstrip()[:1] in ("{", "[") else protected(text, addresses=False)


def _is_number(text: str, start: int, end: int, code: Sequence[tuple[int, int]]) -> bool:
    inside = any(first <= start and end <= last for first, last in code)
    return inside and bool(_NUMBER_BEFORE.search(text[max(0, start - 12) : start]) and _NUMBER_BEHIND.match(text, end))
