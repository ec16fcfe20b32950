"""The choice of the next token: greedy, or drawn from the tempered, truncated distribution.

Shape suffixes: B = rows of the batch, V = vocabulary, C = candidates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from luthier.types import Sampling

WORD = 2**32
"""A seed has two words, and so has what tells draws apart: its low word, then its high word with the row's number."""
CANDIDATES = 1024
"""Tokens sorted for top_p at first; the whole vocabulary only when they hold too little of the mass."""


class Many:
    """Chooses a token for each row of a batch.

    A row's draws depend on its seed and its number alone, so that they do not change with the batch around it.
    """

    def __init__(
        self,
        sampling: Sampling,
        prompts: Sequence[Sequence[int]],
        numbers: Sequence[int],
        seeds: Sequence[int] | None = None,
    ) -> None:
        """`seeds`: one for each row; without them all have the sampling's, and are told apart by their numbers."""
        self._sampling = sampling
        self._seen = [set(prompt) for prompt in prompts] if sampling.repetition_penalty != 1.0 else None
        seeds = [sampling.seed] * len(numbers) if seeds is None else seeds
        keys = [
            [seed % WORD, (seed // WORD) % WORD + (number % WORD) * WORD]
            for seed, number in zip(seeds, numbers, strict=True)
        ]
        self._draws = [np.random.Generator(np.random.Philox(key=key)) for key in keys]

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows of the batch only."""
        self._draws = [self._draws[row] for row in rows]
        if self._seen is not None:
            self._seen = [self._seen[row] for row in rows]

    def __call__(self, logits_BV: Tensor) -> list[int]:
        """The next token of each row."""
        logits_BV = logits_BV.float()
        if self._seen is not None:
            logits_BV = self._penalised(logits_BV)
        if self._sampling.temperature == 0:
            chosen = logits_BV.argmax(-1).tolist()
        else:
            chosen = self._draw(logits_BV / self._sampling.temperature)
        if self._seen is not None:
            for seen, token in zip(self._seen, chosen, strict=True):
                seen.add(token)
        return chosen

    def _penalised(self, logits_BV: Tensor) -> Tensor:
        """CTRL's penalty (arXiv:1909.05858): tokens already there lose, whatever their logit's sign."""
        assert self._seen is not None
        logits_BV = logits_BV.clone()  # the caller's stay what the model said
        for logits_V, seen in zip(logits_BV, self._seen, strict=True):
            places = torch.tensor(sorted(seen), device=logits_V.device)
            old = logits_V[places]
            penalty = self._sampling.repetition_penalty
            logits_V[places] = torch.where(old > 0, old / penalty, old * penalty)
        return logits_BV

    def _draw(self, logits_BV: Tensor) -> list[int]:
        log_total_B1 = logits_BV.logsumexp(-1, keepdim=True)
        top_k, top_p = self._sampling.top_k, self._sampling.top_p
        if not top_k and top_p >= 1:
            probability_BC, token_BC = (logits_BV - log_total_B1).exp().double(), None
        else:
            count = min(top_k or CANDIDATES, logits_BV.shape[-1])
            logits_BC, token_BC = logits_BV.topk(count, -1)
            if top_k:  # the kept tokens are the whole distribution from here on, for top_p too
                log_total_B1 = logits_BC.logsumexp(-1, keepdim=True)
            probability_BC = (logits_BC - log_total_B1).exp().double()
            if not top_k and bool((probability_BC.sum(-1) < top_p).any()):
                logits_BC, token_BC = logits_BV.sort(-1, descending=True)
                probability_BC = (logits_BC - log_total_B1).exp().double()
            before_BC = probability_BC.cumsum(-1) - probability_BC
            probability_BC = probability_BC.masked_fill(before_BC >= top_p, 0) if top_p < 1 else probability_BC
        below_BC = probability_BC.cumsum(-1)
        draw_B = torch.tensor([draw.random() for draw in self._draws], dtype=torch.float64, device=below_BC.device)
        place_B1 = torch.searchsorted(below_BC, (draw_B * below_BC[:, -1])[:, None], right=True)
        place_B1 = place_B1.clamp(max=below_BC.shape[-1] - 1)
        return (place_B1 if token_BC is None else token_BC.gather(-1, place_B1))[:, 0].tolist()


class Drawn:
    def __init__(self, token, logp, drawn=0.0, top=()):
        self.token, self.logp, self.drawn, self.top = token, logp, drawn, top

class Choice(Many):
    ended = False
    def __init__(self, sampling, prompt, number, grammar=None):
        Many.__init__(self, sampling, [prompt], [number])

def choose(logits, rows):
    out = []
    for l, row in zip(logits, rows, strict=True):
        t = Many.__call__(row, l[None])[0]
        out.append(Drawn(t, float(l[t] - l.logsumexp(-1))))
    return out

def check(sampling, vocabulary): pass
