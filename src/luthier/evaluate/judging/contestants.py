"""Who takes part, by name: a run, its base, any model, or a file of answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.engines import ENGINES
from luthier.engines.openai.settings import OpenAI
from luthier.engines.opening import Opening
from luthier.errors import LuthierError
from luthier.evaluate.judging.answers import Contestant, Speaking, Written, identity
from luthier.recipe.schema import Model, Plugin
from luthier.run import Run
from luthier.types import Engine

if TYPE_CHECKING:
    from luthier.models import OnDisk, Policy

BASE = "base"
"""What the runs beside it began with."""
LOCAL = Plugin(name="local")


def contestants(named: Sequence[str], engine: Plugin = LOCAL) -> list[Contestant]:
    """All that take part. Raises LuthierError for one that is not there or named twice, and for `base`
    without a run."""
    for place, name in enumerate(named):
        if name in named[:place]:
            raise LuthierError(f"{name} is named twice", fix="name each once; a copy would only meet itself")
    runs = [Run(Path(name)) for name in named if _is_run(name)]
    return [contestant(name, runs, engine) for name in named]


def contestant(name: str, runs: Sequence[Run] = (), engine: Plugin = LOCAL) -> Contestant:
    """One of them; `runs`: those of which the first one's base is meant by `base`."""
    if name == BASE:
        if not runs:
            raise LuthierError("`base` is what a run began with, and no run is named", fix="name the model itself")
        return _of_base(runs[0], engine)
    path = Path(name).expanduser()
    if path.is_file():
        return Written(name, str(path))
    return _of_run(name, Run(path), engine) if _is_run(name) else _of_model(name, engine)


def _is_run(name: str) -> bool:
    return Run(Path(name).expanduser()).recipe_path.exists()


def _of_run(name: str, run: Run, engine: Plugin) -> Contestant:
    from luthier import models
    from luthier.models.loading import on_disk

    if run.head is not None:
        raise LuthierError(
            "this run is a reward model: it scores answers and gives none", where=name, fix="take it as --judge"
        )
    return _speaking(name, on_disk.of_run(run), lambda: models.open_run(run), engine)


def _of_base(run: Run, engine: Plugin) -> Contestant:
    from luthier import models
    from luthier.models.loading import on_disk
    from luthier.models.loading.load import origin_of

    origin = origin_of(run.model if run.model.is_dir() else run.adapter)
    disk = on_disk.of_base(run)
    return _speaking(BASE, disk, lambda: models.open_base(run, Model(**(origin or {})["model"])), engine)


def _of_model(name: str, engine: Plugin) -> Contestant:
    from luthier import models
    from luthier.models.loading import on_disk

    return _speaking(
        name, on_disk.of_model(Model(name=name)), lambda: models.load(Model(name=name), train=False), engine
    )


def _speaking(name: str, disk: OnDisk, load: Callable[[], Policy], engine: Plugin) -> Speaking:
    from luthier.data import Template

    opening: Opening = ENGINES.build(engine.name, engine.args)
    opening.ready(base=name == BASE)
    template = Template(disk.tokenizer)
    if not template.exists:
        raise LuthierError(
            "this model has no chat template: it goes on with a text, but answers no prompts",
            where=name,
            fix="take an instruct model, or a run",
        )

    def opened() -> Engine:
        given: Any = disk if opening.elsewhere else load()
        return opening.open(given, template.stop_ids)

    far = isinstance(opening, OpenAI)
    hangs = "" if far else identity(disk.digest, template.digest, engine.name, opening.identity())
    return Speaking(name, template, hangs, opened)
