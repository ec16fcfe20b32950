"""One pass of rows through the loop's own forward and back: what it gives, and how far two passes are apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from luthier.forward.batches import micro_batches
from luthier.forward.forward import Forward
from luthier.types import Encoded


class Pass(NamedTuple):
    loss: float
    """Summed over all scored tokens."""
    gradients: dict[str, Tensor]
    """Of every weight that has one."""
    path: str
    """The way the forward took, in its own words."""
    batches: int
    """How many micro-batches the rows were cut into."""


def once(
    module: nn.Module, rows: Sequence[Encoded], budget: int = 100_000, *, mean: float = 0.0, **choices: Any
) -> Pass:
    """The rows in micro-batches of so many tokens; `mean` weighs the mean log-probability in, `choices` are Forward's.

    The gradients are left in the module, too.
    """
    module.zero_grad(set_to_none=True)
    total = 0.0
    with Forward(module, **choices).opened() as forward:
        cut = micro_batches(rows, budget, share_prefix=forward.share_prefix, layout=forward.layout)
        for batch in cut:
            scored = forward.rows(batch, ("logp", "mean_logp") if mean else ("logp",))
            loss = -(scored.weight_S * scored.logp_S).sum()
            if mean:
                loss = loss - mean * scored.readouts["mean_logp"].sum()
            loss.backward()
            total += loss.item()
    gradients = {n: weight.grad.clone() for n, weight in module.named_parameters() if weight.grad is not None}
    return Pass(total, gradients, forward.path, len(cut))


def end_to_end(gradients: dict[str, Tensor]) -> Tensor:
    return torch.cat([gradient.flatten().float() for gradient in gradients.values()])


def distance(found: Pass, expected: Pass) -> float:
    """The larger of two relative errors: of the loss, and of all gradients as one vector."""
    one, other = end_to_end(found.gradients), end_to_end(expected.gradients)
    loss = abs(found.loss - expected.loss) / abs(expected.loss)
    return max(loss, float((one - other).norm() / other.norm()))


def differing(one: Pass, other: Pass, *, loss: float, gradient: float) -> dict[str, float]:
    """What is further apart than these bounds: "loss" relative to itself, gradients to their weight's largest one."""
    apart = {"loss": abs(one.loss - other.loss) / abs(other.loss)}
    for name, expected in one.gradients.items():
        if name in other.gradients:
            scale = max(float(expected.abs().max()), 1e-3)
            apart[name] = float((expected - other.gradients[name]).abs().max()) / scale
    # written so that NaN differs
    far = {name: error for name, error in apart.items() if not error <= (loss if name == "loss" else gradient)}
    return far | dict.fromkeys(one.gradients.keys() ^ other.gradients.keys(), float("inf"))


def computed(model: nn.Module) -> Counter[str]:
    """How often each layer under gradient checkpointing is computed from here on: once, and once more going back."""
    counts: Counter[str] = Counter()
    for name, layer in model.named_modules():
        if isinstance(layer, GradientCheckpointingLayer) and layer.gradient_checkpointing:
            layer._gradient_checkpointing_func = partial(_counted, counts, name, layer._gradient_checkpointing_func)
    return counts


def _counted(counts: Counter[str], name: str, checkpoint: Callable[..., Any], layer: Callable[..., Any], *args: Any):
    def compute(*inner: Any) -> Any:
        counts[name] += 1
        return layer(*inner)

    return checkpoint(compute, *args)
