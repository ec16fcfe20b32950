"""Where two texts that begin alike may be cut: at white space, and in scripts without spaces behind any character.

A cut never lies within what reads as one character (a letter with its marks, a flag, an emoji of several parts, a
Hangul syllable), nor within a word or number of a script that puts spaces between words.
"""

from __future__ import annotations

import regex

UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Yi}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
"""Scripts that put no spaces between words."""
EAST = r"[\u3000-\u303f\uff00-\uff65&&\p{P}]"
"""Their punctuation and full-width forms of ours."""
OPENING = regex.compile(r"[\p{Ps}\p{Pi}]|[\u0e40-\u0e44\u0ec0-\u0ec4]")
"""Brackets, quotes and the vowels of Thai and Lao that stand before their consonant: no cut behind them."""
CLOSING = regex.compile(
    r"[\p{Pe}\p{Pf}\p{M}々〻ゝゞヽヾー～ぁぃぅぇぉっゃゅょゎゕゖァィゥェォッャュョヮヵヶㇰ-ㇿ、。，．！？：；・…‥]|"
    r"[\u0e30-\u0e3a\u0e45-\u0e4e\u0eb0-\u0ebc\u0ec6-\u0ecd]"
)
"""Marks, small kana, closing punctuation and what follows its consonant in Thai and Lao: no cut before them."""
LOOSE = regex.compile(rf"[{UNSPACED}]|{EAST}", regex.VERSION1)
SYLLABLE = regex.compile(r"\p{Hangul}")
AHEAD = 64
"""Characters behind the common beginning that may belong to its last one."""


def last_cut(first: str, second: str) -> int:
    """Where the common beginning of two texts is best cut: as far back as both allow; 0 where they do not at all.

    Korean has spaces between words; between two syllables it is cut only where there is no other place.
    """
    pairs = enumerate(zip(first, second, strict=False))
    common = next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))
    whole = _edges(first, common) & _edges(second, common)
    within_words = 0
    for cut in range(common, 0, -1):
        before, after = first[cut - 1], (first[cut : cut + 1], second[cut : cut + 1])
        if before.isspace() and cut in whole:
            return cut if first[:cut].strip() else within_words
        if cut not in whole or not all(after) or OPENING.match(before) or any(map(CLOSING.match, after)):
            continue
        if LOOSE.match(before) or all(map(LOOSE.match, after)):
            return cut
        if SYLLABLE.match(before) or all(map(SYLLABLE.match, after)):
            within_words = within_words or cut
    return within_words


def _edges(text: str, common: int) -> set[int]:
    """Where what reads as one character ends, as far as the common beginning reaches."""
    return {match.end() for match in regex.finditer(r"\X", text[: common + AHEAD]) if match.end() <= common}


__all__ = ["last_cut"]
