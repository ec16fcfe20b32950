"""Rows of a rollout by hand, in double precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from luthier.objectives.rows import Rows

Lists = Sequence[Sequence[float]]


def rollout(logp: Lists | Sequence[Tensor], *, ref: Lists | None = None, reward: Any = None, **columns: Lists) -> Rows:
    """One response a list; `columns`: one number a token. Tensors keep their gradient."""
    rows = [torch.as_tensor(one, dtype=torch.float64) for one in logp]
    logp_S = torch.cat(rows)
    return Rows(
        logp_S if logp_S.requires_grad else logp_S.requires_grad_(),
        torch.ones_like(logp_S.detach()),
        torch.cat([torch.full((len(one),), n) for n, one in enumerate(rows)]),
        len(rows),
        ref_S=None if ref is None else flat(ref),
        columns={
            **{name: flat(values) for name, values in columns.items()},
            **({} if reward is None else {"reward": torch.tensor(reward, dtype=torch.float64)}),
        },
    )


def flat(values: Lists) -> Tensor:
    return torch.cat([torch.as_tensor(one, dtype=torch.float64) for one in values])


def gradient(loss: Tensor, rows: Rows) -> list[float]:
    """Of a loss's sum, by token."""
    (found,) = torch.autograd.grad(loss.sum(), rows.logp_S, retain_graph=True)
    return found.tolist()
