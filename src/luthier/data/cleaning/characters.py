"""Rules on single characters: text decoded with the wrong encoding, what cannot be seen, widths, two scripts."""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from importlib.util import find_spec
from typing import Any, Literal

import regex

from luthier.data.cleaning.edits import Edit, apply, changed, trimmed
from luthier.errors import missing_extra

_CONTINUED = "\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ"  # the bytes 80 to BF, read as Latin-1 or as Windows-1252
_MOJIBAKE = re.compile(f"[\xc2-\xf4][{_CONTINUED} ]")
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f](?:[^\x00-\x7f]| (?=[^\x00-\x7f]))*")

_ASCII_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_UNSEEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
    "|[\U000e0000-\U000e007f]+"
)
_SURROGATE = re.compile("[\ud800-\udfff]")
_BREAKS = frozenset("\x0b\x0c\x85\u2028\u2029")
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")
_JOINING = re.compile("[\u0600-\u109f\u1780-\u18af\ua840-\uabff\ufb50-\ufdff\ufe70-\ufefc]")
_WITHOUT_SPACES = re.compile("[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff]")
_PICTURE = re.compile("[\u00a9\u00ae\u203c-\u3299\U0001f000-\U0001faff]")
_MODIFIERS = "\ufe0f\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff\u20e3"
_KANA = re.compile("[\u3041-\u30ff]")
_WIDE = re.compile("[０-９Ａ-Ｚａ-ｚ]+")
_HALF = {code: code - 0xFEE0 for code in (*range(0xFF10, 0xFF1A), *range(0xFF21, 0xFF3B), *range(0xFF41, 0xFF5B))}


def mojibake(text: str) -> list[Edit]:
    """Text in UTF-8 that was read as something else, as it was meant (`â€™` is ’). Only ftfy's repair of encodings.

    Raises LuthierError where such text is met and ftfy is not installed.
    """
    if text.isascii() or not _MOJIBAKE.search(text):
        return []
    edits, start = [], 0
    for line in text.split("\n"):
        if _MOJIBAKE.search(line):
            edits += _meant(line, start)
        start += len(line) + 1
    return edits


def _meant(line: str, start: int) -> list[Edit]:
    fix = _ftfy().fix_encoding
    whole = fix(line)
    if whole == line:
        return []
    runs = [Edit(found.start(), found[0], fix(found[0])) for found in _BEYOND_ASCII.finditer(line)]
    runs = [edit for edit in runs if edit.old != edit.new]
    edits = runs if apply(line, runs) == whole else [trimmed(Edit(0, line, whole))]
    return [edit._replace(start=edit.start + start) for edit in edits]


@cache
def _ftfy() -> Any:
    if find_spec("ftfy") is None:
        error = missing_extra("ftfy", "text", "text that was decoded with the wrong encoding")
        error.fix = f"{error.fix}, or leave such text as it is: clean: {{mojibake: false}}"
        raise error
    import ftfy

    return ftfy


def composed(text: str) -> list[Edit]:
    """Letters and their marks as one character each (NFC). Never NFKC, which makes x² into x2 and ½ into 1/2."""
    if text.isascii() or unicodedata.is_normalized("NFC", text):
        return []
    found = ((one.start(), one[0], unicodedata.normalize("NFC", one[0])) for one in regex.finditer(r"\X", text))
    return [Edit(start, old, new) for start, old, new in found if old != new]


def surrogates(text: str) -> list[Edit]:
    """Halves of a pair of UTF-16, which no file can hold, as the sign for what is unknown."""
    if text.isascii():
        return []
    return [Edit(found.start(), found[0], "\ufffd") for found in _SURROGATE.finditer(text)]


def unseen(text: str) -> list[Edit]:
    """Control and zero-width characters, taken out; odd ends of lines as plain ones.

    Kept where they are part of the writing: joiners in pictures and in the scripts that need them, marks of direction
    in texts written from right to left, breaks of words in scripts without spaces, flags.
    """
    pattern = _ASCII_CONTROL if text.isascii() else _UNSEEN
    edits = []
    for found in pattern.finditer(text):
        sign, start = found[0], found.start()
        if sign in _BREAKS:
            edits.append(Edit(start, sign, "\n"))
        elif not _belongs(text, sign, start):
            edits.append(Edit(start, sign, ""))
    return edits


def _belongs(text: str, sign: str, start: int) -> bool:
    before, after = text[start - 1 : start], text[start + len(sign) : start + len(sign) + 1]
    if sign == "\u200d" and before and before in _MODIFIERS:  # of a picture with a colour of skin, the picture counts
        before = text[:start].rstrip(_MODIFIERS)[-1:] if start < 8 else text[start - 8 : start].rstrip(_MODIFIERS)[-1:]
    if sign == "\u200d" and _PICTURE.match(before) and _PICTURE.match(after):
        return True
    if sign in "\u200c\u200d":
        return bool(_JOINING.match(before))
    if sign == "\u200b":
        return bool(_WITHOUT_SPACES.match(before) or _WITHOUT_SPACES.match(after))
    if sign in "\u200e\u200f\u202a\u202b\u202c\u2066\u2067\u2068\u2069":
        return bool(_RIGHT_TO_LEFT.search(text))
    return before == "\U0001f3f4" and len(sign) > 1 and sign.endswith("\U000e007f")


def half_width(text: str) -> list[Edit]:
    """Latin letters and digits as wide as a Chinese sign, in their common width. Punctuation stays: it is Chinese."""
    if text.isascii():
        return []
    return [Edit(found.start(), found[0], found[0].translate(_HALF)) for found in _WIDE.finditer(text)]


Chinese = Literal["simplified", "traditional"]


def chinese(text: str, script: Chinese) -> list[Edit]:
    """Chinese in one of its two scripts. A text with Japanese in it is left alone: its signs are its own."""
    if text.isascii() or _KANA.search(text):
        return []
    return changed(text, _converter(script).convert(text))


@cache
def _converter(script: Chinese) -> Any:
    if find_spec("opencc") is None:
        raise missing_extra("opencc", "text", f"Chinese in the {script} script")
    import opencc

    return opencc.OpenCC("t2s" if script == "simplified" else "s2t")
