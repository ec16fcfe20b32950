"""Save what a run has trained, and merge an adapter into a model that plain transformers loads."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from luthier import cache
from luthier.errors import LuthierError
from luthier.models import heads
from luthier.models.adapters.peft.residual import write_plain
from luthier.models.loading.load import ORIGIN, OWN, open_adapter
from luthier.models.loading.quiet import quiet
from luthier.models.policy import Policy
from luthier.recipe.places import absolute, is_place
from luthier.run import Run

CARD = """\
---
{library}base_model: {reference}
---
An adapter for [{base}], trained with Luthier ({adapt}). {loads}
"""
WHOLE = "`peft.AutoPeftModelForCausalLM.from_pretrained(folder)` loads it."
PART = (
    "It is more than plain PEFT knows: `peft` loads the part in `adapter_model.safetensors` alone, without {beside}, "
    "which is another model than was trained. `luthier chat` opens all of it{merge}."
)
OURS = "Plain PEFT does not know this kind: `luthier chat` opens it{merge}."


class Unmergeable(LuthierError):
    """An adapter is no change of its base's weights."""


def save(policy: Policy, run: Run) -> Path:
    """Write the adapter to `run.adapter`, or the whole model to `run.model` if its own weights train.

    What PEFT knows is in PEFT's format, what it does not in a file of ours beside it. Tokenizer and template are there,
    the identity of the base, and the scalar head of a reward model. The folder is whole or not there. Returns it.
    """
    if not policy.has_adapter:
        write_model(policy, run.model, _base_state(policy.module), policy.dtype, "the model")
        return run.model
    size = 4 * policy.parameter_counts()[0]
    with cache.whole_folder(run.adapter, "the adapter", size=size) as folder:
        write_adapter(policy, folder)
    return run.adapter


def write_adapter(policy: Policy, folder: Path) -> None:
    """Write the adapter into a folder that is there."""
    if isinstance(policy.module, PeftModel):
        if policy.started:
            write_plain(policy.module, policy.started, folder)
        else:
            policy.module.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").write_text(_card(policy), encoding="utf-8")
    if policy.attached.own:
        tensors = policy.attached.tensors()
        save_file({name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()}, folder / OWN)
    policy.tokenizer.save_pretrained(folder)
    _write_origin(policy, folder)


def _card(policy: Policy) -> str:
    """What the folder is, and who can read it."""
    names = [plugin.name for plugin in policy.adapt]
    own = [names[number] for number, _ in policy.attached.own]
    beside = [f"`{OWN}` ({', '.join(own)})"] * bool(own) + [
        f"`{heads.files(role)[0]}` (the {role} head)" for role in policy.heads
    ]
    mergeable = all(adapter.mergeable for adapter in policy.adapters)
    merge = ", `luthier export` merges it into a model that anything loads" * mergeable
    is_peft = isinstance(policy.module, PeftModel)
    loads = (PART if beside else WHOLE) if is_peft else OURS
    return CARD.format(
        library="library_name: peft\n" * is_peft,
        reference=policy.reference,
        base=policy.base,
        adapt=", ".join(names),
        loads=loads.format(beside=" and ".join(beside), merge=merge),
    )


def merge(policy: Policy, folder: Path, dtype: torch.dtype | None = None) -> list[Path]:
    """Write the model with its adapter added into the weights: one folder that plain transformers loads.

    The sum is taken in fp32 and stored as `dtype` (default: the type it was trained in, in which small updates are
    rounded). The policy itself is left as it is. Returns the files.
    """
    unmergeable = [p.name for p, adapter in zip(policy.adapt, policy.adapters, strict=True) if not adapter.mergeable]
    if unmergeable:
        raise Unmergeable(
            f"`{unmergeable[0]}` cannot be merged into the base's weights: what it learns is no change of them",
            where="export",
            fix="serve the run with its adapter (`luthier chat`), or train with `adapt: lora` to merge",
        )
    dtype = dtype or policy.dtype
    if policy.attached.own or policy.quantize is not None:
        policy = _merged_from_disk(policy)
    state = _merged_state(policy.module) if policy.has_adapter else _base_state(policy.module)
    write_model(policy, folder, state, dtype, "the merged model")
    return sorted(path for path in folder.iterdir() if path.is_file())


def write_model(policy: Policy, folder: Path, state: dict[str, Tensor], dtype: torch.dtype, purpose: str) -> None:
    """Write configuration, weights, tokenizer, template and generation settings as one folder, whole or not at all."""
    base = policy.bare
    state = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    build: Any = AutoModelForCausalLM.from_config
    with torch.device("meta"):
        skeleton = build(copy.deepcopy(base.config), trust_remote_code=policy.model.trust_remote_code)
    skeleton.load_state_dict(state, strict=True, assign=True)
    skeleton.tie_weights()
    skeleton.config.dtype = dtype
    settings = policy.folder / "generation_config.json"
    with cache.whole_folder(folder, purpose, size=sum(t.nbytes for t in skeleton.parameters())) as temporary:
        with quiet():
            skeleton.save_pretrained(temporary)
        # The base's own file, word for word: transformers refuses to write some settings that it reads.
        if settings.is_file():
            shutil.copyfile(settings, temporary / settings.name)
        policy.tokenizer.save_pretrained(temporary)
        _write_origin(policy, temporary)


def _write_origin(policy: Policy, folder: Path) -> None:
    heads.write(policy.heads, folder)
    origin: dict[str, Any] = {
        "model": dataclasses.asdict(policy.model),
        "folder": str(policy.folder.resolve()),
        "beside": _beside(policy, folder),
        "digest": policy.digest,
        "quantize": None if policy.quantize is None else dataclasses.asdict(policy.quantize),
    }
    if policy.adapt and not policy.started:  # what began in the base's own weights was saved as plain LoRA
        origin["adapt"] = [dataclasses.asdict(plugin) for plugin in policy.adapt]
    (folder / ORIGIN).write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")


def _beside(policy: Policy, folder: Path) -> str | None:
    """The way from the folder that `folder` lies in to a base on this disk: it holds when both are moved together."""
    if not is_place(policy.model.name):
        return None
    return os.path.relpath(absolute(policy.model.name), folder.resolve().parent)


def _base_state(module: Any) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in module.state_dict().items()}


def _merged_from_disk(policy: Policy) -> Policy:
    """A merged copy in fp32, opened from what would be saved: ours hang on the layers by hooks, which cannot be copied
    in memory, and to weights in few bits nothing can be added."""
    with tempfile.TemporaryDirectory() as folder:
        write_adapter(policy, Path(folder))
        wide = dataclasses.replace(policy.model, dtype="fp32")
        merged = open_adapter(Path(folder), merged=True, device="cpu", model=wide)
    return dataclasses.replace(merged, model=policy.model, heads=policy.heads)


def _merged_state(module: Any) -> dict[str, Tensor]:
    """The base's state with every wrapped layer's update added, computed in fp32, one layer at a time."""
    base = module.get_base_model()
    kinds = BaseTunerLayer | ModulesToSaveWrapper
    layers: dict[str, Any] = {name: layer for name, layer in base.named_modules() if isinstance(layer, kinds)}
    state = {name: tensor.detach() for name, tensor in base.state_dict().items() if not _inside(name, layers)}
    for name, layer in layers.items():
        if isinstance(layer, ModulesToSaveWrapper):
            own: Any = layer.modules_to_save[layer.active_adapters[0]]
        elif not _inside(name, layers):
            own = _merged_layer(name, layer)
        else:
            continue  # the copy that trains is the whole of it
        state |= {f"{name}.{key}": tensor.detach() for key, tensor in own.state_dict().items()}
    return state


def _merged_layer(name: str, layer: Any) -> Any:
    wide = copy.deepcopy(layer).float()
    try:
        wide.merge()
    except (NotImplementedError, AttributeError, ValueError, TypeError) as error:
        raise Unmergeable(
            f"PEFT cannot merge a {type(layer).__name__} into the base's weights: {str(error).strip()}",
            where=f"export, {name}",
            fix="serve the run with its adapter (`luthier chat`)",
        ) from error
    return wide.get_base_layer()


def _inside(name: str, layers: dict[str, Any]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:end]) in layers for end in range(1, len(parts)))
