"""What is served: one base in memory with the adapters of any number of runs on it, and at most one reward model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.errors import LuthierError
from luthier.run import Run

if TYPE_CHECKING:
    from luthier.data import Template
    from luthier.models import Policy
    from luthier.recipe import Recipe


@dataclass(frozen=True)
class Opened:
    """What was named on the command line, opened."""

    name: str
    """Of the base, or of the only model."""
    policy: Policy | None
    template: Template | None
    adapters: dict[str, Path] = field(default_factory=dict)
    """Name → folder of the adapters on it."""
    reward: Run | None = None
    """The run of a reward model."""
    home: Path | None = None
    """The folder of the run that trained the base's own weights, or the only model."""


def open_all(given: Sequence[str]) -> Opened:
    """Open runs and models so that each weight is in memory once.

    Raises LuthierError where they have no base in common, where two have one name, and where one of them cannot stand
    beside others.
    """
    from luthier.models.loading.beneath import must_go_on, open_beneath, why_alone

    rewards, whole, adapters = _sorted(given)
    if len(rewards) > 1:
        raise LuthierError(
            f"{len(rewards)} reward models were named ({', '.join(map(str, rewards))}), and a server has one",
            where=str(rewards[1]),
            fix="start a server for each",
        )
    reward = Run(rewards[0]) if rewards else None
    if len(whole) > 1:
        raise LuthierError(
            f"{whole[0]} and {whole[1]} are two models with weights of their own, and a server holds one base",
            where=whole[1],
            fix="start a server for each",
        )
    alone = [(path, why) for path in adapters.values() if (why := why_alone(path)) is not None]
    if alone and len(whole) + len(adapters) == 1:
        return _alone(alone[0][0].parent, reward)
    if alone:
        raise LuthierError(
            f"this adapter cannot be served beside others on one base: {alone[0][1]}",
            where=str(alone[0][0]),
            fix="serve it by itself, or merge it first: luthier export RUN",
        )
    if not whole and not adapters:
        return Opened(_name_of(rewards[0].resolve()), None, None, reward=reward)
    policy = _whole(whole[0]) if whole else open_beneath(next(iter(adapters.values())))
    for path in adapters.values():
        must_go_on(path, policy)
    name, home = Path(policy.base).name if Path(policy.base).is_absolute() else policy.base, None
    if whole and Run(Path(whole[0]).expanduser()).recipe_path.exists():
        home = Path(whole[0]).expanduser().resolve()
        name = _name_of(home)
    if name in adapters:
        raise LuthierError(
            f"the base and an adapter are both called {name!r}",
            where=str(adapters[name]),
            fix="give the run's folder another name",
        )
    return Opened(name, policy, _template(policy), adapters, reward, home)


def _sorted(given: Sequence[str]) -> tuple[list[Path], list[str], dict[str, Path]]:
    """Runs of reward models; models with weights of their own; adapters by name."""
    from luthier.models.loading import foreign

    rewards: list[Path] = []
    whole: list[str] = []
    adapters: dict[str, Path] = {}
    for name in given:
        path = Path(name).expanduser()
        run = Run(path)
        if run.recipe_path.exists():
            if run.head is not None and _objective(run) != "sum":  # beside another term it may still speak
                rewards.append(path)
                continue
            if run.adapter.is_dir() and not run.model.is_dir():
                place = run.adapter
            else:
                whole.append(name)
                continue
        elif path.is_dir() and foreign.is_adapter(path):
            place = path
        else:
            whole.append(name)
            continue
        known = _name_of(path.resolve())
        if known in adapters:
            raise LuthierError(
                f"two runs are called {known!r}: {adapters[known]} and {place}",
                where=name,
                fix="give one of the folders another name",
            )
        adapters[known] = place
    return rewards, whole, adapters


def _name_of(path: Path) -> str:
    return path.name or "model"


def _objective(run: Run) -> str:
    return _recipe(run).objective.name


def _recipe(run: Run) -> Recipe:
    from luthier.recipe import loads

    return loads(run.recipe_path.read_text(encoding="utf-8"), name=str(run.recipe_path)).recipe


def system_of(folder: Path) -> str | None:
    """The system message that a run's data had; `folder` is the run's, or its adapter's. None for what is no run's.

    Raises LuthierError for a recipe that cannot be read.
    """
    above = Run(folder.parent)
    run = above if above.adapter == folder and above.recipe_path.exists() else Run(folder)
    return (_recipe(run).data[0].system or None) if run.recipe_path.exists() else None


def _whole(name: str) -> Policy:
    """A model with weights of its own: a run's, or any other."""
    from luthier.models import heads, load, open_run
    from luthier.recipe import Model

    run = Run(Path(name).expanduser())
    if run.recipe_path.exists():
        return open_run(run)
    policy = load(Model(name=name), train=False)
    if heads.found_head(policy.folder) is not None:
        raise LuthierError(
            "this is a reward model: it scores answers, it gives none",
            where=name,
            fix="name the run that trained it, and ask /v1/score",
        )
    return policy


def _alone(folder: Path, reward: Run | None) -> Opened:
    """A run whose adapter cannot be told apart from its base in memory: it is the one model there is."""
    from luthier.models import open_run

    policy = open_run(Run.open(folder))
    return Opened(_name_of(folder.resolve()), policy, _template(policy), reward=reward, home=folder)


def _template(policy: Policy) -> Template:
    from luthier.data import Template
    from luthier.models import embeddings

    return Template(policy.tokenizer, embeddings(policy.module))
