"""A model to be talked to: what a run has trained, or any other, opened as an engine wants it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.engines.opening import Opening
from luthier.errors import LuthierError
from luthier.recipe import Model, Plugin, Recipe
from luthier.recipe.generation import generation
from luthier.recipe.load import load
from luthier.recipe.resolve import resolve
from luthier.run import Run
from luthier.types import Engine
from luthier.workflow.registries import REGISTRIES

if TYPE_CHECKING:
    from luthier.data import Template
    from luthier.models import OnDisk, Policy


@dataclass(frozen=True)
class Speaker:
    """`given`: a run, its folder, or a model's name. Raises LuthierError where it is a reward model, or not there."""

    given: Run | str | Path

    @cached_property
    def run(self) -> Run | None:
        """The run, if it is one."""
        run = self.given if isinstance(self.given, Run) else Run(Path(self.given))
        return run if run.recipe_path.exists() else None

    @cached_property
    def recipe(self) -> Recipe | None:
        """The recipe of the run."""
        return None if self.run is None else resolve(load(self.run.recipe_path), REGISTRIES).recipe

    @property
    def name(self) -> str:
        """As it was given."""
        return str(self.given.folder if isinstance(self.given, Run) else self.given)

    @property
    def system(self) -> str | None:
        """The system message that the run's data had."""
        return None if self.recipe is None else self.recipe.data[0].system

    @cached_property
    def policy(self) -> Policy:
        """The model in memory."""
        from luthier import models

        if self.run is not None:
            self._must_speak(None)
            return models.open_run(self.run)
        policy = models.load(Model(name=self.name), train=False)
        self._must_speak(policy.folder)
        return policy

    @cached_property
    def disk(self) -> OnDisk:
        """The model as its files."""
        from luthier.models.loading import on_disk

        if self.run is not None:
            self._must_speak(None)
            return on_disk.of_run(self.run)
        disk = on_disk.of_model(Model(name=self.name))
        self._must_speak(disk.folder)
        return disk

    def engine(self, opening: Opening, template: Template) -> Engine:
        """What answers."""
        return opening.open(self.disk if opening.elsewhere else self.policy, template.stop_ids)

    def template(self, opening: Opening) -> Template:
        """The chat template. Raises LuthierError where there is none."""
        from luthier.data import Template
        from luthier.models import embeddings

        if opening.elsewhere:
            found = Template(self.disk.tokenizer)
        else:
            found = Template(self.policy.tokenizer, embeddings(self.policy.module))
        if not found.exists:
            raise LuthierError(
                "this model has no chat template: it goes on with a text, but knows no turns of a conversation",
                where=self.name,
                fix="take an instruct model, or put a chat_template.jinja into the model's folder",
            )
        return found

    def _must_speak(self, folder: Path | None) -> None:
        from luthier import serve
        from luthier.models import heads

        if self.run is not None and self.recipe is not None:
            # beside another term it may still speak
            if self.run.head is not None and self.recipe.objective.name != "sum":
                raise serve.scores_only(self.run.folder, self.recipe.model.name)
        elif folder is not None and heads.found_head(folder) is not None:
            raise serve.scores_only(self.name)


def named(engine: str) -> Plugin:
    """An engine as the command line names it: a name, or a mapping of a name to its keys."""
    return generation([f"engine={engine}", "data.path=x"]).engine


def opening(plugin: Plugin) -> Opening:
    """What a recipe's `engine:` names. Raises LuthierError for its keys, and where it could not be opened."""
    made: Opening = REGISTRIES["engine"].build(plugin.name, plugin.args)
    made.ready(base=False)
    return made
