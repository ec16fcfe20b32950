"""What rows are about, as places on a plane: words weighed by tf-idf, and the two directions in which rows differ most.

Shapes: N rows, V words, K topics.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+|[^\W\d_]{4,}")
UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
EMPTY = frozenset(
    re.findall(
        r"\w+",
        "about also been being because between both could does each from have into just like make many more most much "
        "only other over same should some such than that their them then there these they this those through used very "
        "well were what when where which while will with would your",
    )
)
"""Words of English that are everywhere and about nothing."""
WORDS = 1000
"""The commonest words that are looked at."""
COMMON = 0.35
"""A word that more of the rows have says nothing of what they are about."""
DIRECTIONS = 12
"""In which topics are looked for; two of them are drawn."""
ROUNDS = 25
NAMED = 4
"""Words that stand for a topic."""
FEWEST = 8
"""Rows below which there is nothing to see."""


@dataclass(frozen=True)
class Topics:
    """Rows on a plane, each of one topic."""

    places: NDArray[np.float64]
    topic: NDArray[np.int64]
    names: list[str]
    """The words that tell each topic from the others."""


def topics(texts: Sequence[str], count: int = 6) -> Topics | None:
    """None where there are too few rows, or they have no words in common."""
    said = [Counter(words(text)) for text in texts]
    seen = Counter(word for one in said for word in one)
    known = [(word, n) for word, n in seen.most_common() if 2 <= n <= max(FEWEST, COMMON * len(texts))][:WORDS]
    if len(texts) < FEWEST or len(known) < DIRECTIONS:
        return None
    place = {word: number for number, (word, _) in enumerate(known)}
    weight_NV = np.zeros((len(texts), len(known)))
    for row, one in enumerate(said):
        for word, n in one.items():
            if word in place:
                weight_NV[row, place[word]] = 1 + np.log(n)
    weight_NV *= np.log(len(texts) / np.array([n for _, n in known]))
    weight_NV /= np.maximum(np.linalg.norm(weight_NV, axis=1, keepdims=True), 1e-12)
    left, size, _ = np.linalg.svd(weight_NV - weight_NV.mean(axis=0), full_matrices=False)
    found_ND = left[:, :DIRECTIONS] * size[:DIRECTIONS]
    topic = _grouped(found_ND, min(count, len(texts) // 2))
    return Topics(found_ND[:, :2], topic, _named(weight_NV, topic, [word for word, _ in known]))


def words(text: str) -> list[str]:
    """Words of some length in small letters; of what writes no spaces every two signs."""
    found: list[str] = []
    for one in WORD.findall(text):
        found += [one[i : i + 2] for i in range(len(one) - 1)] if UNSPACED.match(one) else [one.lower()]
    return [one for one in found if one not in EMPTY]


def _grouped(found_ND: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """The topic of each row: k-means from far-off rows, so that the same rows give the same."""
    centres = [found_ND[int(np.argmax(np.linalg.norm(found_ND, axis=1)))]]
    while len(centres) < count:
        nearest = np.min([np.linalg.norm(found_ND - one, axis=1) for one in centres], axis=0)
        centres.append(found_ND[int(np.argmax(nearest))])
    centre_KD = np.stack(centres)
    topic = np.zeros(len(found_ND), np.int64)
    for _ in range(ROUNDS):
        topic = np.argmin(((found_ND[:, None] - centre_KD) ** 2).sum(axis=2), axis=1)
        for number in np.unique(topic).tolist():
            centre_KD[number] = found_ND[topic == number].mean(axis=0)
    _, renamed = np.unique(topic, return_inverse=True)  # one that no row is nearest to is none
    sizes = np.bincount(renamed)
    made: NDArray[np.int64] = np.argsort(np.argsort(-sizes, kind="stable"))[renamed]
    return made


def _named(weight_NV: NDArray[np.float64], topic: NDArray[np.int64], known: Sequence[str]) -> list[str]:
    names = []
    for number in range(int(topic.max()) + 1):
        own = weight_NV[topic == number].mean(axis=0) - weight_NV.mean(axis=0)
        names.append(" · ".join(known[i] for i in np.argsort(-own, kind="stable")[:NAMED]))
    return names


__all__ = ["Topics", "topics", "words"]
