"""Rows as vectors: the mean of a language model's last hidden states, or what an encoder makes of the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from luthier.data.selecting.hashing import text_of
from luthier.data.selecting.likelihood import whole
from luthier.data.steps.tools import LOCAL, Encoder, Speaking, Tools
from luthier.types import Example, Turn


class Embedding(Protocol):
    """Rows as vectors."""

    @property
    def identity(self) -> str:
        """What the vectors hang on. Known without opening the model."""
        ...

    def __call__(self, rows: Sequence[Example]) -> list[NDArray[np.float32] | None]:
        """The vector of each row; None where it has none."""
        ...


def embedding(tools: Tools, model: str) -> Embedding:
    """The vectors of this model: a run, a language model, or the folder of an encoder. Raises LuthierError where there
    is none."""
    encoder = tools.encoder(model)
    return Hidden(tools.speaker((model, {"engine": LOCAL}))) if encoder is None else OfTexts(encoder)


def stacked(of: Embedding, rows: Sequence[Example]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The vectors of these rows, zeros for those without one, and which have one."""
    vectors = of(rows)
    size = next((len(one) for one in vectors if one is not None), 0)
    if not size:  # any batch has the same columns
        (probe,) = of([Example((Turn("user", "?"),))])
        size = 1 if probe is None else len(probe)
    there_N = np.array([one is not None for one in vectors], np.bool_)
    return np.stack([np.zeros(size, np.float32) if one is None else one for one in vectors]), there_N


@dataclass(frozen=True)
class Hidden:
    """The mean over a row's tokens of a language model's last hidden states; a long row is cut to what it can read."""

    speaking: Speaking

    @property
    def identity(self) -> str:
        """What the vectors hang on."""
        return self.speaking.identity

    def __call__(self, rows: Sequence[Example]) -> list[NDArray[np.float32] | None]:
        """The vector of each row; None where the template cannot render it."""
        made = [whole(self.speaking, one) for one in rows]
        found = iter(self.speaking.means([one for one in made if one is not None and len(one.ids[0])]))
        return [None if one is None or not len(one.ids[0]) else next(found) for one in made]


@dataclass(frozen=True)
class OfTexts:
    """What an encoder makes of a row's question and answers."""

    encoder: Encoder

    @property
    def identity(self) -> str:
        """What the vectors hang on."""
        return self.encoder.identity

    def __call__(self, rows: Sequence[Example]) -> list[NDArray[np.float32] | None]:
        """The vector of each row; None where it says nothing."""
        texts = [text_of(one) for one in rows]
        found = iter(self.encoder([text for text in texts if text.strip()]))
        return [next(found) if text.strip() else None for text in texts]


__all__ = ["Embedding", "embedding", "stacked"]
