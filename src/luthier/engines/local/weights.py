"""Have the weights changed since they were last looked at? What was read by old ones must not be read on.

Writing in place counts up a tensor's version; optimisers that write behind autograd's back are caught by a sum over
numbers of what may train. Which adapters are on counts, too.
"""

from __future__ import annotations

from typing import Any

import torch

from luthier.models.decode import watch

SAMPLED = 4096
"""Numbers of each large trained weight that are summed up: a step of an optimiser changes nearly all."""


class Watch:
    """Remembers a state of a model's weights, and tells whether they are in another by now."""

    def __init__(self) -> None:
        self._seen: watch.Watch | None = None
        self._beside: tuple[int, Any, float] = (0, None, 0.0)

    def touched(self) -> bool:
        """Has a weight been written in place or put elsewhere? Cheap; asked between two tokens."""
        return self._seen is not None and not self._seen.same_places()

    def changed(self, module: Any) -> bool:
        """Is anything else than when this was last asked? True the first time."""
        disabled = getattr(module, "_adapters_disabled", None)  # how PEFT switches virtual tokens off
        beside = id(module), disabled, _sum([weight for weight in module.parameters() if weight.requires_grad])
        if self._seen is not None and beside == self._beside and self._seen.same():
            return False
        self._seen, self._beside = watch.Watch(module), beside
        return True

    def forget(self) -> None:
        """Whatever comes next is new."""
        self._seen = None


@torch.no_grad()
def _sum(weights: list[Any]) -> float:
    """A sum over some numbers of each weight."""
    if not weights:
        return 0.0
    picked = [weight.detach().flatten()[:: max(1, weight.numel() // SAMPLED)] for weight in weights]
    return float(torch.cat([part.to("cpu", torch.float64) for part in picked]).sum())
