"""A run of training from what it is made of: model, objective, data, recipe and run folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

from luthier.distributed.group import ALONE as NO_OTHERS
from luthier.distributed.group import Group, use_threads
from luthier.distributed.placement import place
from luthier.errors import LuthierError
from luthier.forward.forward import Forward
from luthier.models import dropout
from luthier.objectives.base import MODEL
from luthier.recipe import Recipe
from luthier.run import Run
from luthier.train import sources
from luthier.train.loop.budget import Budget
from luthier.train.loop.loop import Loop, Parts, smaller
from luthier.train.loop.losses import Losses, Objective
from luthier.train.loop.progress import FitResult
from luthier.train.optim.weights import Policy, Weights
from luthier.train.roles import Known, Setting, backbone, resolve
from luthier.train.roles.teacher import Said
from luthier.train.rollouts.source import Rollouts
from luthier.train.rollouts.surroundings import Surroundings
from luthier.train.telemetry.log import Log, Watch
from luthier.train.telemetry.screen import Screen
from luthier.types import StepSource, TokenStore


class Prepared(Protocol):
    """What the loop asks of the data; `luthier.data.prepare` gives one."""

    @property
    def train(self) -> TokenStore | StepSource: ...
    @property
    def validation(self) -> TokenStore | None: ...


@dataclass(frozen=True)
class Beside:
    """What a run may have besides its model, objective and data."""

    openers: Mapping[str, Callable[[], Policy]] = field(default_factory=dict)
    """Further frozen models by role ("reference", "teacher"), each loaded when it is wanted."""
    watch: Watch | None = None
    """Called with every event."""
    group: Group = NO_OTHERS
    """The processes that train together."""
    digests: Mapping[str, Callable[[], str]] = field(default_factory=dict)
    """Which weights the further models have, told without loading them."""
    said: Said | None = None
    """What a teacher said of the rows, where they bring it themselves."""


ALONE = Beside()


def fit(
    policy: Policy, objective: Objective, prepared: Prepared, recipe: Recipe, run: Run, beside: Beside = ALONE
) -> FitResult:
    """Train `policy` in place, continuing from the run's newest whole checkpoint if there is one.

    `prepared.train` is a token store, which is read in the recipe's order, or any other step source. The run folder
    receives events.jsonl, checkpoints/ and the loop's part of summary.json. Raises LuthierError for what the user can
    mend: not enough memory or disk, a loss that is not finite, a checkpoint of another recipe.
    """
    train, group = recipe.train, beside.group
    use_threads(group, train.threads)
    place(policy, group)
    source = sources.of(prepared.train, recipe)
    for adapter in policy.adapters:
        adapter.fits(source.total)
    if objective.rates(source.total - 1).get(MODEL) == 0.0:
        raise LuthierError(
            f"in all {source.total:,} steps of this run the critic learns alone, and the model never",
            where="train.steps",
            fix="take more steps, or set `warm` of the objective lower",
        )
    policy.module.train()
    with ExitStack() as stack:
        screen = stack.enter_context(Screen(source.total, silent=not group.first))
        log = Log(run, screen, beside.watch, silent=not group.first)
        shares = False if train.neftune else train.share_prefix  # rows that share a prefix would share its noise
        paths: dict[str, Any] = {"layout": train.layout, "share_prefix": shares, "fused": train.fused}
        if objective.needs.reference or objective.needs.rollouts:
            switch_off_dropout(policy.module, stack, log, objective.needs.rollouts)
        if isinstance(source, Rollouts) and objective.estimator is not None:
            paths["temperature"] = source.rollout.temperature  # what learns is what was drawn from
        forward = Forward(policy.module, heads=policy.heads, **paths)
        stack.enter_context(forward.opened())
        weights = Weights(policy, train, source.total, objective.rates)
        stack.callback(weights.update.close)
        budget = Budget(forward, train, policy.device, whole_step=objective.needs.whole_step, group=group)
        stack.callback(budget.close)
        budget.on_shrink = lambda fields: log.screen.warn(smaller(fields))
        if group.several or train.parts:
            backbone.pass_by(policy, log)
        else:
            stack.enter_context(backbone.kept(policy, forward, source, prepared.validation, recipe, log))
        every = source.every()
        known = [examples for examples in (every, prepared.validation) if examples is not None]
        seen = Known(known, all_of_it=every is not None, passes=source.epoch(source.total - 1))
        setting = Setting(policy, forward, recipe, budget, seen, paths, log.screen.say, beside.digests, beside.said)
        roles = resolve(objective.needs, setting, beside.openers, stack)
        if isinstance(source, Rollouts):
            source.attach(Surroundings(forward, budget, log, roles.reference))
            stack.callback(source.ahead.stop)
        losses = Losses(forward, objective, roles, shortcut=not group.several and train.parts is None)
        loop = Loop(policy, source, prepared.validation, recipe, log, Parts(weights, budget, losses))
        stack.callback(loop.close)
        loop.begin()
        loop.run()
        result = loop.finish()
        if isinstance(source, Rollouts):
            source.close()
    policy.module.eval()
    return result


def switch_off_dropout(module: Any, stack: ExitStack, log: Log, speaks: bool = False) -> None:
    """Switch the base's own dropout off until `stack` closes: a policy with noise differs from a reference without (or,
    where it `speaks`, from itself as it spoke), and what would be learnt at first is to make up for the noise."""
    rates = dropout.of_base(module)
    stack.enter_context(dropout.off(rates))
    if rates:
        values = ", ".join(f"{value:g}" for value in sorted({rate.value for rate in rates}))
        log.screen.say(
            f"the model's own dropout ({values}) is off: {'it speaks without' if speaks else 'its reference has none'}"
        )
