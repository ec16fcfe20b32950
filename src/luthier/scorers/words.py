"""Words of any script: Han, kana and other scripts written without spaces are taken character by character."""

from __future__ import annotations

import re
import string
import unicodedata

HAN = "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
KANA = "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"

_HAN = re.compile(f"[{HAN}]")
_KANA = re.compile(f"[{KANA}]")
_UNSPACED = re.compile(f"([{HAN}{KANA}])")
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def has_han(text: str) -> bool:
    return _HAN.search(text) is not None


def has_kana(text: str) -> bool:
    return _KANA.search(text) is not None


def words(text: str) -> list[str]:
    """Lower-cased runs of letters, marks and digits of any script; Han and kana one character each.

    On ASCII text this equals the default tokenizer of `rouge_score`, which drops every other script.
    """
    kept = "".join(char if unicodedata.category(char)[0] in "LMN" else " " for char in text.lower())
    return _UNSPACED.sub(r" \1 ", kept).split()


def squad_words(text: str) -> list[str]:
    """The normalisation of SQuAD's official script (arXiv:1606.05250): lower case, without punctuation and articles.

    Punctuation is taken in Unicode's sense too (，。「」), and Han and kana count one character each.
    """
    kept = "".join(
        char for char in text.lower() if char not in string.punctuation and unicodedata.category(char)[0] != "P"
    )
    return _UNSPACED.sub(r" \1 ", _ARTICLES.sub(" ", kept)).split()
