"""An encoded example before it is fitted to the longest allowed row.

Shape suffixes: T = tokens of a sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from luthier.data.encode.mask import Tokens
from luthier.types import Encoded, Source

LossOn = Literal["assistant", "last", "all"]


@dataclass(slots=True)
class Tokenised:
    """An encoded example before it is fitted to the longest allowed row."""

    sequences: list[Tokens]
    text: bool
    """Plain text: it may be split anywhere."""
    turns: bool
    """One conversation: it may be cut behind a turn."""
    columns: dict[str, Any] = field(default_factory=dict)
    """What else is known of it (`luthier.columns`), one value a sequence where a column has one a response."""
    shortened: int = 0
    """Scored turns of which the template renders only a part."""

    @property
    def judged(self) -> bool:
        """Are its responses told apart by what they are worth, or its steps?"""
        return "reward" in self.columns or "step_reward" in self.columns

    def encoded(self, source: Source | None = None) -> Encoded:
        """What the loop takes."""
        ids = tuple(tokens.ids_T for tokens in self.sequences)
        weights = tuple(tokens.weights_T for tokens in self.sequences)
        return Encoded(ids, weights, shared_prefix(self.sequences), self.columns, source)


def shared_prefix(sequences: Sequence[Tokens]) -> int:
    """Length of the prefix that all sequences have in common and none scores; 0 for a single sequence."""
    if len(sequences) < 2:
        return 0
    length = min(len(tokens.ids_T) for tokens in sequences)
    for tokens in sequences:
        scored = np.flatnonzero(tokens.weights_T[:length])
        length = int(scored[0]) if len(scored) else length
        differ = np.flatnonzero(tokens.ids_T[:length] != sequences[0].ids_T[:length])
        length = int(differ[0]) if len(differ) else length
    return length
