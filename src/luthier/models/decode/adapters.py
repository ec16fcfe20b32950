"""LoRA as others hold it, PEFT above all, as the compiled reader takes it: A, B and a scale for each matrix."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from luthier.errors import LuthierError
from luthier.models.adapters.kit.attached import bare
from luthier.models.decode.weights import HEAD, Lora

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
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


class Unserved(LuthierError):
    """An adapter that is sound, and needs a model to itself."""


def look(folder: Path, module: nn.Module) -> dict[str, Lora]:
    """As `read`, without the numbers: matrices that have shapes alone, so that nothing but the file's head is read."""
    with _opened(folder) as file:
        shapes = {name: torch.empty(file.get_slice(name).get_shape(), device="meta") for name in file.keys()}  # noqa: SIM118
    return plain(shapes, _config(folder), module, str(folder))


def read(folder: Path, module: nn.Module) -> dict[str, Lora]:
    """The LoRA in a folder that PEFT has written, by the path of its matrix in the model `module`.

    Raises Unserved for what is more than plain LoRA, LuthierError for what is broken or holds numbers that are none.
    """
    with _opened(folder) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no mapping
    broken = next((name for name, tensor in tensors.items() if not _finite(tensor)), None)
    if broken is not None:
        raise LuthierError(
            f"the adapter's {broken} is no numbers (NaN or infinite)",
            where=str(folder / WEIGHTS),
            fix="train it again, or take an earlier checkpoint",
        )
    return plain(tensors, _config(folder), module, str(folder))


def _finite(tensor: Tensor) -> bool:
    """Are all its numbers finite? Their sum says so in one pass, unless it is itself too large."""
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def _opened(folder: Path) -> Any:
    if not (folder / CONFIG).is_file():
        raise LuthierError(
            f"there is no adapter in PEFT's format here (no {CONFIG})",
            where=str(folder),
            fix="give the `adapter` folder of a run",
        )
    if not (folder / WEIGHTS).is_file():
        raise LuthierError(
            f"the adapter has no {WEIGHTS}", where=str(folder), fix="save it as safetensors: no other file is opened"
        )
    try:
        return safe_open(folder / WEIGHTS, "pt")
    except (OSError, SafetensorError) as error:
        raise _broken(f"cannot be read: {error}", str(folder / WEIGHTS)) from error


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _broken(f"has settings that cannot be read: {error}", str(folder / CONFIG)) from error
    if not isinstance(config, dict):
        raise _broken("has settings that are no object", str(folder / CONFIG))
    return config


def plain(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], module: nn.Module, where: str = "adapter"
) -> dict[str, Lora]:
    """LoRA by the path of its matrix in the model `module`, from what PEFT saves: its tensors and its configuration.

    Raises Unserved for what is more than plain LoRA, LuthierError for a rank that is not what the configuration says.
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
            raise _broken(f"has only {next(iter(pair)).split('.')[1]} of {path}", where)
        down, up = (pair[part] for part in PARTS)
        rank, alpha = (_of(config, key, path) for key in ("r", "lora_alpha"))
        if down.shape[0] != rank or up.shape[1] != rank:
            raise _broken(f"says rank {rank} of {path}, and has A {list(down.shape)} and B {list(up.shape)}", where)
        found[path] = Lora(down, up, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))
    if not found:
        raise _broken("has no LoRA at all", where)
    return found


def _of_the_base(name: str, tensor: Tensor, base: Any) -> bool:
    """Is it a copy of the base's own output or embeddings, which PEFT saves beside LoRA on them?"""
    own = {HEAD: base.get_output_embeddings(), "model.embed_tokens": base.get_input_embeddings()}
    path = name.removeprefix(PREFIX).removesuffix(".weight").removesuffix(".base_layer")
    if path not in own or not name.endswith(".weight"):
        return False
    weight = getattr(own[path], "base_layer", own[path]).weight
    if tensor.is_meta:
        return bool(tensor.shape == weight.shape)
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
    return Unserved(
        f"the adapter {what}, and cannot be read beside others over one base",
        where=where,
        fix="open it as a model of its own, or merge it into its base",
    )


def _broken(what: str, where: str) -> LuthierError:
    lines = what.strip().splitlines()
    return LuthierError(f"the adapter {lines[0]}", where=where, fix="save or copy it again")
