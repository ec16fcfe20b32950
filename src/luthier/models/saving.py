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
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from luthier import cache
from luthier.errors import LuthierError
from luthier.models import heads
from luthier.models.adapters.peft.residual import write_plain
from luthier.models.folding import Unmergeable, apart, differ, folded, tie
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
        _write_peft(policy, folder)
    (folder / "README.md").write_text(_card(policy), encoding="utf-8")
    if policy.attached.own:
        tensors = policy.attached.tensors()
        save_file({name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()}, folder / OWN)
    policy.tokenizer.save_pretrained(folder)
    _write_origin(policy, folder)


def write_bare(policy: Policy, folder: Path) -> None:
    """Write what a running engine loads: the adapter in PEFT's format, and what base it goes on; no tokenizer.

    Raises LuthierError for an adapter that is not, or not all of it, one of PEFT's.
    """
    if not isinstance(policy.module, PeftModel) or policy.attached.own:
        raise LuthierError(
            "this adapter is not, or not all of it, one of PEFT's, and a running engine loads no other",
            where="adapt",
            fix="take `adapt: lora`, or rollout.engine=local",
        )
    _write_peft(policy, folder)
    _write_origin(policy, folder)


def _write_peft(policy: Policy, folder: Path) -> None:
    if policy.started:
        write_plain(policy.module, policy.started, folder)
    else:
        policy.module.save_pretrained(str(folder), save_embedding_layers=False)


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
    state = folded(policy.module) if policy.has_adapter else _base_state(policy.module)
    write_model(policy, folder, state, dtype, "the merged model")
    return sorted(path for path in folder.iterdir() if path.is_file())


def write_model(policy: Policy, folder: Path, state: dict[str, Tensor], dtype: torch.dtype, purpose: str) -> None:
    """Write configuration, weights, tokenizer, template and generation settings as one folder, whole or not at all."""
    base = policy.bare
    state = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    skeleton = _skeleton(policy, copy.deepcopy(base.config))
    if differ(skeleton, state):  # what trained made two of one matrix
        config = copy.deepcopy(base.config)
        tie(config, False)
        skeleton = _skeleton(policy, config)
    skeleton.load_state_dict(apart(skeleton, state), strict=True, assign=True)
    skeleton.tie_weights()
    skeleton.config.dtype = dtype
    settings = policy.folder / "generation_config.json"
    with cache.whole_folder(folder, purpose, size=sum(t.nbytes for t in skeleton.parameters())) as temporary:
        with quiet():
            skeleton.save_pretrained(temporary)
        # The base's own file, word for word: not what transformers makes of it.
        if settings.is_file():
            shutil.copyfile(settings, temporary / settings.name)
        _end_with_turns(policy, temporary / settings.name, skeleton.config.get_text_config())
        policy.tokenizer.save_pretrained(temporary)
        _write_origin(policy, temporary)


def _end_with_turns(policy: Policy, settings: Path, config: Any) -> None:
    """Let generation end where the template's turns do, too: a base's file may know the end of a text alone."""
    written = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else None
    given = config.eos_token_id if written is None else written.get("eos_token_id")
    known = given if isinstance(given, list) else [] if given is None else [given]
    missing = sorted(policy.ends - set(known))
    if not missing:
        return
    if written is None:  # without the file these would be taken from the configuration
        named = {key: getattr(config, key, None) for key in ("bos_token_id", "pad_token_id")}
        written = {key: token for key, token in named.items() if token is not None}
    written.pop("_from_model_config", None)  # it is no longer what follows from the model's configuration
    ends = [*known, *missing]
    written["eos_token_id"] = ends if len(ends) > 1 else ends[0]
    settings.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")


def _skeleton(policy: Policy, config: Any) -> Any:
    """A model of this configuration without weights."""
    build: Any = AutoModelForCausalLM.from_config
    with torch.device("meta"):
        return build(config, trust_remote_code=policy.model.trust_remote_code)


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
    return dataclasses.replace(merged, model=policy.model, heads=policy.heads, ends=policy.ends)
