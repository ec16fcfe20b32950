"""PEFT's layers folded into the base's weights, under the base's own names, and what that does to tied matrices.

Many models read their embeddings and write their output with one matrix. An adapter that changes one of the two makes
two matrices of it: then the model is written as one that has two. Where both change alike it stays one.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from torch import Tensor, nn

from luthier.errors import LuthierError

WRAPPERS = BaseTunerLayer | AuxiliaryTrainingWrapper
"""What PEFT puts in the place of a base's module."""


class Unmergeable(LuthierError):
    """An adapter is no change of its base's weights."""


def folded(module: PeftModel) -> dict[str, Tensor]:
    """The base's state with every wrapped layer's update added, computed in fp32, one layer at a time; the model itself
    is left as it is. Raises Unmergeable for what PEFT cannot add."""
    state = _folded(module.get_base_model(), "")
    if any(getattr(config, "ensure_weight_tying", False) for config in module.peft_config.values()):
        _alike(module.get_base_model(), state)
    return state


def fold_(module: PeftModel) -> Any:
    """Fold the adapter into the base's weights in place; returns the plain model, whose configuration says whether
    embeddings and output are one matrix still."""
    base: Any = module.get_base_model()
    parted = _part(base)
    for layer in base.modules():
        _settle(layer)
    merged: Any = module.merge_and_unload()
    if parted and torch.equal(*(end.weight for end in _ends(merged))):
        into, out = _ends(merged)
        out.weight = into.weight
        tie(merged.config, True)
    return merged


def tie(config: Any, tied: bool) -> None:
    """Write into a model's configuration whether embeddings and output are one matrix."""
    for each in {id(part): part for part in (config, config.get_text_config())}.values():
        each.tie_word_embeddings = tied


def differ(skeleton: Any, state: Mapping[str, Tensor]) -> bool:
    """Does the model hold weights to be one that are two in this state?"""
    tied: Mapping[str, str] = getattr(skeleton, "all_tied_weights_keys", None) or {}
    return any(
        out in state and into in state and not torch.equal(state[out], state[into]) for out, into in tied.items()
    )


def apart(skeleton: Any, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state with a copy of each tensor that shares its memory with another, though the model holds the two to be
    different weights: an adapter may use layers several times."""
    tied = set(getattr(skeleton, "all_tied_weights_keys", None) or {})
    seen: set[int] = set()
    found = dict(state)
    for name, tensor in state.items():
        place = tensor.untyped_storage().data_ptr()
        if name not in tied and place in seen:
            found[name] = tensor.clone()
        seen.add(place)
    return found


def _folded(part: nn.Module, where: str) -> dict[str, Tensor]:
    """The state of a module without PEFT's wrappers in it. `where` is its name, for errors."""
    if isinstance(part, ModulesToSaveWrapper):  # the copy that trains is the whole of it
        names = part.active_adapters
        return _folded(part.modules_to_save[names[0]] if names else part.original_module, where)
    if isinstance(part, WRAPPERS):
        return _folded(_merged(part, where), where)
    wrapped = _outermost(part)
    state = {name: tensor.detach() for name, tensor in part.state_dict().items() if not _inside(name, wrapped)}
    for name, layer in wrapped.items():
        inner = _folded(layer, f"{where}.{name}".lstrip("."))
        state |= {f"{name}.{key}": tensor for key, tensor in inner.items()}
    return state


def _outermost(part: nn.Module) -> dict[str, nn.Module]:
    """PEFT's wrappers by name, without those inside of others."""
    found: dict[str, nn.Module] = {}
    for name, layer in part.named_modules(remove_duplicate=False):
        if isinstance(layer, WRAPPERS) and not _inside(name, found):
            found[name] = part.get_submodule(name)
    return found


def _inside(name: str, layers: Mapping[str, Any]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:end]) in layers for end in range(1, len(parts)))


def _merged(layer: Any, where: str) -> nn.Module:
    """A copy of what the wrapper stands for, its update added in fp32."""
    wide = copy.deepcopy(layer).float()
    try:
        _settle(wide)
        plain = _unloaded(wide)
    except (NotImplementedError, AttributeError, ValueError, TypeError, RuntimeError) as error:
        if "DefaultCPUAllocator" in str(error) or isinstance(error, torch.OutOfMemoryError):
            raise
        raise Unmergeable(
            f"PEFT cannot merge a {type(layer).__name__} into the base's weights: {str(error).strip()}",
            where=f"export, {where}",
            fix="serve the run with its adapter (`luthier chat`)",
        ) from error
    found: nn.Module = plain
    return found


def _unloaded(layer: Any) -> Any:
    """What the wrapper stands for, its update added in place."""
    unload = getattr(layer, "unload_and_optionally_merge_module", None)
    if unload is not None:  # wrappers that lie in one another, or that take the module's place in another way
        return unload(merge=True, safe_merge=False, adapter_names=None)
    layer.merge()
    return layer.get_base_layer()


def _settle(layer: Any) -> None:
    """Merge what PEFT has wrapped before it put a layer of its own around it: single tokens of a matrix that has an
    update, too. PEFT (0.21.2, `BaseTuner._unload_and_optionally_merge`) would lose one of the two."""
    if isinstance(layer, BaseTunerLayer) and isinstance(_inner(layer), AuxiliaryTrainingWrapper):
        wrapper: Any = layer
        wrapper.base_layer = _unloaded(_inner(layer))


def _inner(layer: Any) -> Any:
    """What a layer of PEFT's goes around; virtual tokens and the like go around nothing."""
    return getattr(layer, "base_layer", None)


# embeddings and output
def _ends(base: Any) -> tuple[Any, Any]:
    return base.get_input_embeddings(), base.get_output_embeddings()


def _core(part: Any) -> Any:
    """The base's own module inside PEFT's wrappers."""
    while isinstance(part, WRAPPERS):
        part = _inner(part) if isinstance(part, BaseTunerLayer) else part.original_module
    return part


def _part(base: Any) -> bool:
    """Give the output a matrix of its own where it shares the embeddings' and an adapter lies on one of them: PEFT
    (0.21.2; https://github.com/huggingface/peft/issues/2777) adds an update in place, which would change both. True if
    it was given one."""
    ends = _ends(base)
    into, out = (_core(end) for end in ends)
    if out is None or out.weight is not into.weight or not any(isinstance(end, WRAPPERS) for end in ends):
        return False
    out.weight = nn.Parameter(into.weight.detach().clone(), requires_grad=False)
    return True


def _alike(base: Any, state: dict[str, Tensor]) -> None:
    """One matrix again where the adapter was told to keep both alike, and only rounding makes them differ."""
    tied: Mapping[str, str] = getattr(base, "all_tied_weights_keys", None) or {}
    for out, into in tied.items():
        if out in state and into in state and torch.allclose(state[out], state[into], rtol=1e-5, atol=1e-6):
            state[out] = state[into]
