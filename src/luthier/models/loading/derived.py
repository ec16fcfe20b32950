"""A run, or an adapter, as one whole model to train on: merged into its base once, and kept in the cache by content.

What was trained earlier is only read. The cache may be deleted: the same files give the same model again.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from luthier import cache
from luthier.errors import LuthierError
from luthier.models import heads
from luthier.models.loading.digest import weights_digest
from luthier.models.loading.fetching import alone, saying
from luthier.models.loading.known import is_whole
from luthier.models.loading.load import open_adapter
from luthier.models.saving import Unmergeable, merge
from luthier.recipe.schema import Model
from luthier.run import Run


def of_run(folder: Path) -> Path:
    """The folder of the run's result as one whole model. Raises LuthierError where the run holds none yet, or an
    adapter that is no change of the base's weights."""
    run = Run.open(folder)
    if run.model.is_dir():
        return run.model
    if not run.adapter.is_dir():
        raise LuthierError(
            "the run named as a model holds no trained model yet",
            where=str(folder),
            fix="let `luthier train` with its recipe end first, or name another `model:`",
        )
    return _merged(run.adapter, folder, None)


def of_adapter(folder: Path, model: Model) -> Path:
    """The folder of what plain PEFT has written as one whole model, of the type and revision that `model` asks for."""
    known = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    base = known.get("base_model_name_or_path")
    if not base:
        raise LuthierError(
            "this folder holds an adapter, not a model, and names no base",
            where=str(folder),
            fix="write base_model_name_or_path into its adapter_config.json, or merge it first",
        )
    return _merged(folder, folder, replace(model, name=base, revision=known.get("revision")))


def _merged(adapter: Path, named: Path, model: Model | None) -> Path:
    """`adapter` on its base (or on `model`), merged; `named` is what the user calls it."""
    name = f"{named.name}-{_content(adapter, model)[:12]}"
    folder = cache.root() / "merged" / name
    with alone(name):
        if not is_whole(folder):
            with saying(f"Merging {named.name} into its base (once)"):
                policy = open_adapter(adapter, device="cpu", model=model)
                policy.heads = heads.read(adapter, policy.module, policy.device)
                try:
                    merge(policy, folder)
                except Unmergeable as error:
                    raise LuthierError(
                        f"{named} cannot be a model to train on: {error.what}",
                        where="model",
                        fix="train that run with an adapter that merges (`luthier explain adapt` shows which, "
                        "`adapt: lora` does), or name its base as `model:`",
                    ) from error
    return folder


def _content(adapter: Path, model: Model | None) -> str:
    """What the merged model depends on: every file beside the weights, the weights, and the type that is asked for."""
    digest = hashlib.sha256(f"{model and model.dtype} {weights_digest(adapter)}".encode())
    for path in sorted(adapter.iterdir()):
        if path.is_file() and path.suffix not in (".safetensors", ".md"):
            digest.update(f"\0{path.name}\0".encode() + path.read_bytes())
    return digest.hexdigest()
