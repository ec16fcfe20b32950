"""Rows that say nearly what another one says, the very same, or the same in other words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from luthier.data.duplicates import exact, keeping, minhash, near, semantic, shingles
from luthier.data.duplicates.keeping import Decision
from luthier.data.duplicates.rows import text_of
from luthier.data.selecting.embedding import Embedding, embedding, stacked
from luthier.data.steps.columns import there
from luthier.data.steps.measures import Column
from luthier.data.steps.step import Columns, Reread, SetStep, Verdicts
from luthier.data.steps.tools import Tools
from luthier.data.tally import number
from luthier.errors import LuthierError
from luthier.types import Example

USUAL = 0.8
SHOWN = 3
"""Clusters that the ledger names."""


@dataclass(frozen=True)
class Dedup(SetStep):
    """Leaves out rows that say nearly the same as another, which stays; other figures make another row.
    `dedup: 0.8` is `dedup: {near: 0.8}`."""

    version: ClassVar[int] = 2
    decides: ClassVar[tuple[str, ...]] = ("near", "exact", "semantic", "keep", "clusters")
    by_column: ClassVar[tuple[str, ...]] = ("keys",)
    embeds: ClassVar[Embedding | None] = None

    near: Annotated[float, Field(gt=0, le=1)] | None = None
    """How alike two rows must be: shared runs of three words (of Chinese, signs) over all, of the whole row and of
    its answers. Default: 0.8, unless `exact` or `semantic` is given."""
    exact: bool = False
    """Only rows that are the very same."""
    semantic: Annotated[float, Field(gt=0, le=1)] | None = None
    """Rows whose embeddings have at least this cosine: those of the recipe's model, unless `model` or `embedding` says
    otherwise."""
    model: str | None = None
    """For `semantic`: a run or a model whose last hidden states, their mean over a row's tokens, are compared; or the
    folder of an encoder (BERT and its kin)."""
    embedding: str | None = None
    """For `semantic`: the column of the rows that holds a list of numbers for each."""
    keep: str = "longest"
    """Which stays: longest, first, or the one with the highest value of this column (`reward`, or one of the rows)."""
    clusters: Annotated[int, Field(gt=1)] | None = None
    """Of very many embeddings, compare only those about the same of so many centres; some are missed then."""

    def __post_init__(self) -> None:
        if sum((self.near is not None, self.exact, self.semantic is not None)) > 1:
            raise ValueError("give one of near, exact and semantic; for two of them write two steps")
        if self.semantic is None and (self.embedding is not None or self.model is not None):
            raise ValueError("embedding and model say what semantic compares: give semantic, how alike rows must be")
        if self.embedding is not None and self.model is not None:
            raise ValueError("give one of embedding and model: where embeddings come from")
        if self.clusters is not None and self.semantic is None:
            raise ValueError("clusters are of embeddings: they need semantic")
        if self._threshold is not None:
            try:
                minhash.layout(self._threshold)
            except LuthierError as error:
                raise ValueError(f"{error.what}; {error.fix}") from error

    @property
    def _threshold(self) -> float | None:
        return None if self.exact or self.semantic is not None else USUAL if self.near is None else self.near

    @property
    def _column(self) -> Column | None:
        return None if self.keep in ("longest", "first") else Column(self.keep)

    @property
    def _asks(self) -> bool:
        return self.semantic is not None and self.embedding is None

    @property
    def reads(self) -> frozenset[str]:
        """Where embeddings stand, and what says which row stays."""
        named = {self.embedding} if self.embedding is not None else set[str]()
        return frozenset(named) | (frozenset() if self._column is None else self._column.reads)

    @property
    def wants(self) -> frozenset[str]:  # type: ignore[override]
        """A model, where it is one that embeds."""
        return frozenset({"engine"}) if self._asks else frozenset()

    def identity(self) -> Any:
        at = None if self._threshold is None else minhash.layout(self._threshold)
        told = [None if at is None else [at.bands, at.whole, at.answers], None if self._column is None else self.keep]
        semantic = [] if self.semantic is None else [None if self.embeds is None else self.embeds.identity]
        return told + semantic

    def ready(self, tools: Tools) -> Self:
        return self.holding(embeds=embedding(tools, self.model or "")) if self._asks else self

    def measure(self, batch: Sequence[Example], tools: Tools) -> Columns:
        texts = [text_of(example) for example in batch]
        columns: dict[str, NDArray[Any]] = {"length": np.array([text.size for text in texts], np.uint32)}
        if self._threshold is not None:
            columns["keys"], columns["sketch"] = minhash.measured(texts, minhash.layout(self._threshold))
        if self._column is not None:
            columns["worth"] = self._column.measure(batch, tools)
        if self.embedding is not None:
            columns["embedding"] = _embeddings(batch, self.embedding)
        elif self._asks:
            assert self.embeds is not None, "a step is made ready before it measures"
            columns["embedding"], columns["read"] = stacked(self.embeds, batch)
        if self.semantic is not None:
            columns["apart"] = shingles.of(texts).numbers
        return columns

    def decide(self, columns: Columns, rows: Reread, seed: int) -> Verdicts:
        decision = self._decision(columns, rows, self._order(columns, rows))
        how = "the very same as" if self.exact else "nearly the same as"
        reason = "it says in other words what another row says" if self.semantic else f"it says {how} another row"
        value = np.where(decision.kept, np.nan, decision.similarity)
        return Verdicts(decision.kept, (reason,), value=value, witness=decision.witness, notes=_told(decision, rows))

    def _decision(self, columns: Columns, rows: Reread, order: keeping.Rows) -> Decision:
        if self.exact:
            return exact.decide(rows.keys, order)
        if self.semantic is not None:
            there = np.asarray(columns["read"], np.bool_)[order] if "read" in columns else slice(None)
            apart = np.asarray(columns["apart"])
            return semantic.decide(columns["embedding"], self.semantic, order[there], self.clusters, apart)
        assert self._threshold is not None
        keys, sketches = (partial(columns.__getitem__, name) for name in ("keys", "sketch"))
        measured = near.Measured(keys, sketches, minhash.layout(self._threshold))
        return near.decide(
            measured, lambda asked: [text_of(rows[row]) for row in asked.tolist()], self._threshold, order
        )

    def _order(self, columns: Columns, rows: Reread) -> keeping.Rows:
        """All rows, the one that would rather stay first."""
        if self.keep == "first":
            return keeping.first(len(columns["length"]))
        if self.keep == "longest":
            return keeping.highest(columns["length"])
        worth = columns["worth"]
        if len(worth) and np.isnan(worth).all():
            raise LuthierError(
                f"no row has a number in the column {self.keep!r}, which was to say which duplicate stays",
                where="dedup.keep",
                fix=f"set keep to longest or first, or name what the rows have: {there(rows)}",
            )
        return keeping.highest(worth)


def _told(decision: Decision, rows: Reread) -> tuple[str, ...]:
    """The largest clusters, for the ledger."""
    found = decision.clusters()
    if not found:
        return ()
    largest = [f"{rows.source(kept)} stands for {len(others):,} more" for kept, others in found[:SHOWN]]
    have = "has" if len(found) == 1 else "have"
    more = "; …" if len(found) > SHOWN else ""
    return (f"{number(len(found))} {have} duplicates: {'; '.join(largest)}{more}",)


def _embeddings(batch: Sequence[Example], column: str) -> NDArray[np.float32]:
    """What the rows hold in the column. Raises LuthierError, naming the row, for one that holds no list of numbers, and
    for one whose list is of another length."""
    found: list[NDArray[np.float32]] = []
    for example in batch:
        given = example.meta.get(column)
        try:
            vector = np.asarray(given, np.float32)
        except (TypeError, ValueError):
            vector = np.empty(0, np.float32)
        if vector.ndim != 1 or not len(vector) or (found and len(vector) != len(found[0])):
            raise LuthierError(
                f"the row has no embedding in the column {column!r} (a list of as many numbers as the others)",
                where=str(example.source),
                fix="give every row one, or name another column under dedup.embedding",
            )
        found.append(vector)
    return np.stack(found)
