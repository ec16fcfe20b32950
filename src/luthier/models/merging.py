"""What merging changes: the merged model against the trained one, on rows of the run's own data.

Adding an update into weights of 16 bits rounds it, and a base that was trained on in few bits has to be written out in
16: both shift the model a little. How much is measured where it matters, in the distributions of the scored tokens.

Shape suffixes: T = tokens of a row, S = scored tokens of a row, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from luthier.errors import LuthierError
from luthier.models.loading.quiet import quiet
from luthier.models.policy import Policy
from luthier.types import Encoded

ROWS = 16
"""Rows measured at most."""


@dataclass(frozen=True)
class Drift:
    """How far a written model is from the trained one."""

    kl: float
    """Mean over scored tokens of KL(trained || written), in nats."""
    largest: float
    """Largest change of a scored token's log-probability."""
    rows: int
    tokens: int

    def __str__(self) -> str:
        return (
            f"drift from the trained model: KL {self.kl:.2g} nats a token, log-probabilities move by at most "
            f"{self.largest:.2g} ({self.tokens:,} tokens of {self.rows} rows)"
        )


def drift(policy: Policy, folder: Path, rows: Sequence[Encoded]) -> Drift | None:
    """The trained model against the one written to `folder`, on at most `ROWS` rows; None without a scored token."""
    with quiet():
        build: Any = AutoModelForCausalLM.from_pretrained
        written = build(
            folder, dtype="auto", trust_remote_code=policy.model.trust_remote_code, local_files_only=True
        ).to(policy.device)
    total, largest, tokens, measured = 0.0, 0.0, 0, 0
    was_training = policy.module.training
    policy.module.eval()
    with torch.inference_mode():
        for row in rows[:ROWS]:
            before_SV, target_S = scored(policy.module, row, policy.device)
            after_SV, _ = scored(written.eval(), row, policy.device)
            if not len(target_S):
                continue
            total += float((before_SV.exp() * (before_SV - after_SV)).sum())
            moved_S = (before_SV - after_SV).gather(1, target_S[:, None])
            largest = max(largest, float(moved_S.abs().max()))
            tokens, measured = tokens + len(target_S), measured + 1
    policy.module.train(was_training)
    return Drift(max(total / tokens, 0.0), largest, measured, tokens) if tokens else None


def scored(module: Any, row: Encoded, device: torch.device) -> tuple[Tensor, Tensor]:
    """(log-probabilities at the scored tokens' places, S V in fp32; the scored tokens, S), of all responses."""
    logps, targets = [], []
    for ids, weights in zip(row.ids, row.weights, strict=True):
        ids_T = torch.as_tensor(ids, dtype=torch.long, device=device)
        places_S = torch.as_tensor(weights, device=device).nonzero().squeeze(1)
        logits_TV = module(input_ids=ids_T[None], use_cache=False).logits[0]
        logps.append(torch.log_softmax(logits_TV[places_S - 1].float(), -1))
        targets.append(ids_T[places_S])
    return torch.cat(logps), torch.cat(targets)


def refuse_beyond(found: Drift, bound: float, folder: Path) -> None:
    """Raises LuthierError when the drift is beyond the bound."""
    if not found.kl <= bound:
        raise LuthierError(
            f"the written model differs from the trained one: KL {found.kl:.2g} nats a token, the bound is {bound:g}",
            where=str(folder),
            fix="write it in fp32 (dtype=fp32), or raise the bound (drift=…) if that is near enough for you",
        )
