"""A model as its files: all that an engine with weights of its own is told of it. No weights are loaded for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from luthier.errors import LuthierError
from luthier.models.loading.digest import weights_digest
from luthier.models.loading.fetching import fetch
from luthier.models.loading.load import fetch_base, origin_of
from luthier.models.loading.tokenizer import load_tokenizer
from luthier.recipe.schema import Model
from luthier.run import Run


@dataclass(frozen=True)
class OnDisk:
    """Where a model lies, and its tokenizer."""

    tokenizer: Any
    folder: Path
    """Its weights, or those under its adapter."""
    adapter: Path | None = None
    """What a run has trained beside them."""
    is_base: bool = False
    """Is it what a run began with, scored beside what it has trained?"""

    @cached_property
    def digest(self) -> str:
        """Identity of all its weights, by content."""
        own = weights_digest(self.folder)
        return own if self.adapter is None else f"{own}+{weights_digest(self.adapter)}"

    @property
    def base(self) -> OnDisk:
        """The same without its adapter."""
        return replace(self, adapter=None, is_base=True)


def of_model(model: Model) -> OnDisk:
    """A model by name; it is fetched. Raises LuthierError as `fetch` does."""
    folder = fetch(model).folder
    return OnDisk(load_tokenizer(folder, trust_remote_code=model.trust_remote_code), folder)


def of_run(run: Run) -> OnDisk:
    """What a run has trained. Raises LuthierError where it has not finished, or its base is not at hand."""
    if run.model.is_dir():
        origin = origin_of(run.model)
        trust = bool(origin and Model(**origin["model"]).trust_remote_code)
        return OnDisk(load_tokenizer(run.model, trust_remote_code=trust), run.model.resolve())
    if not run.adapter.is_dir():
        raise LuthierError(
            "the run holds no trained model yet",
            where=str(run.folder),
            fix="let `luthier train` with its recipe end first",
        )
    return replace(of_base(run), adapter=run.adapter.resolve(), is_base=False)


def of_base(run: Run, model: Model | None = None) -> OnDisk:
    """What a run began with, as `model` says. Raises LuthierError where it is not at hand, or another by now."""
    folder = run.model if run.model.is_dir() else run.adapter
    origin = origin_of(folder)
    if not origin:
        raise LuthierError("nothing says which base this run began with", where=str(folder), fix="train it again")
    model = model or Model(**origin["model"])
    base = fetch_base(model, origin, folder).folder
    return OnDisk(load_tokenizer(base, trust_remote_code=model.trust_remote_code), base, is_base=True)
