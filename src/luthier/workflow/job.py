"""A recipe built: the objects that its words name, each made once and handed on from verb to verb."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.errors import LuthierError
from luthier.recipe import Model, Plugin, Recipe, Task
from luthier.recipe.describe import default_of, plugin_fields
from luthier.recipe.resolve import plain
from luthier.run import Run
from luthier.workflow import data_check
from luthier.workflow.registries import REGISTRIES
from luthier.workflow.screen import console, say

if TYPE_CHECKING:
    from luthier.data import Prepared, Prompts, Template
    from luthier.data.curation.stages import Settings
    from luthier.distributed.group import Group
    from luthier.engines.opening import Opening
    from luthier.evaluate import ScoredTask
    from luthier.models import Policy
    from luthier.models.heads import HeadCard
    from luthier.train import Beside
    from luthier.train.rollouts.judging import Judging
    from luthier.train.rollouts.source import Rollouts
    from luthier.types import Encoded, Engine, Example


@dataclass(frozen=True, eq=False)
class Job:
    """A resolved recipe with what is built of it, when it is first asked for."""

    recipe: Recipe

    @cached_property
    def template(self) -> Template:
        """The recipe's model's chat template; fetches the model, does not load its weights."""
        from luthier.data import Template
        from luthier.models import expected_embeddings, fetch
        from luthier.models.loading.tokenizer import load_tokenizer

        model = self.recipe.model
        tokenizer = load_tokenizer(fetch(model).folder, trust_remote_code=model.trust_remote_code)
        return Template(tokenizer, expected_embeddings(model))

    @cached_property
    def objective(self) -> Any:
        """What is learnt."""
        return REGISTRIES["objective"].build(self.recipe.objective.name, self.recipe.objective.args)

    @cached_property
    def prepared(self) -> Prepared:
        """The rows as tokens, read or found in the cache, their ledger shown.

        Raises LuthierError where early stopping has no validation rows.
        """
        from luthier.data import prepare
        from luthier.models import expected_max_context

        recipe = self.recipe
        longest, _ = expected_max_context(recipe.model, recipe.adapt)
        with self._steps() as settings:
            prepared = prepare(recipe, self.template, self.objective.needs, longest, settings)
        console(stderr=True).print(prepared.ledger.table())
        if prepared.validation is None:
            self._none_held_out("all are equal, or judged answers to one prompt, and stay together")
        return prepared

    def _none_held_out(self, why: str) -> None:
        """Say it where a share was to be. Raises LuthierError where the run is to stop early by it."""
        validate = self.recipe.validate
        if validate.share <= 0 or validate.data:
            return
        what = f"validate.share holds out no row: {why}"
        if validate.patience is not None:
            fix = "raise it, set validate.data, or leave validate.patience out"
            raise LuthierError(f"{what}, so nothing can stop the run early", where="validate.share", fix=fix)
        say(f"warning: {what}")

    @cached_property
    def prompts(self) -> Prompts:
        """The rows as prompts, for an objective that learns from what the model says; their ledger shown."""
        from luthier.data import prompts
        from luthier.models import expected_max_context

        recipe = self.recipe
        with self._steps() as settings:
            found = prompts(recipe, self.template, expected_max_context(recipe.model, recipe.adapt)[0], settings)
        console(stderr=True).print(found.ledger.table())
        if not found.held_out:
            self._none_held_out("all prompts are equal, and stay together")
        return found

    def _steps(self) -> AbstractContextManager[Settings]:
        """How the steps of its data are run."""
        from luthier.workflow import curation

        return curation.settings(self.recipe)

    @property
    def speaks(self) -> bool:
        """Does it learn from what the model says?"""
        return bool(self.objective.needs.rollouts)

    @property
    def rows(self) -> Prepared | Prompts:
        """What it learns from."""
        return self.prompts if self.speaks else self.prepared

    def shown(self, count: int) -> Any:
        """The first rows, for people."""
        from luthier.data import show, show_prompts

        if self.speaks:
            return show_prompts(self.prompts, self.template, count)
        return show(self.prepared.train, self.template, count)

    def sample(self, count: int) -> list[Encoded]:
        """Rows that adapters measure their first weights on."""
        return [self.prepared.train[row] for row in range(min(count, len(self.prepared.train)))] if count else []

    @cached_property
    def judging(self) -> Judging:
        """What answers are worth."""
        from luthier.train.rollouts.judging import Judging

        rewards = [replace(reward, scorer=_brief(reward.scorer)) for reward in self.recipe.reward]
        return Judging(rewards, self.objective.needs.preference)

    @cached_property
    def _speaking(self) -> Opening:
        """What opens the engine of rollouts. Raises LuthierError for what would be refused when it is opened."""
        assert self.recipe.rollout is not None, "the recipe is not resolved"
        named = self.recipe.rollout.engine
        opening: Opening = REGISTRIES["engine"].build(named.name, named.args)
        opening.ready(base=False)
        return opening

    def must_be_alone(self, processes: int) -> None:
        """Raises LuthierError where several processes are to learn from what one of them says."""
        if processes > 1 and self.speaks:
            raise LuthierError(
                f"the objective {self.recipe.objective.name!r} learns from what the model says, and that is drawn by "
                "one process",
                where="--processes",
                fix="train with one process",
            )

    def rollouts(self, policy: Policy, run: Run) -> Rollouts:
        """What the model is to learn from: what it says to the prompts."""
        from luthier.engines.opening import Local
        from luthier.train.rollouts.source import Made, Rollouts

        needs, near = self.objective.needs, None
        if self._speaking.elsewhere:
            engine, near = self._elsewhere(policy, run), Local().open(policy, self.template.stop_ids)
        else:
            engine = self._speaking.open(policy, self.template.stop_ids)
        rival = self._rival(policy) if needs.rivals != "self" else None
        encode = self._answered if needs.own < 1 else None
        made = Made(self.prompts, self.judging, engine, self.objective, policy.digest, rival, near, encode)
        return Rollouts(made, self.recipe, run)

    def _elsewhere(self, policy: Policy, run: Run | None) -> Engine:
        """An engine with weights of its own; where it is to follow those that train, the run's adapter is carried there
        (without a `run`: its model as it stands)."""
        from luthier.models import OnDisk, embeddings
        from luthier.train.rollouts.carrying import Carrier, Elsewhere

        assert self.recipe.rollout is not None, "the recipe is not resolved"
        follow, files = self.recipe.rollout.follow, OnDisk(policy.tokenizer, policy.folder)
        engine = self._speaking.following(files, self.template.stop_ids, follow.by if follow else None)
        tokens = embeddings(policy.module)
        if follow is None or run is None:
            return Elsewhere(engine, tokens=tokens)
        folder = None if follow.folder is None else Path(follow.folder)
        return Elsewhere(engine, Carrier(engine, policy, run.folder, folder), tokens)

    def _rival(self, policy: Policy) -> Engine:
        """The reference, answering, or its mixture with the model: the same weights with the adapter off. Raises
        LuthierError where the reference is another model."""
        from luthier.engines.switched import AdapterOff

        mixture, needs = self.objective.needs.rivals == "mixture", self.objective.needs
        draws = "helps to draw" if mixture else "draws"
        if self.recipe.reference.model is not None or not policy.has_adapter or policy.rewrites_base:
            raise LuthierError(
                f"for {self.recipe.objective.name!r} the reference {draws} rivals, and it can only where it is the "
                "model with its adapter off",
                where="adapt",
                fix="take `adapt: lora` and leave `reference:` out",
            )
        if mixture:
            return self._speaking.mixture(policy, self.template.stop_ids, needs.mixture)
        if self._speaking.elsewhere:
            return self._elsewhere(policy, None)
        return AdapterOff(self._speaking.open(policy, self.template.stop_ids), policy.adapter_off)

    def _answered(self, example: Example) -> Encoded:
        """The data's own answer to a prompt. Raises LuthierError where it has none, or one that is too long."""
        from luthier.data.prompting import with_answer

        encoded = self.template.encode(with_answer(example), loss_on="last")
        longest = max(len(ids) for ids in encoded.ids)
        if longest > self.recipe.train.max_tokens:
            raise LuthierError(
                f"the row has {longest:,} tokens, train.max_tokens is {self.recipe.train.max_tokens:,}",
                where=str(example.source),
                fix="raise train.max_tokens, or leave the row out",
            )
        return encoded

    def scored(self, task: Task) -> ScoredTask:
        """One of the recipe's tasks with its scorers, which are the same objects whenever it is asked for."""
        from luthier.evaluate import ScoredTask

        if task.name not in self._scored:
            self._scored[task.name] = ScoredTask(_named(task))
        return self._scored[task.name]

    @cached_property
    def _scored(self) -> dict[str, ScoredTask]:
        return {}

    def fetch(self) -> None:
        """Have the files of all its models in the cache."""
        from luthier.models import fetch

        for model in (self.recipe.model, *self._others.values()):
            if model is not None:
                fetch(model)

    def lenient(self) -> Job:
        """The same job, whatever share of its rows is lost."""
        train = replace(self.recipe.train, max_lost=1.0)
        return Job(replace(self.recipe, train=train))

    def check_data(self) -> None:
        """Raises LuthierError where the rows do not suit the objective or the model; says what its authors advise."""
        from luthier import models

        if self.speaks:
            _ = self._speaking
            apart = self.prompts.held_out if self.recipe.validate.data else ()
            train, held_out = ([prompt.example for prompt in some] for some in (self.prompts.train, apart))
            remarks = self.judging.check(train, held_out)
            blind = data_check.verdicts(self.objective, self.recipe.objective.name, self.judging.tells_right)
            for remark in [*remarks, *([blind] if blind else [])]:
                say(remark)
            for prompt in self.prompts.train if self.objective.needs.own < 1 else ():
                self._answered(prompt.example)
            return
        recipe, needs, statistics = self.recipe, self.objective.needs, self.prepared.ledger.preferences
        if statistics is not None and (advice := self.objective.advice(statistics.good, statistics.bad)):
            say(advice)
        data_check.turn_weights(self.prepared.ledger, self.objective, recipe.objective.name)
        longest, virtual = models.expected_max_context(recipe.model, recipe.adapt)
        who = f"beside {virtual} virtual tokens the model" if virtual else "the model"
        for store, trains in ((self.prepared.train, True), (self.prepared.validation, False)):
            if store is not None:
                data_check.responses(store, needs, recipe.objective.name, trains=trains)
                data_check.context(store, longest, who)

    def heads(self) -> Mapping[str, HeadCard]:
        """The scalar heads that the objective reads, by role, and how."""
        from luthier.models.heads import HeadCard

        separator = self.rows.ledger.separator or HeadCard.separator
        return {
            role: HeadCard(reads, self.recipe.objective.name, separator) for role, reads in self.objective.needs.heads
        }

    @property
    def _others(self) -> dict[str, Model]:
        """The models beside the one that trains, by role."""
        teacher = None if self.recipe.teacher is None else self.recipe.teacher.model
        named = {"reference": self.recipe.reference.model, "teacher": teacher}
        return {role: model for role, model in named.items() if model is not None}

    def beside(self, policy: Policy, run: Run | None, group: Group) -> Beside:
        """What trains beside the model: further ones by role, each loaded when it is wanted."""
        from luthier.train import Beside
        from luthier.workflow.teaching.said import SaidByRows

        openers = {role: partial(self._second, role, model, policy, run) for role, model in self._others.items()}
        digests = {role: partial(self._known, role, model, policy, run) for role, model in self._others.items()}
        by_rows = self.recipe.teacher is not None and self.recipe.teacher.model is None
        said = SaidByRows(self.recipe, self.template) if by_rows else None
        if said is not None:
            _written_down(run, "teacher", "in the rows", said.digest)
        return Beside(openers, digests=digests, said=said, group=group)

    def _known(self, role: str, model: Model, policy: Policy, run: Run | None) -> str:
        """Which weights a second model has, none of them loaded. `run` (None: another process does) writes it down.
        Raises LuthierError where it does not go with the model, or is not what the run was trained with."""
        from luthier.models import fetch
        from luthier.models.loading.digest import weights_digest
        from luthier.models.loading.tokenizer import load_tokenizer

        folder = fetch(model).folder
        tokenizer = load_tokenizer(folder, trust_remote_code=model.trust_remote_code)
        data_check.vocabulary(policy.tokenizer, tokenizer, model.name, role)
        return _written_down(run, role, model.name, weights_digest(folder))

    def _second(self, role: str, model: Model, policy: Policy, run: Run | None) -> Policy:
        """A second model."""
        from luthier import models

        self._known(role, model, policy, run)
        second = models.load(model, train=False)
        for store in () if self.speaks or run is None else (self.prepared.train, self.prepared.validation):
            if store is not None:
                data_check.context(store, models.max_context(second.module), f"the {role}")
                data_check.embeddings(store, models.embeddings(second.module), second.tokenizer, f"the {role}")
        return second


def _written_down(run: Run | None, role: str, name: str, digest: str) -> str:
    """The digest, which the run keeps. Raises LuthierError where it goes on with another than it was trained with."""
    from luthier.models.loading.digest import must_be

    if run is not None:
        summary = run.read_json(run.summary_path)
        if any(run.checkpoints.glob("step-*")):
            must_be(summary.get(role), digest, name, run.folder, role)
        run.write_json(run.summary_path, {**summary, role: digest})
    return digest


def _named(task: Task) -> Task:
    """The task with its scorers named briefly."""
    by = None if task.by is None else _brief(task.by)
    return replace(task, scorers=tuple(_brief(scorer) for scorer in task.scorers), by=by)


def _brief(scorer: Plugin) -> Plugin:
    """The scorer with only the keys that differ from their defaults: a score is named by what is particular to it."""
    defaults = {f.name: plain(default_of(f)) for f in plugin_fields(REGISTRIES["scorer"].get(scorer.name))}
    return Plugin(name=scorer.name, args={k: v for k, v in scorer.args.items() if defaults[k] != v})
