"""One step of decoding: tokens of many sequences, each at its place, in one pass over the weights.

Keys and values lie in pages of `PAGE` tokens. Pages are numbered by who hands them out; a reader owns their memory.

Shape suffixes: T = tokens of the step, R = sequences, P = pages of the longest sequence, W = tokens whose logits are
wanted, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

PAGE = 16
"""Tokens of a page."""
NO_ID = -1
"""The id of a virtual token."""
OWN = -1
"""The adapter of a token that the model answers as it stands, with whatever adapter of its own is switched on."""


@dataclass(frozen=True, slots=True)
class Run:
    """Tokens of one sequence that are read in this step, one after the other."""

    ids: Sequence[int]
    start: int
    """Place of the first: so many tokens of the sequence have been read before."""
    pages: Sequence[int]
    """Pages of the whole sequence, up to these tokens' last."""
    wanted: bool
    """Are the logits after the last token wanted?"""
    adapter: int = OWN
    """Which of the reader's adapters, by the number that `Reader.load` gave."""
    prompt: int = 0
    """So many tokens of the sequence are its prompt (for adapters that treat tokens by their place in it)."""


class Reader(Protocol):
    """What reads tokens: owns the pages' memory and knows the weights.

    What it gives for a sequence depends on that sequence alone.
    """

    page_bytes: int
    """Memory of one page, all layers together."""
    shares: bool
    """May a sequence begin with pages that another one filled?"""
    whole_prompts: bool
    """Must a prompt be read in one run?"""
    first: int
    """Virtual tokens before each prompt: they are read like any others, under the id `NO_ID`."""

    def grow(self, pages: int) -> None:
        """See to it that pages 0 .. `pages` - 1 have memory; those that had keep what lies in them."""
        ...

    def copy(self, source: int, target: int) -> None:
        """Copy a page."""
        ...

    def read(self, runs: Sequence[Run]) -> Tensor:
        """Read the runs' tokens. Returns the logits of those wanted, in the order of the runs: W, V in fp32."""
        ...

    def release(self, pages: Sequence[int]) -> None:
        """A sequence that lay in these pages has ended or was put back; what others hold, too, stays."""
        ...

    def rest(self) -> None:
        """Give the pages' memory back: no sequence lies in any."""
        ...

    def refresh(self) -> None:
        """Look at the weights again: they may have been trained, moved or replaced."""
        ...


def places(runs: Sequence[Run]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """(ids, positions, number of the run) of each token of a step, T."""
    lengths = [len(run.ids) for run in runs]
    ids_T = np.fromiter((token for run in runs for token in run.ids), np.int64, sum(lengths))
    run_T = np.repeat(np.arange(len(runs)), lengths)
    first = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
    position_T = np.arange(len(ids_T)) - np.repeat(first, lengths) + np.repeat([run.start for run in runs], lengths)
    return ids_T, position_T, run_T
