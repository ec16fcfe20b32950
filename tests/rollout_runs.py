"""Small runs that learn from what a tiny model says: prompts of a few words, paid for saying one word."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tiny
from tiny_tokenizers import words

from luthier.data import Ledger, Prompt, Prompts
from luthier.engines import LocalEngine
from luthier.engines.local.mixed import MixedEngine
from luthier.engines.switched import AdapterOff
from luthier.objectives import OBJECTIVES
from luthier.recipe import Plugin
from luthier.recipe.schema import Recipe, Reward, Rollout, Validate
from luthier.run import Run
from luthier.train import Beside, fit
from luthier.train.rollouts.judging import Judging
from luthier.train.rollouts.source import Made, Rollouts
from luthier.types import Encoded, Example, Source, Turn

WANTED = "w5"
PAID = (Reward(scorer=Plugin(name="contains", args={"whole_words": True})),)
STOP = 1


def prompts(count: int, wanted: str = WANTED, *, length: int = 14, seed: int = 0) -> tuple[Prompt, ...]:
    """Prompts that begin alike and end in two words of their own."""
    draw, begin, found = np.random.default_rng(seed), list(range(10, 10 + length - 2)), []
    for row in range(count):
        ids = (*begin, *draw.integers(30, 40, 2).tolist())
        said = " ".join(f"w{token}" for token in ids)
        found.append(Prompt(Example((Turn("user", said),), answer=wanted, source=Source("q.jsonl", row + 1)), ids))
    return tuple(found)


def recipe(folder: Path, rollout: Mapping[str, Any], **train: Any) -> Recipe:
    from dataclasses import replace

    settings = {"lr": 2e-2, "schedule": "constant", "batch": 2, "micro_tokens": 100, "weight_decay": 0.0, "warmup": 0}
    validate = train.pop("validate", Validate())
    made = tiny.recipe(folder, validate=validate, **{**settings, **train})
    keys = {"n": 6, "max_new_tokens": 3, "dynamic": False, "prompts": made.train.batch, **rollout}
    return replace(made, rollout=Rollout(**keys), reward=PAID)


def _answered(example: Example) -> Encoded:
    """The data's own answer, one token a word."""
    ids = [int(word[1:]) for word in example.prompt[-1].text.split()]
    said = [int(word[1:]) for word in (example.answer or "").split()]
    weights = np.array([0.0] * len(ids) + [1.0] * len(said), np.float32)
    return Encoded((np.array([*ids, *said], np.int32),), (weights,), source=example.source)


class Learner:
    """One run; `policy` and `source` stay for looking at."""

    def __init__(
        self,
        folder: Path,
        rollout: Mapping[str, Any] | None = None,
        objective: str | Mapping[str, Any] = "grpo",
        *,
        data: Prompts | None = None,
        rewards: Sequence[Reward] = PAID,
        module: Any = None,
        stop: int = STOP,
        openers: Mapping[str, Any] | None = None,
        **train: Any,
    ) -> None:
        name, args = (objective, {}) if isinstance(objective, str) else next(iter(objective.items()))
        self.run, self.policy = Run(folder), tiny.Policy(module or tiny.model())
        self.objective = OBJECTIVES.build(name, args)
        self.recipe = recipe(folder, rollout or {}, **train)
        self.engine = self._engine(stop)
        given = data or Prompts(prompts(5), (), Ledger())
        made = Made(
            given,
            Judging(rewards, self.objective.needs.preference),
            self.engine,
            self.objective,
            "tiny",
            self._rival(stop),
            encode=_answered,
        )
        self.openers = dict(openers or {})
        self.source = Rollouts(made, self.recipe, self.run)

    def _rival(self, stop: int) -> Any:
        needs, off = self.objective.needs, self.policy.adapter_off
        if needs.rivals == "reference":
            return AdapterOff(self._engine(stop), off)
        if needs.rivals == "mixture":
            return MixedEngine(self.policy.module, words(tiny.VOCABULARY + 1), {stop}, off, needs.mixture)
        return None

    def _engine(self, stop: int) -> LocalEngine:
        return LocalEngine(self.policy.module, words(tiny.VOCABULARY + 1), {stop})

    def fit(self, watch: Callable[[Mapping[str, Any]], None] | None = None) -> Learner:
        given = tiny.Prepared(self.source)  # type: ignore[arg-type]
        fit(self.policy, self.objective, given, self.recipe, self.run, Beside(self.openers, watch))
        return self

    def events(self, kind: str) -> list[dict[str, Any]]:
        return list(self.run.events(kind))
