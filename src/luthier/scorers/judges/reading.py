"""What a judge has said, read: a score, a verdict, several scores, or how likely each of a few labels was.

The last mark counts, since judges think before they decide. What is not there is None, never a guess.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from luthier.scorers.judges.asking import Places

NUMBER = r"[-+]?\d+(?:\.\d+)?"
_MARK = re.compile(r"(?:\[\[|【)\s*([^\[\]【】]{1,20}?)\s*(?:\]\]|】)")
_SCORE = re.compile(rf"({NUMBER})(?:\s*(?:/|out of)\s*({NUMBER}))?")
_NAMED = re.compile(
    rf"(?:\b(?:score|rating)|评分|得分|分数)\W{{0,6}}(?:is|为|是)?\W{{0,4}}?({NUMBER})(?:\s*/\s*({NUMBER}))?",
    re.IGNORECASE,
)
_BOX = re.compile(r"\\boxed\s*\{([^{}]*)\}")
_VERDICTS = {"a": 1.0, "b": 0.0, "c": 0.5, "tie": 0.5, "平局": 0.5}
LEAST = 0.05
"""Labels that are together less likely than this say nothing: the judge was about to write something else."""
AROUND = " \t\r\n([【*\"'`Ġ▁"
"""What may stand before and after a label in its token."""


def score(text: str, low: float, high: float) -> float | None:
    """The score in `[[7]]`, else after "score", else an answer that is a number and nothing else; None where there is
    none, or one outside the scale, or out of another scale (7/100 of ten)."""
    marks = [found for found in (_SCORE.fullmatch(mark) for mark in _MARK.findall(text)) if found]
    last = marks[-1] if marks else None
    if last is None and not _MARK.search(text):
        named = list(_NAMED.finditer(text))
        last = named[-1] if named else _SCORE.fullmatch(text.strip().rstrip("."))
    if last is None:
        return None
    value, whole = float(last[1]), last[2]
    if whole is not None and float(whole) != high:
        return None
    return value if low <= value <= high else None


def verdict(text: str) -> float | None:
    """1 for `[[A]]`, 0 for `[[B]]`, ½ for `[[C]]`, a tie; also of an answer that is the letter alone."""
    marks = _MARK.findall(text)
    return _VERDICTS.get((marks[-1] if marks else text.strip().strip(".()*")).casefold())


def scores(text: str, count: int, low: float, high: float) -> tuple[float, ...] | None:
    r"""As many scores as there are answers, out of the last `\boxed{7, 4}`; None where one is missing, too many, or
    outside the scale."""
    boxes = _BOX.findall(text)
    if not boxes:
        return None
    parts = [part.strip() for part in re.split(r"[,，、;；]", boxes[-1])]
    if len(parts) != count or not all(re.fullmatch(NUMBER, part) for part in parts):
        return None
    found = tuple(float(part) for part in parts)
    return found if all(low <= value <= high for value in found) else None


def likelihoods(places: Places, labels: Sequence[str]) -> dict[str, float] | None:
    """The probability of each label, all together 1, where the judge begins to answer: at the first token that is
    more than a bracket or a blank. None where it would write something else, or nothing was told."""
    for place in places:
        if not place or not max(place, key=lambda one: one[1])[0].strip(AROUND):
            continue
        found = dict.fromkeys(labels, 0.0)
        for token, logp in place:
            label = token.strip(AROUND + ".:)]】")
            if label in found:
                found[label] += math.exp(logp)
        total = math.fsum(found.values())
        return {label: p / total for label, p in found.items()} if total >= LEAST else None
    return None


def expectation(places: Places, low: int, high: int) -> float | None:
    """The mean score over the tokens of the scale, by their probabilities."""
    found = likelihoods(places, [str(value) for value in range(low, high + 1)])
    return None if found is None else math.fsum(int(label) * p for label, p in found.items())
