"""Have the weights changed since they were last looked at? What was read by old ones must not be read on.

Writing in place counts up a tensor's version; optimisers that write behind autograd's back are caught by a sum over
numbers of what may train. Which adapters are on counts, too.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer

SAMPLED = 4096
"""Numbers of each large trained weight that are summed up: a step of an optimiser changes nearly all."""


class Watch:
    """Remembers a state of a model's weights, and tells whether they are in another by now."""

    def __init__(self) -> None:
        self._weights: list[Any] = []
        self._versions: tuple[int, ...] = ()
        self._state: Hashable = None

    def touched(self) -> bool:
        """Has a weight been written in place? Cheap; asked between two tokens."""
        return tuple(weight._version for weight in self._weights) != self._versions

    def changed(self, module: Any) -> bool:
        """Is anything else than when this was last asked? True the first time."""
        self._weights = list(module.parameters())
        self._versions = tuple(weight._version for weight in self._weights)
        tuned = [part for part in module.modules() if isinstance(part, BaseTunerLayer)]
        state = (
            self._versions,
            tuple(weight.data_ptr() for weight in self._weights),
            tuple((tuple(part.active_adapters), part.disable_adapters, part.merged) for part in tuned),
            getattr(module, "_adapters_disabled", None),  # how PEFT switches virtual tokens off
            _sum([weight for weight in self._weights if weight.requires_grad]),
        )
        before, self._state = self._state, state
        return state != before

    def forget(self) -> None:
        """Whatever comes next is new."""
        self._state = None


@torch.no_grad()
def _sum(weights: list[Any]) -> float:
    """A sum over some numbers of each weight."""
    if not weights:
        return 0.0
    picked = [weight.detach().flatten()[:: max(1, weight.numel() // SAMPLED)] for weight in weights]
    return float(torch.cat([part.to("cpu", torch.float64) for part in picked]).sum())
