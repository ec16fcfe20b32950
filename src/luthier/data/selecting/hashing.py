"""Texts as vectors without a model: words and pairs of words, each told to one of so many places by a hash.

Shape suffixes: N = rows, D = places of a vector.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from luthier.data.selecting.wording import words_of
from luthier.data.steps.said import answers
from luthier.types import Example

PLACES = 512


def text_of(example: Example) -> str:
    """What is asked and what is answered."""
    return "\n".join([*(turn.text for turn in example.prompt if turn.role != "system"), *answers(example)])


def grams(words: list[str]) -> Iterator[str]:
    """Each word, and each pair of neighbours."""
    yield from words
    for one, other in pairwise(words):
        yield f"{one} {other}"


def place(gram: str, size: int) -> tuple[int, float]:
    """Where a gram stands, and its sign: grams that share a place then do not add up."""
    number = zlib.crc32(gram.encode("utf-8", "surrogatepass"))
    return (number >> 1) % size, 1.0 if number & 1 else -1.0


def counted(text: str, size: int = PLACES) -> NDArray[np.float32]:
    """The words of a text as D numbers: the sum of 1 + ln(how often), with each word's sign."""
    vector_D = np.zeros(size, np.float32)
    for word, count in Counter(words_of(text)).items():
        at, sign = place(word, size)
        vector_D[at] += sign * (1.0 + math.log(count))
    return vector_D


def weighed(counts_ND: NDArray[np.floating]) -> NDArray[np.float32]:
    """The same as tf-idf, each of length 1: a place that many rows fill says little. A row without words is 0."""
    filled_D = np.count_nonzero(counts_ND, axis=0)
    idf_D = np.log((1 + len(counts_ND)) / (1 + filled_D)) + 1
    return normed(counts_ND * idf_D)


def normed(vectors_ND: NDArray[np.floating]) -> NDArray[np.float32]:
    """Each of length 1, so that a product is a cosine."""
    norm_N1 = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    made: NDArray[np.float32] = (vectors_ND / np.where(norm_N1 > 0, norm_N1, 1)).astype(np.float32)
    return made


__all__ = ["PLACES", "counted", "grams", "normed", "place", "text_of", "weighed"]
