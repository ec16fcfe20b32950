"""Rollouts as a step source: each draws prompts, has the engine answer them, judges, gives credit, and serves its rows.

A rollout serves `rollout.updates` passes over its groups, each in steps of `train.batch` groups. It is begun by the
first step that needs it, with the weights of that moment, and lies on disk while steps still need it.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean
from typing import Any

import numpy as np

from luthier.data import Prompts
from luthier.errors import LuthierError
from luthier.recipe import Recipe, digest
from luthier.run import Run
from luthier.train.rollouts.ahead import Ahead
from luthier.train.rollouts.carrying import Carrier, Elsewhere
from luthier.train.rollouts.dealing import Dealing
from luthier.train.rollouts.drawn import Draw, Group, Stream
from luthier.train.rollouts.guards import RolloutGuards
from luthier.train.rollouts.journal import Journal
from luthier.train.rollouts.judging import RIGHT, Judging
from luthier.train.rollouts.measures import Clock, measured, timed
from luthier.train.rollouts.rates import Rates
from luthier.train.rollouts.records import Records
from luthier.train.rollouts.rows import pays
from luthier.train.rollouts.scoring import Scoring
from luthier.train.rollouts.speaking import Speaking
from luthier.train.rollouts.surroundings import Surroundings
from luthier.types import Encoded, Engine, Example

GIVE_UP = 10
"""So many times `rollout.prompts` are answered at most until there are enough groups with contrast (verl's bound)."""
BEST_PAID = 3


@dataclass(frozen=True)
class Made:
    """What rollouts are made of."""

    prompts: Prompts
    judging: Judging
    engine: Engine
    objective: Any
    base: str
    """Which model the run began with."""
    rival: Engine | None = None
    """Who draws what the model's answers are compared with, where that is another policy."""
    near: Engine | None = None
    """What answers held-out prompts by the weights that train, where `engine` may have others."""
    encode: Callable[[Example], Encoded] | None = None
    """The data's own answer to a prompt as tokens, where that is learnt from, too."""


@dataclass
class _Open:
    """The rollout that serves steps now: the rows of each of its groups."""

    number: int
    rows: list[list[Encoded]]
    best_paid: list[str] = field(default_factory=list)


class Rollouts:
    """Implements `types.StepSource`. `attach` is called before the first step."""

    may_prefetch = False

    def __init__(self, made: Made, recipe: Recipe, run: Run) -> None:
        rollout = recipe.rollout
        assert rollout is not None and rollout.prompts is not None, "the recipe is not resolved"
        self.made, self.recipe, self.rollout, self.prompts = made, recipe, rollout, rollout.prompts
        self.run = run
        self.minibatches = math.ceil(self.prompts / recipe.train.batch)
        self.per_rollout = rollout.updates * self.minibatches
        self.stream = Stream(made.prompts.train, recipe.seed, recipe.shuffled)
        self.speaking = Speaking(made.engine, rollout, recipe.seed, made.rival, made.near)
        self.ahead = Ahead(self.speaking)
        self.dealing = Dealing(made.objective, recipe.train.micro_tokens or 0, again=self.per_rollout > 1)
        self.records, self.rates, self.guards = Records(run, self.per_rollout), Rates(), RolloutGuards()
        self.cursor = 0
        self.spent = 0.0
        """Seconds of the last call of `next`."""
        self.unpaid = False
        """Does the objective learn from advantages, and has no token of the last step any?"""
        self._open: _Open | None = None
        self._before: dict[str, Any] = {}
        self._last, self._clock = -1, Clock()
        self._around: Surroundings | None = None

    def attach(self, around: Surroundings) -> None:
        """What the loop lends."""
        self._around = around

    # as a step source
    @cached_property
    def identity(self) -> str:
        """The prompts' content."""
        return hashlib.blake2b(f"rollouts {self.made.prompts.digest}".encode(), digest_size=16).hexdigest()

    @property
    def total(self) -> int:
        """Optimiser steps of the run."""
        train = self.recipe.train
        rollouts = math.ceil(train.epochs * len(self.stream.prompts) / self.prompts - 1e-9)
        return train.steps or max(1, rollouts) * self.per_rollout

    def epoch(self, step: int) -> float:
        """Passes over the prompts once step `step` is done."""
        return self.cursor / len(self.stream.prompts)

    def every(self) -> None:
        """They are made on the way."""

    def heaviest(self, budget: int) -> tuple[()]:
        """Not known before it was said."""
        return ()

    def next(self, step: int, version: int) -> Sequence[Encoded]:
        """The rows of one step, of a rollout that is begun if it is the first to need it."""
        began = time.perf_counter()
        number, within = divmod(step, self.per_rollout)
        if self._open is None or self._open.number != number:
            if step == 0:
                self.records.begin_anew()
                self._carried(Carrier.forget)
            put_back = self._lent.undisturbed()
            speaks = self._speaks(number)
            self._open = self._rolled(number, version, again=within > 0) if speaks else self._read(number)
            put_back()
        self._last = step
        update, part = divmod(within, self.minibatches)
        rows = [row for group in self._part(number, update, part) for row in self._open.rows[group]]
        self.unpaid = self.made.objective.estimator is not None and not any(map(pays, rows))
        self.spent = time.perf_counter() - began
        return rows

    def _part(self, number: int, update: int, part: int) -> Sequence[int]:
        """Which groups a step takes: each once a pass over the rollout, every pass in an order of its own."""
        assert self._open is not None
        order = np.arange(len(self._open.rows))
        if self.minibatches > 1:
            keys = np.random.PCG64(np.random.SeedSequence([self.recipe.seed, number, update])).random_raw(len(order))
            order = np.argsort(keys, kind="stable")
        return [int(group) for group in np.array_split(order, self.minibatches)[part]]

    @property
    def _lent(self) -> Surroundings:
        assert self._around is not None, "the source is not attached to a loop"
        return self._around

    # rows of the data themselves
    def _speaks(self, number: int) -> bool:
        """Does the model draw this rollout's answers itself? Where it is to in a share of them, evenly spread."""
        own = self.made.objective.needs.own
        return bool(math.floor((number + 1) * own + 1e-9) > math.floor(number * own + 1e-9))

    def _read(self, number: int) -> _Open:
        """The next prompts with the data's own answers."""
        assert self.made.encode is not None, "the objective draws all answers"
        self._before, self._clock = self._now(), Clock()
        self._lent.log.screen.rollout(None)
        draws = self.stream.take(self.cursor, self.prompts)
        self.cursor += self.prompts
        return _Open(number, [[self.made.encode(draw.prompt.example)] for draw in draws])

    # a rollout
    def _rolled(self, number: int, version: int, *, again: bool) -> _Open:
        """Draw, answer, judge, give credit. `again`: steps of it were done before the run was killed, so all of it must
        lie on disk."""
        self._before = self._now()
        self._clock = clock = Clock()
        began = time.perf_counter()
        clock.made += self.ahead.wait()
        clock.speaking += time.perf_counter() - began
        journal = self._journal(number)
        if again and not journal.answers:
            raise self.records.lost(number)
        known = len(journal.answers), len(journal.passes)
        if not again:
            self.speaking.sync(self._spoke(number), version)
        groups, drawn = self._enough(journal)
        self.speaking.rest()
        began = time.perf_counter()
        dealt = self.dealing.deal(groups, journal, self._lent)
        clock.reading += time.perf_counter() - began
        if again and known != (len(journal.answers), len(journal.passes)):  # weights that have moved on made it whole
            raise self.records.lost(number)
        journal.close()
        self.rates.add(drawn)
        self.records.write(
            number, drawn, {group.place: worth for group, worth in zip(groups, dealt.worth, strict=True)}
        )
        if not again:
            self._tell(version + 1, groups, drawn)
        if self.rollout.ahead and (number + 1) * self.per_rollout < self.total and not self.guards.learnt:
            self.speaking.sync(self._spoke(number + 1), version)
            self.ahead.begin(self.stream.take(self.cursor, self.prompts), self._journal(number + 1))
        return _Open(number, dealt.rows, _best_paid(drawn))

    def _spoke(self, number: int) -> int:
        """How many steps those weights had behind them that answer a rollout."""
        every, begun = self.rollout.follow.every if self.rollout.follow else 1, max(0, number - self.rollout.ahead)
        return (begun - begun % every) * self.per_rollout

    def _journal(self, number: int) -> Journal:
        head = {"rollout": number, "recipe": digest(self.recipe), "data": self.identity, "base": self.made.base}
        head |= {"rewards": self.made.judging.files} if self.made.judging.files else {}
        return Journal(self.records.journal(number), head)

    def _carried(self, what: Callable[[Carrier], None]) -> None:
        """Where an engine elsewhere follows the weights, have its carrier do something."""
        if isinstance(self.made.engine, Elsewhere) and self.made.engine.carrier is not None:
            what(self.made.engine.carrier)

    def _enough(self, journal: Journal) -> tuple[list[Group], list[Group]]:
        """The groups that train, and all that were answered. Where prompts without contrast give way, as many more are
        drawn as are missing, so that none is answered in vain."""
        groups: list[Group] = []
        drawn: list[Group] = []
        while True:
            missing = self.prompts - len(groups)
            some = self._round(self.stream.take(self.cursor, missing), journal)
            self.cursor += missing
            drawn += some
            groups += [group for group in some if group.contrasts] if self.rollout.dynamic else some
            if len(groups) >= self.prompts:
                return groups, drawn
            if len(drawn) >= GIVE_UP * self.prompts:
                if groups:
                    self._lent.log.screen.warn(
                        f"{len(drawn):,} prompts were answered, and of {len(groups):,} alone the answers differ: this "
                        f"rollout is short of {self.prompts - len(groups):,} groups"
                    )
                    return groups, drawn
                if self.guards.taught and self._all_right(
                    drawn
                ):  # mastered: this step teaches nothing, and is the last
                    return drawn[: self.prompts], drawn
                raise _no_contrast(drawn)

    def _all_right(self, drawn: Sequence[Group]) -> bool:
        """Is that all answers are worth the same because they are right? Then there is nothing left to learn."""
        right = [one for group in drawn for one in group.right if one is not None]
        if not right or fmean(right) <= RIGHT:
            return False
        self.guards.learnt = True
        self._lent.log.screen.warn(
            f"{len(drawn):,} prompts were answered, and all answers to each are worth the same, {fmean(right):.0%} are "
            "right: the run ends here, for these prompts teach nothing more"
        )
        return True

    def _round(self, draws: Sequence[Draw], journal: Journal) -> list[Group]:
        """These prompts, answered and judged."""
        clock, began, scored = self._clock, time.perf_counter(), self._clock.scoring
        known = sum(len(answer.ids) for answer in journal.answers.values())
        with Scoring(self.made.judging, journal, clock) as scoring:
            groups = self.speaking.answers(draws, journal, scoring.ended, self._lent.log.screen.answering)
            clock.speaking += time.perf_counter() - began - (clock.scoring - scored)
            clock.made += sum(len(answer.ids) for answer in journal.answers.values()) - known
            scoring.finish(groups)
        for group in groups:
            group.parts = [journal.parts.get((group.place, index), {}) for index in _indices(group)]
            self.made.judging.settle(group)
        return groups

    def _tell(self, step: int, groups: Sequence[Group], drawn: Sequence[Group]) -> None:
        log, credit = self._lent.log, self.made.objective.estimator
        across = credit is not None and credit.across
        shown = measured(groups, drawn, judged=bool(self.made.judging.parts), across=across)
        log.event("rollout", step=step, **shown, **timed(self._clock))
        for guard, text in self.guards.rollout(shown):
            log.warn(guard, step, text)

    # what the loop shows it
    def observe(self, step: int, metrics: Mapping[str, float]) -> None:
        """What an optimiser step showed."""
        for guard, text in self.guards.step(metrics):
            self._lent.log.warn(guard, step, text)

    @property
    def learnt(self) -> bool:
        """Is there nothing left to learn?"""
        return self.guards.learnt

    @property
    def holds_out(self) -> bool:
        """Are there prompts to look at the run by?"""
        return bool(self.made.prompts.held_out)

    def evaluate(self, step: int) -> tuple[float, dict[str, float]]:
        """How held-out prompts are answered greedily: what is wanting to a perfect score, and the score."""
        put_back, held_out = self._lent.undisturbed(), self.made.prompts.held_out
        draws = [Draw(place, place, prompt) for place, prompt in enumerate(held_out)]
        groups = self.speaking.greedy(draws, step)
        self.made.judging.judge(groups)
        values = [one for group in groups for one in group.first if one is not None]
        self.speaking.rest()
        put_back()
        if not values:
            raise LuthierError(
                "the first scorer of `reward:` can say nothing of the held-out prompts",
                where="validate",
                fix="give those rows what it judges by, or leave `validate:` out",
            )
        score = fmean(values)
        best_paid = self._open.best_paid if self._open else []
        for guard, text in self.guards.held_out(score, best_paid):
            self._lent.log.warn(guard, step, text)
        cut = fmean(answer.cut for group in groups for answer in group.answers)
        return 1 - score, {"score": score, "score_cut": cut}

    # state
    def state(self) -> dict[str, Any]:
        """Where it stands: as the open rollout began, where steps of it are still to come."""
        number, within = divmod(self._last + 1, self.per_rollout)
        base = self._before if within else self._now()
        oldest = self.records.prune(number, self.recipe.train.keep)
        self._carried(lambda carrier: carrier.prune(self._spoke(oldest)))
        self.records.rates(self.rates.rows(self.stream.prompts))
        kept = {"guards": self.guards.state(), "saved": list(self.records.saved), "rewards": self.made.judging.files}
        return {**base, **kept}

    def _now(self) -> dict[str, Any]:
        return {"cursor": self.cursor, "rates": self.rates.state(), "reward_kl": self.dealing.reward_kl}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Put back what `state()` gave. Raises LuthierError where answers would be judged otherwise than before."""
        self.made.judging.must_be(state.get("rewards", {}), self.run.folder)
        self.cursor, self._open = int(state["cursor"]), None
        self.rates.load_state(state["rates"])
        self.dealing.reward_kl = float(state["reward_kl"])
        self.guards.load_state(state["guards"])
        self.records.saved = [int(number) for number in state["saved"]]

    def close(self) -> None:
        """The run has made its last step, and its checkpoint."""
        self.ahead.stop()
        self.records.end()
        self._carried(Carrier.forget)


def _indices(group: Group) -> range:
    return range(len(group.answers))


def _best_paid(drawn: Sequence[Group]) -> list[str]:
    paid = [
        (reward, answer.text)
        for group in drawn
        for reward, answer in zip(group.rewards[group.own], group.answers[group.own], strict=True)
        if not math.isnan(reward)
    ]
    return [text for _, text in sorted(paid, key=lambda one: -one[0])[:BEST_PAID]]


def _no_contrast(drawn: Sequence[Group]) -> LuthierError:
    """Every group that was answered is all right, or all wrong."""
    right = [one for group in drawn for one in group.right if one is not None]
    share = fmean(right) if right else None
    known = [group for group in drawn if any(one is not None for one in group.first)]
    if not known:
        why, fix = "the first scorer of `reward:` could say nothing of them", "does every row have what it judges by?"
    elif share is None:
        why, fix = "all answers to each prompt are worth the same", "take a first scorer that tells answers apart"
    elif share > 0.5:
        why, fix = f"the prompts are too easy ({share:.0%} of the answers are right)", "take harder prompts"
    else:
        why = f"the prompts are too hard ({share:.0%} of the answers are right)"
        fix = "take easier prompts, raise rollout.n, or train on answers first (sft)"
    return LuthierError(
        f"{len(drawn):,} prompts were answered and none has answers that differ by the first reward: {why}",
        where="rollout.dynamic",
        fix=fix,
    )


__all__ = ["Made", "Rollouts"]
