"""Steps in which no answer is better than another: weights rest, unless something else than answers moves them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from rollout_runs import Learner, prompts
from torch import Tensor

from luthier.data import Ledger, Prompts
from luthier.objectives.policy import leash

NEVER = "w999"


class Followed(Learner):
    """Keeps the weights after each step."""

    def followed(self) -> list[Tensor]:
        kept = [self.now()]

        def watch(event: Mapping[str, Any]) -> None:
            if event["kind"] == "step":
                kept.append(self.now())

        self.fit(watch)
        return kept

    def now(self) -> Tensor:
        return torch.cat([weight.detach().flatten().clone() for weight in self.policy.module.parameters()])


def test_neither_decay_nor_momentum_moves_weights_where_no_answer_teaches(tmp_path: Path) -> None:
    """One prompt can be answered rightly, the other cannot: a step each, in turn."""
    data = Prompts((*prompts(1), *prompts(1, NEVER, seed=1)), (), Ledger())
    keys = {"steps": 6, "batch": 1, "weight_decay": 0.5}
    learner = Followed(tmp_path, {"n": 48, "max_new_tokens": 4}, {"grpo": {"kl": 0.0}}, data=data, **keys)
    kept, steps = learner.followed(), learner.events("step")
    rests = [event["unmoved"] == 1.0 for event in steps]
    assert rests == [event["silent"] == 1.0 for event in learner.events("rollout")]
    first = rests.index(False)
    assert True in rests[first:], "a silent step comes behind one that has left momentum"
    for rest, (before, after) in zip(rests, pairwise(kept), strict=True):
        assert torch.equal(before, after) == rest
    assert not any(event["unpaid"] for event in steps)


def test_what_else_moves_weights_is_told(tmp_path: Path) -> None:
    data = Prompts(prompts(2, NEVER), (), Ledger())
    learner = Followed(tmp_path, None, {"grpo": {"kl": 0.0, "entropy": 0.1}}, data=data, steps=2)
    kept = learner.followed()
    assert [(event["unmoved"], event["unpaid"]) for event in learner.events("step")] == [(0.0, 1.0), (0.0, 1.0)]
    assert not torch.equal(kept[0], kept[1])


def test_pairs_of_which_none_is_better_leave_weights_alone(tmp_path: Path) -> None:
    data = Prompts(prompts(2, NEVER), (), Ledger())
    learner = Followed(tmp_path, None, "online_dpo", data=data, steps=2, weight_decay=0.5)
    kept = learner.followed()
    assert [(event["unmoved"], event["unpaid"]) for event in learner.events("step")] == [(1.0, 0.0), (1.0, 0.0)]
    assert torch.equal(kept[0], kept[2])


@pytest.mark.parametrize("apart", [1e-8, -1e-8, 3e-5, -3e-5, 0.0])
def test_a_measured_divergence_is_never_below_0(apart: float) -> None:
    """r - 1 - log r next to r = 1 is half the square of the log-ratio; in fp32 it would be rounding alone."""
    found = leash.measured(torch.tensor([apart], dtype=torch.float32)).item()
    assert found >= 0 and found == pytest.approx(apart**2 / 2, rel=1e-4)
