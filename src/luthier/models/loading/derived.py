"""A run, or an adapter, as one whole model to train on: merged into its base once, and kept in the cache by content.

What was trained earlier is only read. The cache may be deleted: the same files give the same model again.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from luthier import cache
from luthier.errors import LuthierError
from luthier.models import heads
from luthier.models.folding import Unmergeable
from luthier.models.loading import foreign
from luthier.models.loading.digest import weights_digest
from luthier.models.loading.fetching import locked, progress_line
from luthier.models.loading.known import is_whole
from luthier.models.loading.load import fetch_base, open_adapter
from luthier.models.loading.tokenizer import load_tokenizer
from luthier.models.saving import merge
from luthier.recipe.schema import Model
from luthier.run import Run

MADE = 2
"""How models are merged; goes up when the same files give another model."""
SMALL = (".json", ".jinja", ".model", ".tiktoken", ".txt", ".py")
"""Configuration, tokenizer, template and code of a model."""


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
    """The folder of what plain PEFT has written as one whole model, of the type and revision that `model` asks for.

    What its tokenizer has of its own is told. Raises LuthierError as `foreign.config` and `open_adapter` do.
    """
    known = foreign.config(folder)
    model = replace(model, name=known["base_model_name_or_path"], revision=known.get("revision"))
    base = fetch_base(model, {"folder": model.name}, folder).folder
    made = _merged(folder, folder, model, base)
    if foreign.brings_text(folder):
        code = model.trust_remote_code
        own, theirs = (load_tokenizer(each, trust_remote_code=code) for each in (made, base))
        differing = foreign.differences(own, theirs)
        if differing:
            foreign.say(f"{folder}: the adapter brings its own {differing}, which is used instead of its base's")
    return made


def _merged(adapter: Path, named: Path, model: Model | None, base: Path | None = None) -> Path:
    """`adapter` on its base (or on `model`, which lies in `base`), merged; `named` is what the user calls it."""
    name = f"{named.name}-{_content(adapter, model, base)[:12]}"
    folder = cache.root() / "merged" / name
    with locked(name):
        if not is_whole(folder):
            with progress_line(f"Merging {named.name} into its base (once)"):
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


def _content(adapter: Path, model: Model | None, base: Path | None) -> str:
    """What the merged model depends on: every file beside the weights, the weights, the type that is asked for, and
    the same of a base that others have named; ours is known by its weights, which stand in a file beside them."""
    digest = hashlib.sha256(f"{MADE} {model and model.dtype}".encode())
    for folder in (adapter, *([] if base is None else [base])):
        digest.update(f"\0{weights_digest(folder)}".encode())
        for path in sorted(folder.iterdir()):
            if path.is_file() and path.suffix in SMALL:
                digest.update(f"\0{path.name}\0".encode() + path.read_bytes())
    return digest.hexdigest()
