"""What the rooms ask of one another and of plug-ins, as protocols."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from luthier.types.examples import Encoded, Example, Response, Source


@runtime_checkable
class StepSource(Protocol):
    """Where each optimiser step's examples come from: a file's rows in an order, or a model that writes them.

    Steps count from 0. The loop asks for each step once, in order, and asks again after it went back to a checkpoint.
    """

    @property
    def identity(self) -> str:
        """What it draws from, by content: a checkpoint goes on only where it finds the same again."""
        ...

    @property
    def total(self) -> int:
        """Optimiser steps of the run."""
        ...

    @property
    def may_prefetch(self) -> bool:
        """May step t + 1 be asked for before step t has changed the weights?"""
        ...

    def next(self, step: int, version: int) -> Sequence[Encoded]:
        """The examples of one step. `version`: how many steps the weights of the model have behind them."""
        ...

    def epoch(self, step: int) -> float:
        """Passes over its rows once step `step` is done."""
        ...

    def every(self) -> Sequence[Encoded] | TokenStore | None:
        """All examples that will come, each once; None where they are made on the way."""
        ...

    def heaviest(self, budget: int) -> Sequence[Encoded]:
        """The examples of a step that needs the most memory in micro-batches of `budget` tokens; () if not known."""
        ...

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it: plain JSON values."""
        ...

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Put back what `state()` gave."""
        ...


@runtime_checkable
class Scorer(Protocol):
    """A metric, a reward and a filter in one: how good is this response to this example? None = cannot say."""

    def __call__(self, example: Example, response: Response) -> float | None: ...


@runtime_checkable
class GroupScorer(Protocol):
    """A scorer that judges the responses to one prompt beside one another: by rank, by agreement, by majority."""

    sees_group: ClassVar[bool]
    """True: `group` is what counts."""

    def group(self, example: Example, responses: Sequence[Response]) -> list[float | None]:
        """The score of each response, in order; None where it cannot say."""
        ...


@runtime_checkable
class ManyScorer(Protocol):
    """A scorer that is asked of many responses at once."""

    def many(self, pairs: Sequence[tuple[Example, Response]]) -> list[float | None]:
        """The score of each response, in order."""
        ...


@runtime_checkable
class Format(Protocol):
    """A row shape: recognised by its columns, read into an Example."""

    def matches(self, columns: frozenset[str]) -> bool: ...

    def read(self, row: Mapping[str, Any]) -> Example: ...


@runtime_checkable
class Tracker(Protocol):
    """Where the run's numbers go besides events.jsonl."""

    def log(self, event: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


class Rows(Protocol):
    """The ragged rows an objective sees; `luthier.objectives.rows.Rows` is the implementation."""

    num_rows: int


class TokenStore(Protocol):
    """Tokenised examples, memory-mapped: what the data room hands to the loop."""

    digest: str
    """Content hash of the ids and weights, the same on every machine."""
    lengths: NDArray[np.int32]
    """Tokens of each example, all its responses together."""
    scored: NDArray[np.int32]
    """Scored tokens of each example."""

    @property
    def hashes(self) -> NDArray[np.uint64]:
        """Content hash of each example (ids, weights, columns), the same on every machine and in every run."""
        ...

    @property
    def responses(self) -> NDArray[np.int32]:
        """Sequences of each example."""
        ...

    @property
    def rewards(self) -> NDArray[np.float32]:
        """The reward of each sequence, example after example; NaN where nothing is known."""
        ...

    @property
    def steps(self) -> NDArray[np.int32]:
        """Judged steps of each example, all its responses together."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Encoded: ...

    def source(self, index: int) -> Source:
        """The file and row that example `index` came from."""
        ...
