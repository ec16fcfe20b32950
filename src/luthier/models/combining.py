"""Several adapters of one base made into one: linear, TIES and DARE, through PEFT.

PEFT's own "linear", "ties" and "dare_*" combine the factors A and B apart, which mixes the B of one adapter with the A
of another. Here the updates B A are combined: `linear` puts the factors side by side, which is the exact sum; the
others are followed by an SVD at the sum of the ranks.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, PeftType, get_peft_model_state_dict, set_peft_model_state_dict

from luthier.errors import LuthierError
from luthier.models import heads
from luthier.models.adapters import build
from luthier.models.loading import ORIGIN, OWN, open_adapter
from luthier.models.policy import Policy
from luthier.recipe.schema import Plugin
from luthier.registry import suggest
from luthier.run import Run

HOW = {
    "linear": "cat",
    "ties": "ties_svd",
    "dare_linear": "dare_linear_svd",
    "dare_ties": "dare_ties_svd",
    "magnitude_prune": "magnitude_prune_svd",
}
"""Our name → PEFT's combination type."""
RESULT = "combined"


@dataclass(frozen=True)
class Part:
    """A run whose adapter takes part, and how much of it."""

    folder: Path
    weight: float


def parts(written: Sequence[str]) -> list[Part]:
    """`folder:weight` for each. Raises LuthierError where one cannot be read, or fewer than two are given."""
    found = []
    for text in written:
        folder, _, weight = text.rpartition(":")
        try:
            found.append(Part(Path(folder).expanduser(), float(weight)))
        except ValueError:
            raise LuthierError(
                f"how much of {text!r}? A run to combine is written folder:weight", fix=f"for instance {text}:0.5"
            ) from None
    if not all(map(math.isfinite, (part.weight for part in found))) or not any(part.weight for part in found):
        raise LuthierError(
            "weights are numbers, and at least one of them is not 0", where="--merge", fix="for instance a:0.7 b:0.3"
        )
    if len(found) < 2:
        raise LuthierError(
            "to combine adapters takes two runs at least", fix="write luthier export --merge a:0.7 b:0.3"
        )
    return found


def combine(given: Sequence[Part], how: str = "linear", density: float = 0.5, seed: int = 0) -> Policy:
    """The base with one adapter that combines those of the runs.

    `density`: the share of each update that TIES, DARE and magnitude_prune keep. `seed` draws what DARE drops. Raises
    LuthierError for runs of other bases, of anything but plain LoRA, and for an unknown way.
    """
    if how not in HOW:
        raise LuthierError(f"there is no way {how!r} to combine adapters", where="--how", fix=suggest(how, list(HOW)))
    if not 0 < density <= 1:
        raise LuthierError(
            f"the density is a share above 0 and at most 1, not {density:g}",
            where="--density",
            fix="for instance --density 0.5",
        )
    folders = [_adapter(part.folder) for part in given]
    configs = [_config(folder) for folder in folders]
    _same_base(folders)
    policy = open_adapter(folders[0])
    module = policy.module
    names = [f"part{number}" for number in range(len(given))]
    for name, folder in zip(names, folders, strict=True):
        module.load_adapter(folder, adapter_name=name)
    # the new adapter takes over its first part's settings, but its scale is already in its factors
    module.peft_config[names[0]] = dataclasses.replace(configs[0], use_rslora=False)
    rank = sum(max([config.r, *config.rank_pattern.values()]) for config in configs)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module.base_model.add_weighted_adapter(
            names,
            [part.weight for part in given],
            RESULT,
            combination_type=HOW[how],
            svd_rank=rank,
            svd_full_matrices=False,
            density=None if how == "linear" else density,
        )
    _keep_only_result(module)
    rank = module.peft_config["default"].r
    policy.adapt = [Plugin(name="lora", args={"r": rank, "alpha": float(rank)})]
    policy.adapters = build(policy.adapt)
    return policy


def _adapter(folder: Path) -> Path:
    run = Run.open(folder)
    if not run.adapter.is_dir():
        raise LuthierError("this run has no adapter to combine", where=str(folder), fix="give runs of `adapt: lora`")
    return run.adapter


def _config(folder: Path) -> Any:
    """The adapter's settings. Raises LuthierError for what does not add up as plain LoRA does."""
    if not (folder / "adapter_config.json").is_file():
        raise LuthierError("only LoRA adapters can be combined", where=str(folder), fix="leave this run out")
    config: Any = PeftConfig.from_pretrained(str(folder))
    if config.peft_type != PeftType.LORA:
        kind = str(config.peft_type.value).lower()
        raise LuthierError(
            f"only LoRA adapters can be combined, this one is {kind}", where=str(folder), fix="leave this run out"
        )
    other_than_sums = {
        "dora": config.use_dora,
        "extra modules": config.modules_to_save,
        "biases": config.bias != "none" or config.lora_bias,
    }
    beside = {"weights of other kinds beside it": OWN, "a reward model's head": heads.WEIGHTS}
    other_than_sums |= {what: (folder / file).is_file() for what, file in beside.items()}
    named = [name for name, there in other_than_sums.items() if there]
    if named:
        raise LuthierError(
            f"only plain LoRA adds up; this adapter has {' and '.join(named)}",
            where=str(folder),
            fix="leave this run out, or merge it into the base and train the others on the result",
        )
    return config


def _same_base(folders: Sequence[Path]) -> None:
    first, *others = (json.loads((folder / ORIGIN).read_text(encoding="utf-8")) for folder in folders)
    for folder, other in zip(folders[1:], others, strict=True):
        if other.get("digest") != first.get("digest"):
            raise LuthierError(
                f"the runs were trained on other bases: {first['model']['name']} and {other['model']['name']}",
                where=str(folder),
                fix="combine runs of one base",
            )
        if other.get("quantize") != first.get("quantize"):
            raise LuthierError(
                "the runs were trained on the same base, but in other bits (`quantize:`)",
                where=str(folder),
                fix="combine runs that were trained alike",
            )


def _keep_only_result(module: PeftModel) -> None:
    """Give the combined adapter the name under which PEFT saves to the folder itself, and drop its parts."""
    state = get_peft_model_state_dict(module, adapter_name=RESULT, save_embedding_layers=False)
    config = dataclasses.replace(module.peft_config[RESULT], inference_mode=True)
    for name in list(module.peft_config):
        module.delete_adapter(name)
    module.add_adapter("default", config)
    set_peft_model_state_dict(module, state, adapter_name="default")
    module.set_adapter("default")
    module.requires_grad_(False)
    module.eval()
