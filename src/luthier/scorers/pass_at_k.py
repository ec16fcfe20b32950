"""pass@k: how likely one of k answers is right, estimated from n ≥ k answers of which c were right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from luthier.errors import LuthierError
from luthier.scorers.metric import Metric, text
from luthier.types import Example, Response


def pass_at_k(n: int, c: int, k: int) -> float:
    """The unbiased estimate 1 − C(n − c, k) / C(n, k) (arXiv:2107.03374, eq. 1), exact for integers of any size.

    1 − (1 − c/n)^k, which looks alike, is biased downwards. Raises LuthierError unless 0 ≤ c ≤ n and 1 ≤ k ≤ n.
    """
    if not 0 <= c <= n:
        raise LuthierError(f"{c} of {n} answers cannot be right", where="pass@k", fix="count right answers among all")
    if not 1 <= k <= n:
        raise LuthierError(f"pass@{k} cannot be told from {n} answers", where="pass@k", fix=f"sample at least {k} each")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def mean_pass_at_k(scores: Sequence[Sequence[float | None]], k: int) -> float | None:
    """The mean over prompts, from the scores of each prompt's answers: 1 is right. None where nothing was judged.

    An answer that could not be judged (None) counts as none at all. Raises LuthierError where fewer than k of a
    prompt's answers were judged.
    """
    judged = [[score for score in some if score is not None] for some in scores]
    found = [pass_at_k(len(some), sum(score >= 1.0 for score in some), k) for some in judged if some]
    return sum(found) / len(found) if found else None


@dataclass(frozen=True)
class Over(Metric):
    """A scorer that goes by what another one says, and asks of rows what that one asks."""

    of: Metric

    def check(self) -> None:
        self.of.check()

    def files(self) -> tuple[str, ...]:
        return self.of.files()

    def lacks(self, example: Example) -> str | None:
        return self.of.lacks(example)


@dataclass(frozen=True, eq=False)
class Once(Over):
    """A scorer that judges each answer to a row once, however many ask."""

    known: dict[tuple[int, str], float | None] = field(default_factory=dict)
    """By the row (the object, which is kept) and the answer's text."""
    rows: list[Example] = field(default_factory=list)

    def __call__(self, example: Example, response: Response) -> float | None:
        return self.many([(example, response)])[0]

    def many(self, pairs: Sequence[tuple[Example, Response]]) -> list[float | None]:
        names = [(id(example), text(response)) for example, response in pairs]
        new = {name: pair for name, pair in zip(names, pairs, strict=True) if name not in self.known}
        self.known.update(zip(new, self.of.many(list(new.values())), strict=True) if new else ())
        self.rows.extend(example for example, _ in new.values())
        return [self.known[name] for name in names]


@dataclass(frozen=True)
class PassAtK(Over):
    """How likely one of k answers is right by another scorer (1 is right), estimated from all that were drawn."""

    k: int
    needs_reference: ClassVar[bool] = False
    sees_all: ClassVar[bool] = True

    def __call__(self, example: Example, response: Response) -> float | None:
        return self.of(example, response)

    def of_drawn(self, groups: Sequence[tuple[Example, Sequence[Response]]]) -> list[tuple[float, ...] | None]:
        """The estimate of each prompt; None where fewer than k of its answers could be judged."""
        flat = iter(self.of.many([(example, response) for example, responses in groups for response in responses]))
        found: list[tuple[float, ...] | None] = []
        for _, responses in groups:
            judged = [score for score in (next(flat) for _ in responses) if score is not None]
            right = sum(score >= 1.0 for score in judged)
            found.append((pass_at_k(len(judged), right, self.k), 1.0) if len(judged) >= self.k else None)
        return found
