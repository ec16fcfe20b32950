"""Where in a model a weight lies, and which weights a word or an expression means."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from luthier.errors import LuthierError

if TYPE_CHECKING:
    from torch import nn
    from torch.nn import Parameter

WORDS = ("norms", "biases", "embeddings", "head")
"""What can be named without an expression."""


def blocks(module: Any) -> nn.ModuleList:
    """The decoder blocks of a model, from the embeddings to the output."""
    from torch import nn

    depth = module.config.get_text_config().num_hidden_layers
    for child in module.get_decoder().modules():
        if isinstance(child, nn.ModuleList) and len(child) == depth:
            return child
    raise LuthierError(f"cannot find the blocks of a {type(module).__name__}", fix="use `adapt: lora` or `adapt: full`")


def embeddings(module: Any) -> list[nn.Module]:
    """Every embedding table outside the blocks (GPT-2 has one for positions too)."""
    from torch import nn

    inside = {id(child) for child in blocks(module).modules()}
    return [child for child in module.modules() if isinstance(child, nn.Embedding) and id(child) not in inside]


def depths(module: Any) -> dict[str, int]:
    """How deep each parameter lies: the embeddings (and a head tied to them) 0, the L blocks 1 to L, the rest L + 1."""
    layers = blocks(module)
    found = {id(weight): 0 for table in embeddings(module) for weight in table.parameters()}
    for number, block in enumerate(layers, 1):
        found |= {id(weight): number for weight in block.parameters()}
    return {name: found.get(id(weight), len(layers) + 1) for name, weight in module.named_parameters()}


def discriminative(module: Any, decay: float) -> dict[str, float]:
    """Discriminative learning rates (arXiv:1801.06146, §3.2): a factor for each parameter that trains, 1 at the top
    and 1/decay of the one above for every block below. What lies after the blocks goes with the last one."""
    if decay == 1:
        return {}
    top = len(blocks(module))
    weights = dict(module.named_parameters())
    return {name: decay ** -max(0, top - n) for name, n in depths(module).items() if weights[name].requires_grad}


def select(module: Any, which: str) -> list[tuple[str, Parameter]]:
    """The parameters that `which` means: one of `WORDS`, or a regular expression found anywhere in their names.

    Raises LuthierError when there are none.
    """
    weights = list(module.named_parameters())
    if which in WORDS:
        found = [(name, weight) for name, weight in weights if id(weight) in _meant(module, which)]
    else:
        found = [(name, weight) for name, weight in weights if re.search(which, name)]
    if not found:
        raise LuthierError(
            f"the model has no weight that {which!r} means",
            fix=f"give {', '.join(WORDS)}, or an expression found in names like {weights[len(weights) // 2][0]!r}",
        )
    return found


def _meant(module: Any, word: str) -> set[int]:
    if word == "norms":
        owners = [child for child in module.modules() if "norm" in type(child).__name__.lower()]
    elif word == "embeddings":
        owners = embeddings(module)
    elif word == "head":
        owners = [head for head in [module.get_output_embeddings()] if head is not None]
    else:
        return {id(weight) for name, weight in module.named_parameters() if name.endswith("bias")}
    return {id(weight) for owner in owners for weight in owner.parameters()}
