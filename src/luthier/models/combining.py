"""Several adapters of one base made into one: linear, TIES and DARE.

PEFT's own "linear", "ties" and "dare_*" combine the factors A and B apart, which mixes the B of one adapter with the A
of another. Here the updates s B A are combined: `linear` puts the factors side by side, which is the exact sum; the
others are followed by an SVD at the sum of the ranks. All of it is done and written in fp32 whatever the base's type:
what began in the base's own weights (PiSSA) is saved as halves that nearly cancel, and in bf16 they would not.

Shape suffixes: O = outputs, I = inputs, R = rank.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, PeftType, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils.merge_utils import dare_linear, dare_ties, magnitude_prune, ties
from torch import Tensor

from luthier.errors import LuthierError
from luthier.models import heads
from luthier.models.adapters import build
from luthier.models.loading.load import ORIGIN, OWN, open_adapter
from luthier.models.policy import Policy
from luthier.recipe.schema import Plugin
from luthier.registry import suggest
from luthier.run import Run

HOW: dict[str, Callable[..., Tensor] | None] = {
    "linear": None,
    "ties": ties,
    "dare_linear": dare_linear,
    "dare_ties": dare_ties,
    "magnitude_prune": magnitude_prune,
}
"""Our name → what makes one matrix of several, their weights and the density. None: the sum, which needs no matrix."""
Factors = tuple[Tensor, Tensor]
"""A (R x I) with the scale in it, and B (O x R)."""


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
    weights = {name: part.weight for name, part in zip(names, given, strict=True)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = {name: _one(_factors(layer, weights), how, density) for name, layer in _layers(module, weights).items()}
    policy.module, rank = _with(module.unload(), configs[0], made)
    policy.adapt = [Plugin(name="lora", args={"r": rank, "alpha": float(rank)})]
    policy.adapters = build(policy.adapt)
    return policy


def _layers(module: PeftModel, names: Iterable[str]) -> dict[str, Any]:
    """The layers on which one of these adapters lies, by name."""
    inside: dict[str, Any] = dict(module.get_base_model().named_modules())
    return {
        name: layer
        for name, layer in inside.items()
        if isinstance(layer, LoraLayer) and any(_has(layer, each) for each in names)
    }


def _has(layer: Any, name: str) -> bool:
    return name in layer.lora_A or name in layer.lora_embedding_A


def _weights(layer: Any, name: str) -> tuple[Any, Any]:
    """PEFT's A and B of one adapter; those of an embedding are transposed like any others."""
    if name in layer.lora_A:
        return layer.lora_A[name].weight, layer.lora_B[name].weight
    return layer.lora_embedding_A[name], layer.lora_embedding_B[name]


def _factors(layer: Any, weights: Mapping[str, float]) -> list[tuple[float, Factors]]:
    """Weight and factors, in fp32, of each adapter that lies on this layer."""
    found = []
    for name, weight in weights.items():
        if _has(layer, name):
            a_RI, b_OR = (factor.detach().float() for factor in _weights(layer, name))
            found.append((weight, (layer.scaling[name] * a_RI, b_OR)))
    return found


def _one(given: Sequence[tuple[float, Factors]], how: str, density: float) -> Factors:
    """The factors that stand for all of these together."""
    join = HOW[how]
    if join is None:
        return torch.cat([w * a_RI for w, (a_RI, _) in given]), torch.cat([b_OR for _, (_, b_OR) in given], 1)
    updates = [b_OR @ a_RI for _, (a_RI, b_OR) in given]
    mixed_OI = join(updates, torch.tensor([w for w, _ in given], device=updates[0].device), density)
    rank = sum(len(a_RI) for _, (a_RI, _) in given)
    u, s, vh = torch.linalg.svd(mixed_OI, full_matrices=False)
    return vh[:rank], u[:, :rank] * s[:rank]


@torch.no_grad()
def _with(base: Any, like: Any, made: Mapping[str, Factors]) -> tuple[PeftModel, int]:
    """The base with these factors as its one adapter, and that adapter's rank.

    It takes over the settings of the first part, but the scale is in its factors. A layer of a lower rank is filled up
    with zeros.
    """
    rank = max(len(a_RI) for a_RI, _ in made.values())
    config = dataclasses.replace(
        like,
        r=rank,
        lora_alpha=rank,
        rank_pattern={},
        alpha_pattern={},
        use_rslora=False,
        target_modules=list(made),
    )
    module: Any = get_peft_model(base, config)
    for name, layer in _layers(module, ["default"]).items():
        for weight, factor in zip(_weights(layer, "default"), made[name], strict=True):
            weight.zero_()
            weight[: factor.shape[0], : factor.shape[1]] = factor
    config.inference_mode = True
    module.requires_grad_(False)
    return module.eval(), rank


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
        "tokens that trained by themselves": config.trainable_token_indices,
        "parameters that are no layers": config.target_parameters,
        "layers used several times": config.layer_replication,
        "an update of some tokens only": config.alora_invocation_tokens,
    }
    other_than_sums["weights of other kinds beside it"] = (folder / OWN).is_file()
    other_than_sums["a reward model's head"] = (folder / heads.WEIGHTS).is_file()
    other_than_sums["another scalar head"] = any(folder.glob("head-*.safetensors"))
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
