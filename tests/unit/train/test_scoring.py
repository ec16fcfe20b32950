"""Scorers that only wait are asked while answers are drawn; nothing of what comes out hangs on that."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from rollout_runs import Learner, prompts

from luthier.data import Ledger, Prompts
from luthier.errors import LuthierError
from luthier.recipe import Plugin
from luthier.recipe.schema import Reward
from luthier.scorers import SCORERS
from luthier.scorers.metric import Metric, text
from luthier.train.rollouts.drawn import Answer, Group
from luthier.train.rollouts.journal import Journal
from luthier.train.rollouts.judging import Judging
from luthier.train.rollouts.measures import Clock
from luthier.train.rollouts.scoring import Scoring
from luthier.types import Example, Response


@dataclass(frozen=True)
class Spread(Metric):
    """A number for each answer that hangs on its letters."""

    range: ClassVar[tuple[float, float]] = (0.0, math.inf)
    needs_reference: ClassVar[bool] = False

    def __call__(self, example: Example, response: Response) -> float | None:
        return sum(map(ord, text(response))) % 17 / 17


@dataclass(frozen=True)
class Waiting(Spread):
    """The same, from far away."""

    asked: ClassVar[list[tuple[str, int]]] = []
    fails: bool = False

    @property
    def waits(self) -> bool:
        return True

    def many(self, pairs: Sequence[tuple[Example, Response]]) -> list[float | None]:
        self.asked.append((threading.current_thread().name, len(pairs)))
        time.sleep(0.02)
        if self.fails:
            raise OSError("no answer from afar")
        return [self(*pair) for pair in pairs]


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(SCORERS, "_targets", {**SCORERS._targets, "spread": Spread, "waiting": Waiting})
    Waiting.asked.clear()
    yield


def rewards(name: str, **args: bool) -> tuple[Reward, ...]:
    return (Reward(scorer=Plugin(name=name, args=dict(args))), Reward(scorer=Plugin(name="contains"), weight=0.1))


def learn(folder: Path, name: str, **args: bool) -> Learner:
    data = Prompts(prompts(6), (), Ledger())
    keys = {"steps": 2, "batch": 6}
    return Learner(folder, {"n": 4}, {"grpo": {"kl": 0.0}}, data=data, rewards=rewards(name, **args), **keys).fit()


def test_what_is_asked_meanwhile_comes_to_the_same(tmp_path: Path) -> None:
    one, other = learn(tmp_path / "each", "spread"), learn(tmp_path / "meanwhile", "waiting")
    assert all(thread.startswith("scoring") for thread, _ in Waiting.asked)
    assert sum(count for _, count in Waiting.asked) == 2 * 6 * 4, "each answer once"
    told = [[event[k] for k in ("reward", "reward_std", "silent")] for event in one.events("rollout")]
    assert told == [[event[k] for k in ("reward", "reward_std", "silent")] for event in other.events("rollout")]
    weights = zip(one.policy.module.parameters(), other.policy.module.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)


def groups(count: int) -> list[Group]:
    return [
        Group(place, 0, prompt, [Answer((3,), np.zeros(1, np.float32), f"w{place} w{i}", "stop") for i in range(2)])
        for place, prompt in enumerate(prompts(count))
    ]


def test_several_groups_are_asked_for_at_once_as_they_are_there_and_none_twice(tmp_path: Path) -> None:
    judging, some = Judging(rewards("waiting")), groups(9)
    assert [part.when for part in judging.parts] == ["meanwhile", "each"]
    with Scoring(judging, Journal(tmp_path / "a", {}), Clock()) as scoring:
        for group in some:
            scoring.ended(group)
        scoring.finish(some)
    asked = [count for _, count in Waiting.asked]
    assert asked[0] == 2 and max(asked) > 2 and sum(asked) == 18 and len(asked) < 9
    journal = Journal(tmp_path / "a", {})
    assert all(journal.said(group.place, i) == {"waiting", "contains"} for group in some for i in range(2))
    Waiting.asked.clear()
    with Scoring(judging, journal, Clock()) as scoring:
        for group in some:
            scoring.ended(group)
        scoring.finish(some)
    assert Waiting.asked == []


def test_what_fails_in_the_thread_is_told(tmp_path: Path) -> None:
    with pytest.raises(LuthierError, match="the scorer 'waiting' failed: OSError: no answer from afar"):
        learn(tmp_path, "waiting", fails=True)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("scoring")]


def test_which_scorers_wait() -> None:
    far = {"engine": {"openai": {"url": "http://localhost:1", "model": "m"}}}
    for name, args, when in (
        ("code", {}, "meanwhile"),
        ("proof", {}, "meanwhile"),
        ("maths", {}, "meanwhile"),
        ("judge", {**far, "constitution": "en"}, "meanwhile"),
        ("generative_rm", far, "meanwhile"),
        ("judge", {"model": "m"}, "all"),
        ("reward_model", {"run": "m"}, "all"),
        ("exact_match", {}, "each"),
    ):
        from luthier.scorers.building import built
        from luthier.train.rollouts.judging import Part

        assert Part(name, built(Plugin(name=name, args=args)), 1.0, False).when == when, name
