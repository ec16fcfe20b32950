"""How far the policy is from what drew the rows: the old policy, and the engine.

Shape suffixes: S = scored tokens of the micro-batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from luthier.objectives.rows import Rows


def drift(rows: Rows) -> Tensor:
    """log pi - log pi_old of each token, S. Where nobody wrote the old one down, the policy as it stands is the old
    one: 0, with the gradient of log pi."""
    return rows.logp_S - old(rows)


def old(rows: Rows) -> Tensor:
    """The old policy's log-probabilities, S, no gradient."""
    now_S = rows.logp_S.detach()
    if "old_logp" not in rows.columns:
        return now_S
    written_S = rows.column("old_logp")
    return torch.where(written_S.isnan(), now_S, written_S)


def gap(rows: Rows) -> Tensor | None:
    """log pi_old - log pi_sampler of each token, S: NaN where the engine said nothing; None where it never did."""
    return old(rows) - rows.column("sampler_logp") if "sampler_logp" in rows.columns else None
