"""Where a model's weights lie among the processes: today whole on each of them.

Sharded weights would be placed here too, and nowhere else: everything that comes later reads a layer's weights when it
uses them, and sums gradients over the processes by `Group`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from luthier.distributed.group import Group

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter


class Policy(Protocol):
    """What is asked of a model."""

    module: Any

    @property
    def digest(self) -> str: ...
    def trainable(self) -> list[tuple[str, Parameter]]: ...


def place(policy: Policy, group: Group) -> None:
    """Give each process the model whole, beginning as the first one's does. Raises LuthierError where a process has
    another base, or other first weights, for then all that follows would differ."""
    if not group.several:
        return
    group.same("the weights of the base model", {"the files it is read from": policy.digest})
    agree(group, dict(policy.trainable()))


def agree(group: Group, weights: Mapping[str, Tensor]) -> None:
    """Raises LuthierError, in all processes, where the weights that train differ from one to another."""
    if group.several:
        group.same("the weights that train", {name: digest(weight) for name, weight in weights.items()})


def digest(tensor: Tensor) -> str:
    """A short name for a tensor's type, shape and bits."""
    import torch

    found = hashlib.blake2b(f"{tensor.dtype} {tuple(tensor.shape)}".encode(), digest_size=8)
    found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
