"""What `sample.c` computes, in numpy and in fp64: serves where there is no compiler, and says what is right.

Shape suffixes: V = vocabulary, C = tokens that are kept, the likeliest first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from luthier.models.blocks.kernels.sample import NO_NUMBER, NOTHING_LEFT

if TYPE_CHECKING:
    from luthier.engines.choice import Choice

Reals = NDArray[np.float64]


def draw(logits_V: NDArray[np.float32], choice: Choice) -> None:
    """Fill in the answers of a choice's row, as C does."""
    row, sampling = choice.row, choice.sampling
    raw_V = logits_V.astype(np.float64)
    row.token = NO_NUMBER
    if np.isnan(raw_V).any() or not np.isfinite(raw_V.max()):
        return
    logp_V = raw_V - raw_V.max()
    logp_V -= np.log(np.exp(logp_V).sum())
    likeliest = np.argsort(-raw_V, kind="stable")[: sampling.top_logprobs]
    for place in range(len(row.top)):
        there = place < len(likeliest) and np.isfinite(raw_V[likeliest[place]])
        row.top[place] = likeliest[place] if there else -1
        row.top_logp[place] = logp_V[likeliest[place]] if there else 0.0
    with np.errstate(over="ignore"):
        changed_V = _changed(raw_V, choice).astype(np.float32).astype(np.float64)
    if np.isnan(changed_V).any() or changed_V.max() == np.inf:
        return
    if changed_V.max() == -np.inf:
        row.token = NOTHING_LEFT
    elif sampling.temperature == 0:
        row.token, row.drawn = int(changed_V.argmax()), 0.0
    else:
        row.token, row.drawn = _drawn(changed_V, choice)
    if row.token >= 0:
        row.logp = min(logp_V[row.token], 0.0)


def _changed(logits_V: Reals, choice: Choice) -> Reals:
    """Bias, penalties (repetition is CTRL's, arXiv:1909.05858: tokens already there lose, whatever their logit's sign)
    and grammar."""
    sampling, changed_V = choice.sampling, logits_V.copy()
    np.add.at(changed_V, choice.bias.token, choice.bias.added)
    old = changed_V[choice.seen.token]
    old = np.where(old > 0, old / sampling.repetition_penalty, old * sampling.repetition_penalty)
    old -= np.where(choice.seen.count > 0, sampling.presence_penalty, 0.0)
    changed_V[choice.seen.token] = old - sampling.frequency_penalty * choice.seen.count
    if choice.mask is not None:
        bits_V = np.unpackbits(choice.mask.view(np.uint8), bitorder="little")[: len(changed_V)]
        changed_V[bits_V == 0] = -np.inf
    return changed_V


def _drawn(logits_V: Reals, choice: Choice) -> tuple[int, float]:
    sampling = choice.sampling
    inverse = min(max(1 / sampling.temperature, 1e-30), 1e30)  # 0 times it is 0, and infinity stays what it is
    scaled_V = (logits_V - logits_V.max()) * inverse
    weight_V = np.where(scaled_V < -87, 0.0, np.exp(scaled_V))  # what fp32 has no room for cannot come
    if not sampling.top_k and sampling.top_p >= 1 and not sampling.min_p:
        token_C = np.flatnonzero(weight_V)
        weight_C = weight_V[token_C]
    else:
        token_C = np.argsort(-weight_V, kind="stable")[: np.count_nonzero(weight_V)]
        token_C = token_C[: sampling.top_k or None]
        weight_C = weight_V[token_C]
        total = weight_C.sum() if sampling.top_k else weight_V.sum()
        before_C = weight_C.cumsum() - weight_C
        kept_C = weight_C >= sampling.min_p
        if sampling.top_p < 1:
            kept_C &= before_C < sampling.top_p * total
        token_C, weight_C = token_C[kept_C], weight_C[kept_C]
    below_C = weight_C.cumsum()
    place = int(np.searchsorted(below_C, choice.row.draw * below_C[-1], side="right"))
    token = int(token_C[min(place, len(token_C) - 1)])
    return token, min(float(scaled_V[token] - np.log(below_C[-1])), 0.0)
