"""Gradients of the next-token loss with respect to matrices of the base, a few layers at a time to save memory.

Shape suffixes: O = outputs, I = inputs, T = tokens of a row, S = scored tokens of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from luthier.models.adapters.kit.targets import is_linear
from luthier.types import Encoded

AT_ONCE = 2**28
"""Numbers of gradients held at once (1 GiB in fp32); larger models take several passes over the rows."""


def gradients(module: Any, layers: dict[str, Any], sample: Sequence[Encoded]) -> Iterator[tuple[str, Tensor]]:
    """Each layer's name and gradient, O x I in fp32: of the loss summed over the scored tokens of the rows' first
    responses, without dropout."""
    for group in _groups(layers):
        yield from _gradients(module, group, sample).items()


def _groups(layers: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The layers in order, as many at a time as their gradients may be held."""
    group: dict[str, Any] = {}
    for name, layer in layers.items():
        if group and sum(each.weight.numel() for each in group.values()) + layer.weight.numel() > AT_ONCE:
            yield group
            group = {}
        group[name] = layer
    yield group


def _gradients(module: Any, layers: dict[str, Any], sample: Sequence[Encoded]) -> dict[str, Tensor]:
    """Those of one pass over the rows. The module is left as it was."""
    found = {name: torch.zeros_like(layer.weight, dtype=torch.float32) for name, layer in layers.items()}
    asked = {name: weight.requires_grad for name, weight in module.named_parameters()}
    training = module.training
    module.eval().requires_grad_(False)
    handles = []
    for name, layer in layers.items():
        layer.weight.requires_grad_(True)
        handles.append(layer.weight.register_post_accumulate_grad_hook(_move_to(found[name])))
    try:
        with torch.enable_grad():
            for row in sample:
                _loss(module, row).backward()  # type: ignore[no-untyped-call]
    finally:
        for handle in handles:
            handle.remove()
        for name, weight in module.named_parameters():
            weight.requires_grad_(asked[name])
        module.train(training)
    return {name: total if is_linear(layers[name]) else total.T for name, total in found.items()}


def _move_to(total: Tensor) -> Callable[[Tensor], None]:
    """A hook that adds a weight's gradient to `total` and drops it: rows add up in fp32."""

    def add(weight: Tensor) -> None:
        assert weight.grad is not None
        total.add_(weight.grad)
        weight.grad = None

    return add


def _loss(module: Any, row: Encoded) -> Tensor:
    """Minus the weighted log-probability of the first response's scored tokens."""
    ids_T = torch.as_tensor(row.ids[0], dtype=torch.long, device=module.device)
    weight_T = torch.as_tensor(row.weights[0], device=module.device)
    place_S = weight_T.nonzero().squeeze(1)
    logits_SV = module(input_ids=ids_T[None], use_cache=False, logits_to_keep=place_S - 1).logits[0].float()
    loss_S = torch.nn.functional.cross_entropy(logits_SV, ids_T[place_S], reduction="none")
    return (weight_T[place_S] * loss_S).sum()
