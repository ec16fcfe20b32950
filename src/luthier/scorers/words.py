"""Words of any script. In those written without spaces between words every letter counts as one, with its marks."""

from __future__ import annotations

import re
import string
import unicodedata

HAN = "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
KANA = "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"
BLOCKS = {
    "Thai": (0x0E00, 0x0E7F), "Lao": (0x0E80, 0x0EFF), "Tibetan": (0x0F00, 0x0FFF), "Burmese": (0x1000, 0x109F),
    "Khmer": (0x1780, 0x17FF), "Tai Le": (0x1950, 0x197F), "New Tai Lue": (0x1980, 0x19DF),
    "Tai Tham": (0x1A20, 0x1AAF), "Balinese": (0x1B00, 0x1B7F), "Bopomofo": (0x3100, 0x312F),
    "more Bopomofo": (0x31A0, 0x31BF), "Yi": (0xA000, 0xA48F), "Javanese": (0xA980, 0xA9DF),
    "more Burmese": (0xA9E0, 0xA9FF), "Burmese of other languages": (0xAA60, 0xAA7F), "Tai Viet": (0xAA80, 0xAADF),
    "Ahom": (0x11700, 0x1174F),
}  # fmt: skip
"""The other scripts without spaces between words (Tibetan has a point between syllables), with their code points."""


def _in_blocks(kind: str) -> str:
    """The letters (L) or marks (M) of these blocks; their digits stay together as digits do elsewhere."""
    every = (chr(code) for first, last in BLOCKS.values() for code in range(first, last + 1))
    return "".join(char for char in every if unicodedata.category(char)[0] == kind)


LETTERS = _in_blocks("L")
# beside the blocks' own: accents, the voicing of kana, variants of a form
MARKS = _in_blocks("M") + "\u0300-\u036f\u3099\u309a\ufe00-\ufe0f\U000e0100-\U000e01ef"
_HAN = re.compile(f"[{HAN}]")
_BY_LETTER = re.compile(f"[{KANA}{LETTERS}]")
_UNSPACED = re.compile(f"([{HAN}{KANA}{LETTERS}][{MARKS}]*)")
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def has_han(text: str) -> bool:
    return _HAN.search(text) is not None


def by_letter(text: str) -> bool:
    """Does the text hold kana, or letters of another script without spaces than Han?"""
    return _BY_LETTER.search(text) is not None


def words(text: str) -> list[str]:
    """Lower-cased runs of letters, marks and digits; one letter each in scripts without spaces between words.

    On ASCII text this equals the default tokenizer of `rouge_score`, which drops every other script.
    """
    kept = "".join(char if unicodedata.category(char)[0] in "LMN" else " " for char in text.lower())
    return _UNSPACED.sub(r" \1 ", kept).split()


def squad_words(text: str) -> list[str]:
    """The normalisation of SQuAD's official script (arXiv:1606.05250): lower case, without punctuation and articles.

    Punctuation is taken in Unicode's sense too (，。「」), and in scripts without spaces every letter is a word.
    """
    spaced = text.lower().replace("\u200b", " ")  # a space that is not seen, as Khmer and Thai have between words
    kept = "".join(char for char in spaced if char not in string.punctuation and unicodedata.category(char)[0] != "P")
    return _UNSPACED.sub(r" \1 ", _ARTICLES.sub(" ", kept)).split()
