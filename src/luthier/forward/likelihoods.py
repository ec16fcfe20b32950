"""Log-probabilities of rows that do not train, computed as in training: packed, prompts once, no logits kept.

Shape suffixes: S = scored tokens of a micro-batch, K = values of a micro-batch, C = likeliest tokens, D = hidden size,
X = numbers of each value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from luthier.forward.batches import Batch, micro_batches
from luthier.forward.forward import Forward
from luthier.forward.readouts import LOGP, TOP_IDS, TOP_K
from luthier.recipe.resolve import LARGEST_MICRO
from luthier.types import Encoded, TokenStore

AT_ONCE = 256
"""Examples laid out together: enough to fill micro-batches well."""
LayOut = Callable[[Sequence[Encoded]], list[Batch]]


@dataclass(frozen=True)
class Likely:
    """What a model thinks of each scored token of a row, and which tokens it would rather have had there."""

    logp_S: NDArray[np.float32]
    top_SC: NDArray[np.float32]
    """The log-probabilities of the likeliest tokens, falling; the scored token's own is the same number here."""
    ids_SC: NDArray[np.int64]


class Likelihoods:
    """The likelihoods of a model that does other things at other times: it is given back as it was after each call."""

    def __init__(self, module: Any, off: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        """`off` gives the block inside which the module is the model that is asked for."""
        self._module, self._off, self._device = module, off, next(module.parameters()).device

    def logprobs(self, rows: Sequence[Encoded]) -> list[NDArray[np.float32]]:
        """For each row, the log-probability of each scored token of its responses, one response after the other."""
        with reading(self._module) as forward, self._off():
            lay_out = fitting(forward, LARGEST_MICRO)
            return list(each(rows, lay_out, lambda batch: forward.rows(batch).logp_S, self._device))

    def with_top(self, rows: Sequence[Encoded], count: int) -> list[Likely]:
        """The same beside the `count` likeliest tokens at each place (at most `readouts.TOP`)."""
        with reading(self._module) as forward, self._off():

            def values(batch: Batch) -> Tensor:
                found = forward.rows(batch, (LOGP, TOP_K))
                top_SC, ids_SC = (found.readouts[name][:, :count] for name in (TOP_K, TOP_IDS))
                # numbers of tokens are whole in fp64
                return torch.cat([found.logp_S[:, None].double(), top_SC.double(), ids_SC.double()], 1)

            lay_out = fitting(forward, LARGEST_MICRO)
            return [_likely(value_SX) for value_SX in each(rows, lay_out, values, self._device)]

    def means(self, rows: Sequence[Encoded]) -> list[NDArray[np.float32]]:
        """For each row (of one sequence) the mean over its tokens of the backbone's last hidden states: D."""
        with reading(self._module, share_prefix=False) as forward, self._off():

            def values(batch: Batch) -> Tensor:
                hidden_TD = forward.hidden(batch).float()
                return torch.stack([hidden_TD[torch.from_numpy(place)].mean(0) for place in batch.places])

            lay_out = fitting(forward, LARGEST_MICRO)
            found = each(rows, lay_out, values, self._device, count=lambda row: len(row.ids))
            return [mean_1D[0] for mean_1D in found]


def _likely(value_SX: NDArray[np.float64]) -> Likely:
    count = (value_SX.shape[1] - 1) // 2
    logp_S1, top_SC, ids_SC = np.split(value_SX, [1, 1 + count], 1)
    return Likely(logp_S1[:, 0].astype(np.float32), top_SC.astype(np.float32), ids_SC.astype(np.int64))


@contextmanager
def reading(module: Any, **choices: Any) -> Iterator[Forward]:
    """A forward pass without dropout, for the while; afterwards the module is in the mode it was in."""
    training = module.training
    if training:
        module.eval()
    try:
        with Forward(module, **choices).opened() as forward:
            yield forward
    finally:
        if training:
            module.train()


def scored(row: Encoded) -> int:
    """How many tokens of a row are scored."""
    return row.scored


def fitting(forward: Forward, tokens: int) -> LayOut:
    """Lays rows out as this model reads them, in micro-batches of at most so many tokens."""

    def lay_out(examples: Sequence[Encoded]) -> list[Batch]:
        return micro_batches(examples, tokens, share_prefix=forward.share_prefix, layout=forward.layout)

    return lay_out


@torch.no_grad()
def each(
    rows: Sequence[Encoded] | TokenStore,
    lay_out: LayOut,
    values: Callable[[Batch], Tensor],
    device: torch.device,
    *,
    count: Callable[[Encoded], int] = scored,
    at_once: int = AT_ONCE,
) -> Iterator[NDArray[Any]]:
    """What `values` gives for a micro-batch (K, or K, X; `count` of them for each row), row by row in their order."""
    for begin in range(0, len(rows), at_once):
        some = [rows[i] for i in range(begin, min(begin + at_once, len(rows)))]
        found: list[NDArray[Any]] = [np.empty(0, np.float32)] * len(some)
        for batch in lay_out(some):
            value_K = values(batch.to(device)).cpu().numpy()
            ends = np.cumsum([count(example) for example in batch.examples])
            for row, part in zip(batch.chosen, np.split(value_K, ends[:-1]), strict=True):
                found[row] = part
        yield from found
