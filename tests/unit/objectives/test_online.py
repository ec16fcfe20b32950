"""Preferences on fresh responses: online DPO and any other of pairs, XPO."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.objectives import ragged
from tests.unit.objectives.rolled import gradient

from luthier.errors import LuthierError
from luthier.forward.batches import micro_batches
from luthier.objectives import OBJECTIVES
from luthier.objectives.rows import Rows
from luthier.types import Encoded


@pytest.mark.parametrize(
    ("online", "keys", "offline", "same"),
    [
        ("online_dpo", {"beta": 0.3}, "dpo", {"beta": 0.3}),
        ("online", {"": "dpo"}, "dpo", {}),
        ("online", {"ipo": {"beta": 0.3, "sum": True}}, "ipo", {"beta": 0.3, "sum": True}),
        ("online", {"simpo": {}}, "simpo", {}),
        ("online", {"of": {"aot": {}}}, "aot", {}),
        ("xpo", {"alpha": 0.0, "beta": 0.2}, "dpo", {"beta": 0.2}),
    ],
)
def test_on_given_pairs_it_is_the_objective_of_pairs(online: str, keys: Any, offline: str, same: Any) -> None:
    ours, theirs = OBJECTIVES.build(online, keys), OBJECTIVES.build(offline, same)
    rows = ragged.rows(ragged.examples(5, responses=3))
    assert torch.equal(ours.loss(rows), theirs.loss(rows))
    assert torch.equal(ours.implicit_rewards(rows), theirs.implicit_rewards(rows))
    rivals = "reference" if online == "xpo" else "self"
    assert ours.needs == dataclasses.replace(theirs.needs, rollouts=True, rivals=rivals)
    assert ours.default_lr == theirs.default_lr


@pytest.mark.parametrize("of", ["sft", "kto", "reward", "grpo", {"sum": {"dpo": {}, "sft": 0.1}}])
def test_only_objectives_of_pairs_can_be_online(of: Any) -> None:
    with pytest.raises(LuthierError, match="no pairs"):
        OBJECTIVES.build("online", {"of": of})


def test_equal_rewards_and_unknown_ones_are_no_pair() -> None:
    rewards = (1.0, 1.0, math.nan, 0.5)
    ids = tuple(np.array([3, 4, 5 + n], np.int32) for n in range(4))
    weights = tuple(np.array([0, 0, 1], np.float32) for _ in ids)
    (batch,) = micro_batches([Encoded(ids, weights, 2, {"reward": rewards})], 100)
    assert list(zip(batch.better_P.tolist(), batch.worse_P.tolist(), strict=True)) == [(0, 3), (1, 3)]
    (batch,) = micro_batches([Encoded(ids[:2], weights[:2], 2, {"reward": (0.7, 0.7)})], 100)
    rows = Rows(torch.zeros(2), torch.ones(2), torch.tensor([0, 1]), 2, better_P=batch.better_P, worse_P=batch.worse_P)
    assert OBJECTIVES.build("online_dpo", {}).loss(rows).shape == (0,)


def xpo_pair(better_is_the_references: bool) -> Rows:
    rows = ragged.pair([-1.0, -2.0], [-0.5], [-1.0, -2.0], [-0.5])
    of = [1.0, 0.0] if better_is_the_references else [0.0, 1.0]
    return dataclasses.replace(rows, columns={"of_reference": torch.tensor(of, dtype=torch.float64)})


@pytest.mark.parametrize("better", [True, False])
def test_xpo_begins_at_log_2_and_pushes_down_what_the_reference_drew(better: bool) -> None:
    rows = xpo_pair(better)
    loss = OBJECTIVES.build("xpo", {"alpha": 0.25, "beta": 0.1}).loss(rows)
    assert loss.item() == pytest.approx(math.log(2) + 0.25 * (-3.0 if better else -0.5))
    bonus = [0.25, 0.25, 0.0] if better else [0.0, 0.0, 0.25]
    preference = [-0.05, -0.05, 0.05]
    assert gradient(loss, rows) == pytest.approx([a + b for a, b in zip(bonus, preference, strict=True)])
