"""What a step shows of its objective's inside: sums over micro-batches, made means at the end.

`Objective.shown` gives some of these names for a micro-batch, each a scalar on the device without gradient. Those of
`SUMS` are added up over the step, of those of `MAXIMA` the greatest is kept (`joined`), and `means` makes of them what
is shown. Names of single tokens stand beside how many tokens they are of.

Shape suffixes: S = scored tokens of the micro-batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

SUMS = (
    "policy_tokens",
    "clipped",
    "drift",
    "entropy",
    "reference_tokens",
    "kl",
    "sampler_tokens",
    "mismatch",
    "mismatch_k3",
    "mismatch_outside",
    "value_tokens",
    "value",
    "return",
    "return_squared",
    "value_error",
    "value_error_squared",
    "teacher_tokens",
    "teacher_divergence",
)
"""What is added up."""
MAXIMA = ("ratio_max", "mismatch_max")
"""Of what the greatest is kept."""
_OF = {
    "policy_tokens": ("clipped", "drift", "entropy"),
    "reference_tokens": ("kl",),
    "sampler_tokens": ("mismatch", "mismatch_k3", "mismatch_outside"),
    "value_tokens": ("value", "return"),
    "teacher_tokens": ("teacher_divergence",),
}
"""What is a mean over which tokens."""


def sums(count: str, **values: Tensor) -> dict[str, Tensor]:
    """Each value's sum over its tokens, and how many those are, under the name `count`."""
    first = next(iter(values.values()))
    found = {name: value_S.detach().double().sum() for name, value_S in values.items()}
    return {count: torch.tensor(float(len(first)), dtype=torch.float64, device=first.device), **found}


def joined(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Several micro-batches, or several terms, as one: tensors or numbers."""
    found: dict[str, Any] = {}
    for part in parts:
        for name, value in part.items():
            if name not in found:
                found[name] = value
            elif name in MAXIMA:
                found[name] = max(found[name], value)
            else:
                found[name] = found[name] + value
    return found


def means(found: Mapping[str, float]) -> dict[str, float]:
    """What a step shows, out of what was joined:

    clipped            share of tokens whose ratio is beyond the bound that stops them
    drift              KL(old policy, policy) a token, by k3
    entropy            of the policy a token, in nats: exact where it is read, else estimated from what was drawn
    ratio_max          the greatest ratio of policy and old policy
    kl                 KL(policy, reference) a token, by k3
    mismatch           mean |log-probability here - that of the engine that drew|; _k3: the divergence;
                       _outside: share of tokens with a ratio outside 0.9 … 1.1; _max: the greatest |…|
    value, return      what the critic expects, and what it should
    explained          share of the returns' variance that the critic explains; below 0 it knows less than a mean
    teacher_divergence how far the model is from its teacher, a token
    """
    shown: dict[str, float] = {}
    for count, names in _OF.items():
        tokens = found.get(count, 0.0)
        shown |= {name: found[name] / tokens for name in names if tokens and name in found}
    shown |= {name: found[name] for name in MAXIMA if name in found}
    tokens = found.get("value_tokens", 0.0)
    if tokens:
        spread = found["return_squared"] / tokens - (found["return"] / tokens) ** 2
        error = found["value_error_squared"] / tokens - (found["value_error"] / tokens) ** 2
        if spread > 1e-12:
            shown["explained"] = 1 - error / spread
    return shown
