"""Reward models by hand: pairs, outcomes and steps."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from luthier.errors import LuthierError
from luthier.objectives import OBJECTIVES, Rows
from luthier.types import DECIDED_STEP, ROW, STEP

LOG2 = math.log(2)


def logistic(x: float) -> float:
    return math.log1p(math.exp(-x))


def read(values: list[float], rows: list[int], count: int, **more) -> Rows:
    none = torch.empty(0)
    value = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    return Rows(none, none, none.long(), count, values={"reward": (value, torch.tensor(rows))}, **more)


def two(better: float, worse: float, **more) -> Rows:
    pairs = {"better_P": torch.tensor([1]), "worse_P": torch.tensor([0])}
    return read([worse, better], [0, 1], 2, **pairs, **more)


def test_bradley_terry_by_hand() -> None:
    reward = OBJECTIVES.build("reward")
    assert reward.loss(two(0.3, 0.3)).tolist() == pytest.approx([LOG2])
    assert reward.loss(two(1.0, -0.5)).tolist() == pytest.approx([logistic(1.5)])
    assert reward.implicit_rewards(two(1.0, -0.5)).tolist() == [-0.5, 1.0]
    shifted = reward.loss(two(101.0, 99.5))  # only the difference counts
    assert shifted.tolist() == pytest.approx([logistic(1.5)])
    # l(d) - l(-d) = -d
    assert float((reward.loss(two(1.0, -0.5)) - reward.loss(two(-0.5, 1.0))).detach()) == pytest.approx(-1.5)
    rows = two(0.0, 0.0)
    reward.loss(rows).sum().backward()
    assert rows.read("reward")[0].grad.tolist() == pytest.approx([0.5, -0.5])


def test_margin_and_centring_by_hand() -> None:
    rows = two(0.3, 0.3, columns={"margin": torch.tensor([9.0, 2.0])})  # the margin is the better row's
    assert OBJECTIVES.build("reward").loss(rows).tolist() == pytest.approx([logistic(-2.0)])
    assert OBJECTIVES.build("reward", {"margin": False}).loss(rows).tolist() == pytest.approx([LOG2])
    centred = OBJECTIVES.build("reward", {"margin": False, "centring": 0.01})
    assert centred.loss(rows).tolist() == pytest.approx([LOG2 + 0.01 * 0.36])


def test_centring_brings_the_mean_to_zero_and_keeps_the_order() -> None:
    values = torch.tensor([3.0, 2.0], dtype=torch.float64, requires_grad=True)
    rows, places = two(0.0, 0.0), torch.tensor([0, 1])
    objective = OBJECTIVES.build("reward", {"centring": 0.1})
    for _ in range(400):
        loss = objective.loss(replace(rows, values={"reward": (values, places)})).sum()
        (gradient,) = torch.autograd.grad(loss, values)
        values = (values - 0.3 * gradient).detach().requires_grad_()
    worse, better = values.tolist()
    assert better + worse == pytest.approx(0, abs=1e-6)
    assert better > worse + 2


def test_a_linear_reward_is_recovered_from_comparisons() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 4, generator=generator)
    truth = torch.tensor([1.0, -2.0, 0.5, 0.0])
    pairs = torch.arange(400).view(200, 2)
    swap = (x @ truth)[pairs[:, 0]] < (x @ truth)[pairs[:, 1]]
    pairs[swap] = pairs[swap].flip(1)
    none = torch.empty(0)
    rows = Rows(none, none, none.long(), 400, better_P=pairs[:, 0], worse_P=pairs[:, 1])
    weights = torch.zeros(4, requires_grad=True)
    optimizer = torch.optim.Adam([weights], 0.1)
    for _ in range(200):
        optimizer.zero_grad()
        OBJECTIVES.build("reward").loss(
            replace(rows, values={"reward": (x @ weights, torch.arange(400))})
        ).mean().backward()
        optimizer.step()
    better, worse = rows.better_worse((x @ weights).detach())
    assert float((better > worse).float().mean()) > 0.97
    assert float(torch.cosine_similarity(weights.detach(), truth, dim=0)) > 0.98


def test_outcome_rewards_by_hand() -> None:
    rows = read([0.7, -0.2, 3.0], [0, 1, 2], 3, columns={"reward": torch.tensor([1.0, 0.0, 0.5])})
    outcome = OBJECTIVES.build("outcome_reward")
    assert outcome.loss(rows).tolist() == pytest.approx([logistic(0.7), logistic(0.2), logistic(-3.0)])
    assert outcome.implicit_rewards(rows).tolist() == [0.7, -0.2, 3.0]
    assert outcome.needs.unit == ROW


def steps(labels: list[float]) -> Rows:
    return read([0.5, -1.0, 2.0, 0.0], [0, 0, 1, 1], 2, columns={"step_reward": torch.tensor(labels)})


@pytest.mark.parametrize(
    ("neutral", "targets", "counted"),
    [("positive", [1, 0, 1, 1], 4), ("negative", [1, 0, 0, 1], 4), ("ignore", [1, 0, None, 1], 3)],
)
def test_steps_are_binary_choices(neutral: str, targets: list[float | None], counted: int) -> None:
    """The oracle is torch's own binary cross-entropy, step by step."""
    rows = steps([1.0, -1.0, 0.0, 1.0])
    objective = OBJECTIVES.build("process_reward", {"neutral": neutral})
    loss = objective.loss(rows)
    for value, ours, target in zip(rows.read("reward")[0].detach(), loss.detach(), targets, strict=True):
        theirs = 0.0 if target is None else binary_cross_entropy_with_logits(value, value.new_tensor(target))
        assert float(ours) == pytest.approx(float(theirs))
    assert objective.needs.unit == (STEP if counted == 4 else DECIDED_STEP)
    loss.sum().backward()
    signs = [0 if target is None else -1 if target else 1 for target in targets]
    assert rows.read("reward")[0].grad.sign().tolist() == signs


def test_neutral_is_one_of_three() -> None:
    with pytest.raises(LuthierError, match="neutral"):
        OBJECTIVES.build("process_reward", {"neutral": "maybe"})
