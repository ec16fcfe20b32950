"""Which layers an adapter goes on: all linear ones, some by name, or those that an expression matches."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from luthier.errors import LuthierError
from luthier.models.quantizers import is_quantised
from luthier.recipe.schema import Expression
from luthier.registry import suggest

if TYPE_CHECKING:
    from torch import nn

ALL_LINEAR = "all-linear"
Targets = Expression | tuple[str, ...]


def linear_layers(module: Any, *, head: bool = False) -> dict[str, Any]:
    """Every linear layer by name (GPT-2's Conv1D is one, transposed), the output head left out unless `head`."""
    from transformers.pytorch_utils import Conv1D

    left_out = None if head else module.get_output_embeddings()
    return {
        name: layer
        for name, layer in module.named_modules()
        if (is_linear(layer) or isinstance(layer, Conv1D)) and layer is not left_out
    }


def free_layers(module: Any, targets: Targets, adapter: str, *, on_head: bool = False) -> dict[str, Any]:
    """The linear layers that `targets` means and that are not frozen. Raises LuthierError when there are none.

    The output head is meant where it is named, or matched by an expression; then `on_head` says whether the adapter can
    go there.
    """
    linear, head = linear_layers(module, head=True), module.get_output_embeddings()
    if targets == ():
        raise LuthierError(
            f"{adapter}: targets is empty", where=f"adapt.{adapter}.targets", fix="leave it out for all linear layers"
        )
    named = list(linear_layers(module)) if targets == ALL_LINEAR else chosen(linear, targets, adapter)
    output = next((name for name in named if linear[name] is head), None)
    if output is not None and not on_head:
        raise LuthierError(
            f"{adapter}: {output!r} is the output head, and {adapter} goes on the layers of the blocks alone",
            where=f"adapt.{adapter}.targets",
            fix="leave it out there; `adapt: lora` goes on the head, too, and {train: head} beside another adapter "
            "trains it whole",
        )
    few_bits = any(is_quantised(layer.weight) for layer in linear.values())  # loading froze what is not rounded
    free = {
        n: linear[n]
        for n in named
        if linear[n].weight.requires_grad or is_quantised(linear[n].weight) or (few_bits and linear[n] is head)
    }
    if not free:
        raise LuthierError(
            f"every layer that {adapter} targets is frozen", fix="freeze fewer blocks or target other layers"
        )
    return free


def free_weights(module: Any) -> dict[str, Any]:
    """The weights that are not frozen, by name. Of a base in few bits (loading froze it): all not rounded."""
    weights = dict(module.named_parameters())
    few_bits = any(is_quantised(weight) for weight in weights.values())
    return {
        name: weight
        for name, weight in weights.items()
        if weight.requires_grad or (few_bits and weight.is_floating_point() and not is_quantised(weight))
    }


def named_by(free: Sequence[str], module: Any) -> list[str]:
    """The last names of the layers where they mean exactly these layers, else the full names."""
    last = sorted({name.split(".")[-1] for name in free})
    meant = [name for name in linear_layers(module, head=True) if any(_named(name, target) for target in last)]
    return last if meant == list(free) else list(free)


def transposed(layers: dict[str, Any]) -> bool:
    """Do the layers hold their weights input by output, as GPT-2's do?"""
    return any(not is_linear(layer) for layer in layers.values())


def sides(layer: Any) -> tuple[int, int]:
    """Inputs and outputs of a linear layer."""
    inputs, outputs = (layer.in_features, layer.out_features) if is_linear(layer) else layer.weight.shape
    return inputs, outputs


def is_linear(layer: nn.Module) -> bool:
    """Is it torch's linear layer, or made from it?"""
    from torch import nn

    return isinstance(layer, nn.Linear)


def chosen(linear: Mapping[str, Any], targets: Targets, adapter: str) -> list[str]:
    """The names among these layers' that `targets` means. Raises LuthierError when there are none."""
    if targets == ALL_LINEAR:
        return list(linear)
    known = sorted({name.split(".")[-1] for name in linear})
    if isinstance(targets, str):
        found = [name for name in linear if re.fullmatch(targets, name)]
        if not found:
            raise LuthierError(
                f"{adapter}: no linear layer's name matches the expression {targets!r}",
                fix=f"layers are named like {next(iter(linear))!r}; for some by their last name give a list: "
                f"{', '.join(known)}",
            )
        return found
    for target in targets:
        if not any(_named(name, target) for name in linear):
            raise LuthierError(f"{adapter}: the model has no linear layer {target!r}", fix=suggest(target, known))
    return [name for name in linear if any(_named(name, target) for target in targets)]


def _named(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")
