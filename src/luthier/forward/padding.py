"""Given sequences as padded batches of like length, for what reads tokens without producing any.

Shape suffixes: B = rows of the batch, T = tokens of the longest one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

TOKENS = 4096
"""Tokens of one batch, padding counted; a longer sequence is a batch of its own."""
PADDING = 1.1
"""A batch takes further sequences while padding adds at most a tenth to its tokens."""


def alike(lengths: Sequence[int], *, rows: int = 64, tokens: int = TOKENS) -> Iterator[list[int]]:
    """Numbers of the sequences that make a batch, the longest first (what does not fit in memory shows at once)."""
    waiting = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    while waiting:
        longest, real, count = max(lengths[waiting[0]], 1), 0, 0
        for number in waiting[:rows]:
            real += lengths[number]
            size = longest * (count + 1)
            if count and (size > tokens or size > PADDING * real):
                break
            count += 1
        yield waiting[:count]
        waiting = waiting[count:]


def padded(sequences: Sequence[NDArray[np.int32]]) -> tuple[Tensor, Tensor | None]:
    """Token ids with zeros after each row's end, (B, T), and the mask of real tokens; None where all are real."""
    longest = max(len(ids) for ids in sequences)
    ids_BT = torch.zeros(len(sequences), longest, dtype=torch.long)
    mask_BT = torch.zeros_like(ids_BT)
    for row, ids in enumerate(sequences):
        ids_BT[row, : len(ids)] = torch.from_numpy(ids.astype(np.int64))
        mask_BT[row, : len(ids)] = 1
    return ids_BT, None if bool(mask_BT.all()) else mask_BT
