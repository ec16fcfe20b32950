"""LoRA as others hold it, PEFT above all, as the compiled reader takes it: A, B and a scale for each matrix."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from luthier.errors import LuthierError
from luthier.models.adapters.kit.attached import bare
from luthier.models.decode.weights import HEAD, Lora

PREFIX, PARTS = "base_model.model.", (".lora_A.weight", ".lora_B.weight")
STARTS = (True, False, None, "gaussian", "orthogonal", "eva")
"""Ways to begin that leave the base as it is; any other has to be undone before the adapter is one of that base."""
WITHOUT_EFFECT = {
    *("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision"),
    *("target_modules", "exclude_modules", "layers_pattern", "layers_to_transform", "lora_dropout", "runtime_config"),
    *("corda_config", "eva_config", "loftq_config", "lora_ga_config", "megatron_core", "qalora_group_size"),
    *("ensure_weight_tying", "task_type"),
}
"""Keys of PEFT's configuration that change nothing about given A and B."""
USED = {"r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "init_lora_weights", "bias"}


def read(folder: Path, module: nn.Module) -> dict[str, Lora]:
    """The LoRA in a folder that PEFT has written, by the path of its matrix in the model `module`. Raises LuthierError
    for what is more than plain LoRA."""
    from safetensors.torch import load_file

    from luthier.models.loading import foreign

    config = foreign.config(folder)
    return plain(load_file(folder / foreign.WEIGHTS), config, module, where=str(folder))


def plain(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], module: nn.Module, where: str = "adapter"
) -> dict[str, Lora]:
    """LoRA by the path of its matrix in the model `module`, from what PEFT saves: its tensors and its configuration.

    Raises LuthierError for what is more than plain LoRA, and for a rank that is not what the configuration says.
    """
    _must_be_plain(config, where)
    base = bare(module)
    halves: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        part = next((part for part in PARTS if name.startswith(PREFIX) and name.endswith(part)), None)
        if part is None and _of_the_base(name, tensor, base):
            continue
        if part is None or tensor.dim() != 2:
            raise _refused(f"holds {name} ({list(tensor.shape)}), which is no A or B of a linear map", where)
        halves.setdefault(name[len(PREFIX) : -len(part)], {})[part] = tensor
    found = {}
    for path, pair in halves.items():
        if len(pair) < len(PARTS):
            raise _refused(f"has only {next(iter(pair)).split('.')[1]} of {path}", where)
        down, up = (pair[part] for part in PARTS)
        rank, alpha = (_of(config, key, path) for key in ("r", "lora_alpha"))
        if down.shape[0] != rank or up.shape[1] != rank:
            raise _refused(f"says rank {rank} of {path}, and has A {list(down.shape)} and B {list(up.shape)}", where)
        found[path] = Lora(down, up, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))
    if not found:
        raise _refused("has no LoRA at all", where)
    return found


def _of_the_base(name: str, tensor: Tensor, base: Any) -> bool:
    """Is it a copy of the base's own output or embeddings, which PEFT saves beside LoRA on them?"""
    own = {HEAD: base.get_output_embeddings(), "model.embed_tokens": base.get_input_embeddings()}
    path = name.removeprefix(PREFIX).removesuffix(".weight").removesuffix(".base_layer")
    if path not in own or not name.endswith(".weight"):
        return False
    weight = getattr(own[path], "base_layer", own[path]).weight
    return tensor.shape == weight.shape and torch.equal(tensor.to(weight), weight)


def _of(config: Mapping[str, Any], key: str, path: str) -> Any:
    """The rank or alpha of one matrix."""
    from peft.utils.other import get_pattern_key

    pattern = config.get({"r": "rank_pattern", "lora_alpha": "alpha_pattern"}[key]) or {}
    value = pattern.get(get_pattern_key(list(pattern), path), config.get(key))
    if not isinstance(value, int | float) or value <= 0:
        raise LuthierError(f"the adapter's {key} is {value!r}", where="adapter_config.json", fix=f"give {key} a number")
    return value


def _must_be_plain(config: Mapping[str, Any], where: str) -> None:
    kind = str(getattr(config.get("peft_type"), "value", config.get("peft_type")))
    if kind != "LORA":
        raise _refused(f"is {kind}, not LoRA", where)
    if config.get("bias", "none") != "none":
        raise _refused(f"trains biases (bias: {config['bias']})", where)
    if config.get("init_lora_weights") not in STARTS:
        raise _refused(f"began by changing the base (init_lora_weights: {config['init_lora_weights']})", where)
    more = [key for key, value in config.items() if value and key not in WITHOUT_EFFECT | USED]
    if more:
        raise _refused(f"is more than plain LoRA ({more[0]}: {config[more[0]]})", where)


def _refused(what: str, where: str) -> LuthierError:
    return LuthierError(
        f"the adapter {what}, and cannot be read beside others over one base",
        where=where,
        fix="open it as a model of its own, or merge it into its base",
    )
