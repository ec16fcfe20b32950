"""Rows that are unlike one another: a few that stand for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from luthier.data.selecting import covering, hashing
from luthier.data.selecting.embedding import Embedding, embedding, stacked
from luthier.data.steps.select import By, Combine, Measured, combined, share
from luthier.data.steps.step import Columns, Reread, Verdicts
from luthier.data.steps.tools import Tools, draws
from luthier.types import Example

USUAL = 0.9


@dataclass(frozen=True)
class Diverse(Measured):
    """Keeps rows that are unlike one another, compared by their words (tf-idf), or by what a model makes of them."""

    decides: ClassVar[tuple[str, ...]] = ("keep", "top", "how", "near", "groups", "combine")
    drops_much: ClassVar[bool] = True
    idempotent: ClassVar[bool] = False
    embedding: ClassVar[Embedding | None] = None

    keep: Annotated[float, Field(gt=0, le=1)] | None = None
    """This share of the rows."""
    top: Annotated[int, Field(gt=0)] | None = None
    """So many rows at most."""
    how: Literal["centres", "facility", "score_first", "clusters"] = "centres"
    """centres: always the row farthest from all taken. facility: rows that all others are near to (of more than 2,048
    rows, so many drawn ones). score_first: the best by `by`, each unless it is `near` to one that was taken
    (arXiv:2312.15685). clusters: the same number of each of `groups` clusters, the best or drawn ones."""
    by: By | tuple[By, ...] | None = None
    """What the best are, as in `select`: for score_first, and for clusters on wish."""
    combine: Combine = "rank"
    """Of several measures: the mean of their ranks, or their product."""
    near: Annotated[float, Field(gt=0, le=1)] = USUAL
    """score_first: the cosine from which on two rows are too alike."""
    groups: Annotated[int, Field(gt=1)] = 100
    """clusters: how many."""
    model: str | None = None
    """A run or a model whose last hidden states, their mean over the tokens, are compared; or the folder of an encoder
    (BERT and its kin). Default: words are."""

    def __post_init__(self) -> None:
        if self.keep is None and self.top is None:
            raise ValueError("nothing says how many rows to keep: give keep or top")
        if (self.how == "score_first") and self.by is None:
            raise ValueError("score_first needs `by`: which rows come first")
        if self.by is not None and self.how in ("centres", "facility"):
            raise ValueError(f"`by` says nothing to {self.how}: it looks at likeness alone")

    @property
    def wants(self) -> frozenset[str]:  # type: ignore[override]
        """What its measures want, and the model that it compares by."""
        own = frozenset() if self.model is None else frozenset({"engine"})
        return own | super().wants

    def identity(self) -> Any:
        return [super().identity(), None if self.embedding is None else self.embedding.identity]

    def ready(self, tools: Tools) -> Self:
        found = None if self.model is None else embedding(tools, self.model)
        return super().ready(tools).holding(embedding=found)

    def measure(self, batch: Sequence[Example], tools: Tools) -> Columns:
        columns = super().measure(batch, tools)
        if self.model is None:
            vectors_ND = np.stack([hashing.counted(hashing.text_of(one)) for one in batch])
            return {**columns, "vector": vectors_ND, "read": np.ones(len(batch), np.bool_)}
        assert self.embedding is not None, "a step is made ready before it measures"
        vectors_ND, read_N = stacked(self.embedding, batch)
        return {**columns, "vector": vectors_ND, "read": read_N}

    def decide(self, columns: Columns, rows: Reread, seed: int) -> Verdicts:
        read_N = np.asarray(columns["read"], np.bool_)
        worth_N = self._worth(columns, len(rows))
        there = np.flatnonzero(read_N & ~np.isnan(worth_N))
        raw_ND = np.asarray(columns["vector"])[there]
        vectors_ND = hashing.weighed(raw_ND) if self.model is None else hashing.normed(raw_ND)
        count = share(self.keep, self.top, len(rows)) or 0
        value_N, witness_N = np.full(len(rows), np.nan), np.full(len(rows), -1, np.int64)
        why_N = np.zeros(len(rows), np.int64)
        chance_N = draws(rows.keys, seed, "diverse")[there]
        if self.how == "score_first":
            order = np.argsort(-worth_N[there], kind="stable")
            taken, likeness, like = covering.score_first(vectors_ND, order, count, self.near)
            near = there[like >= 0]
            value_N[there], witness_N[near] = likeness, there[like[like >= 0]]
            why_N[near] = 1
        else:
            taken = self._taken(vectors_ND, count, chance_N, worth_N[there])
        keep = np.zeros(len(rows), np.bool_)
        keep[there[taken]] = True
        why_N[np.setdiff1d(np.arange(len(rows)), there)] = 2
        reasons = ("others stand for it", "it is too like a better one", "it cannot be measured")
        return Verdicts(keep, reasons, why_N, value_N, witness_N)

    def _worth(self, columns: Columns, rows: int) -> NDArray[np.float64]:
        if not self.measures:
            return np.zeros(rows)
        return combined([columns[f"m{n}"] for n in range(len(self.measures))], self.combine)

    def _taken(
        self,
        vectors_ND: NDArray[np.float32],
        count: int,
        chance_N: NDArray[np.uint64],
        worth_N: NDArray[np.float64],
    ) -> NDArray[np.int64]:
        if not len(vectors_ND):
            return np.empty(0, np.int64)
        if self.how == "centres":
            return covering.centres(vectors_ND, count)[0]
        if self.how == "facility":
            points = np.sort(np.argsort(chance_N, kind="stable")[: covering.POINTS])
            return covering.facilities(vectors_ND, count, points)[0]
        which_N = covering.clusters(vectors_ND, min(self.groups, len(vectors_ND)))
        return evenly(which_N, np.lexsort((chance_N, -worth_N)), count)


def evenly(which_N: NDArray[np.int64], order_N: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The first of each group, then the second of each, and so on, until there are so many. `order_N`: all rows, who
    comes first in front."""
    seen: dict[int, int] = {}
    turn_N = np.empty(len(order_N), np.int64)
    for place, row in enumerate(order_N.tolist()):
        group = int(which_N[row])
        turn_N[place] = seen[group] = seen.get(group, -1) + 1
    return order_N[np.argsort(turn_N, kind="stable")[:count]]


__all__ = ["Diverse", "evenly"]
