"""Scorers that count what response and reference have in common: words, n-grams, subsequences."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from luthier.scorers.metric import Metric, reference, require, text
from luthier.scorers.words import by_letter, has_han, squad_words, words
from luthier.types import Example, Response


@dataclass(frozen=True)
class F1(Metric):
    """The harmonic mean of precision and recall over words, as SQuAD computes it (arXiv:1606.05250)."""

    def __call__(self, example: Example, response: Response) -> float | None:
        expected = reference(example)
        if expected is None:
            return None
        wanted, said = Counter(squad_words(expected)), Counter(squad_words(text(response)))
        if not wanted or not said:
            return float(wanted == said)
        shared = (wanted & said).total()
        return 2 * shared / (wanted.total() + said.total())  # = 2PR / (P + R)


@lru_cache
def _sacrebleu(tokenize: str, lowercase: bool) -> Any:
    from sacrebleu.metrics.bleu import BLEU

    # effective_order changes a value only when no row has four words, where plain BLEU is 0 for a perfect answer
    return BLEU(tokenize=tokenize, lowercase=lowercase, effective_order=True)


@dataclass(frozen=True)
class Bleu(Metric):
    """BLEU by sacrebleu, 0 to 100 (Papineni et al. 2002; Post 2018, arXiv:1804.08771).

    The value of a corpus comes from its summed n-gram counts and equals sacrebleu's `corpus_score`; the score of one
    row is sacrebleu's sentence BLEU.
    """

    tokenize: Literal["auto", "13a", "intl", "zh", "char", "ja-mecab", "ko-mecab", "none"] = "auto"
    """sacrebleu's tokenizer. auto: by the reference: char for kana and the other scripts without spaces between words
    (Thai, Lao, Khmer, Burmese, Tibetan), zh for Han, otherwise 13a."""
    lowercase: bool = False
    """Ignore case."""
    range: ClassVar[tuple[float, float]] = (0.0, 100.0)

    def __post_init__(self) -> None:
        require("sacrebleu", "sacrebleu", "bleu")

    def __call__(self, example: Example, response: Response) -> float | None:
        score = self._sentence(example, response)
        return None if score is None else min(float(score.score), 100.0)  # rounding gives 100.00000000000004

    def statistics(self, example: Example, response: Response) -> tuple[float, ...] | None:
        """Matched 1- to 4-grams, 1- to 4-grams said, words said, words of the reference: K = 10."""
        score = self._sentence(example, response)
        return None if score is None else (*score.counts, *score.totals, score.sys_len, score.ref_len)

    def pooled(self, totals_BK: NDArray[np.float64]) -> NDArray[np.float64]:
        compute = _sacrebleu("none", self.lowercase).compute_bleu
        values = [
            compute(row[:4], row[4:8], row[8], row[9], smooth_method="exp", effective_order=True).score
            for row in totals_BK.astype(int).tolist()
        ]
        return np.minimum(values, 100.0)

    def _sentence(self, example: Example, response: Response) -> Any:
        expected = reference(example)
        if expected is None:
            return None
        return _sacrebleu(self._tokenizer(expected), self.lowercase).sentence_score(text(response), [expected])

    def _tokenizer(self, expected: str) -> str:
        if self.tokenize != "auto":
            return self.tokenize
        if by_letter(expected):
            return "char"
        return "zh" if has_han(expected) else "13a"


class _Words:
    """The tokenizer handed to rouge_score, whose own drops every letter outside ASCII."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


@lru_cache
def _rouge(kind: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([kind], tokenizer=_Words())


@dataclass(frozen=True)
class Rouge(Metric):
    """ROUGE's F-measure by rouge_score, for any script (Lin 2004)."""

    variant: Literal[1, 2, "L"] = "L"
    """1 and 2: n-grams. L: the longest common subsequence."""

    def __post_init__(self) -> None:
        require("rouge-score", "rouge_score", "rouge")

    def __call__(self, example: Example, response: Response) -> float | None:
        expected = reference(example)
        if expected is None:
            return None
        kind = f"rouge{self.variant}"
        return float(_rouge(kind).score(expected, text(response))[kind].fmeasure)
