"""LoRA from a folder in PEFT's format, for a reader that serves several adapters over one base.

What is more than LoRA on the base's own matrices cannot be served so, and says what it is: such an adapter needs a
model to itself.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError, safe_open

from luthier.errors import LuthierError
from luthier.models.decode.weights import Lora

CONFIG, FILE = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Starts that leave something else in the base than its own weights."""
MORE = {
    "use_dora": "its weights are decomposed (DoRA)",
    "modules_to_save": "it has whole modules of its own",
    "trainable_token_indices": "it has token embeddings of its own",
    "target_parameters": "it has LoRA on parameters that are no matrices of their own",
    "lora_bias": "its B has a bias",
    "layer_replication": "it repeats layers",
    "alora_invocation_tokens": "it acts from certain tokens on",
    "arrow_config": "it chooses among others",
    "use_qalora": "it pools its inputs (QA-LoRA)",
    "use_bdlora": "its matrices are block-diagonal",
    "kasa_config": "it has singular values of its own (KaSA)",
    "monteclora_config": "it draws its weights",
}
"""Settings of PEFT's that make LoRA more than two matrices, and what to say of them."""


class Unserved(LuthierError):
    """An adapter that is sound, and needs a model to itself."""


@dataclass(frozen=True)
class _Matrix:
    down: str
    up: str
    scale: float


def check(folder: Path, shapes: Mapping[str, tuple[int, int]]) -> None:
    """Look at an adapter without reading its weights. `shapes`: outputs and inputs of the base's matrices.

    Raises Unserved for one that needs a model to itself, LuthierError for one that is broken or of another base.
    """
    config = _config(folder)
    with _opened(folder) as file:
        _matrices(folder, config, file, shapes)


def read(folder: Path, shapes: Mapping[str, tuple[int, int]]) -> dict[str, Lora]:
    """An adapter's weights by the path of their matrix. Raises as `check` does, and for weights that are no numbers."""
    config = _config(folder)
    with _opened(folder) as file:
        found = _matrices(folder, config, file, shapes)
        loras = {path: Lora(file.get_tensor(m.down), file.get_tensor(m.up), m.scale) for path, m in found.items()}
    for path, lora in loras.items():
        if not bool(torch.isfinite(lora.down).all() and torch.isfinite(lora.up).all()):
            raise LuthierError(
                f"the adapter's weights of {path} are no numbers (NaN or infinite)",
                where=str(folder / FILE),
                fix="train it again, or take an earlier checkpoint",
            )
    return loras


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise LuthierError(
            f"there is no adapter in PEFT's format here (no {CONFIG})",
            where=str(folder),
            fix="give the `adapter` folder of a run",
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise _broken(folder / CONFIG, str(error)) from error
    if not isinstance(config, dict):
        raise _broken(folder / CONFIG, "it holds no settings")
    if config.get("peft_type") != "LORA":
        raise Unserved(f"it is no LoRA but {config.get('peft_type')}", where=str(folder))
    for key, said in MORE.items():
        if config.get(key):
            raise Unserved(said, where=str(folder))
    if config.get("bias", "none") != "none":
        raise Unserved("it has biases of its own", where=str(folder))
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(CHANGES_BASE):
        raise Unserved(f"it goes with a base that {start} has changed", where=str(folder))
    return config


def _opened(folder: Path) -> Any:
    path = folder / FILE
    if not path.is_file():
        raise LuthierError(
            f"the adapter has no {FILE}", where=str(folder), fix="save it as safetensors: no other file is opened"
        )
    try:
        return safe_open(path, "pt")
    except (OSError, SafetensorError) as error:
        raise _broken(path, str(error)) from error


def _matrices(
    folder: Path, config: Mapping[str, Any], file: Any, shapes: Mapping[str, tuple[int, int]]
) -> dict[str, _Matrix]:
    keys = set(file.keys())
    found: dict[str, _Matrix] = {}
    for key in sorted(keys):
        path, dot, part = key.removeprefix(PREFIX).rpartition(".lora_A.")
        if not dot:
            if ".lora_B." not in key:
                raise Unserved(f"it holds {key}, which is no LoRA", where=str(folder / FILE))
            continue
        up = key.replace(".lora_A.", ".lora_B.")
        if path not in shapes:
            raise LuthierError(
                f"the adapter changes {path}, which the model does not have, or not as a matrix",
                where=str(folder / FILE),
                fix="take an adapter that was trained on this base",
            )
        if up not in keys or part != "weight":
            raise _broken(folder / FILE, f"{key} has no {up}")
        down_shape, up_shape = (tuple(file.get_slice(name).get_shape()) for name in (key, up))
        outputs, inputs = shapes[path]
        rank = down_shape[0]
        if down_shape != (rank, inputs) or up_shape != (outputs, rank) or not 0 < rank <= max(outputs, inputs):
            raise LuthierError(
                f"A and B of {path} are {list(down_shape)} and {list(up_shape)}; the matrix is {outputs} x {inputs}",
                where=str(folder / FILE),
                fix="take an adapter that was trained on this base",
            )
        found[path] = _Matrix(key, up, _scale(folder, config, path, rank))
    if not found or len(keys) != 2 * len(found):
        raise _broken(folder / FILE, "its matrices A and B do not go together")
    return found


def _scale(folder: Path, config: Mapping[str, Any], path: str, rank: int) -> float:
    pattern = config.get("alpha_pattern") or {}
    alpha = pattern.get(get_pattern_key(list(pattern), path), config.get("lora_alpha"))
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise _broken(folder / CONFIG, f"lora_alpha is {alpha!r}")
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _broken(path: Path, why: str) -> LuthierError:
    return LuthierError(
        f"the adapter cannot be read: {why.strip().splitlines()[0] if why.strip() else 'it is empty'}",
        where=str(path),
        fix="save or copy it again",
    )
