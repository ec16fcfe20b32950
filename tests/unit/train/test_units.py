"""What a loss is a mean over: each unit counted by hand, over whole steps, however they are split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import tiny
import torch
from tiny_judged import Judged
from torch import Tensor

from luthier.forward.batches import micro_batches
from luthier.forward.forward import Forward
from luthier.objectives.base import Objective
from luthier.objectives.rows import Rows
from luthier.recipe import Validate
from luthier.run import Run
from luthier.train import fit
from luthier.train.loop.losses import count
from luthier.types import DECIDED_STEP, GOOD_TOKEN, GROUP, PAIR, ROW, STEP, TOKEN, Encoded, Needs, Unit, constant

UNITS = [TOKEN, GOOD_TOKEN, ROW, PAIR, STEP, DECIDED_STEP, GROUP, constant(7.0)]


def by_hand() -> list[Encoded]:
    """Three responses of unlike worth, two of equal worth, and one without any judgement."""

    def row(lengths: tuple[int, ...], weight: float, rewards: tuple[float, ...] | None, labels: Any) -> Encoded:
        ids = tuple(np.arange(3, 3 + 10 + length, dtype=np.int32) for length in lengths)
        weights = tuple(np.array([0.0] * 10 + [weight] * length, np.float32) for length in lengths)
        known: dict[str, Any] = {} if rewards is None else {"reward": rewards, "right": (0.0, 1.0, 0.0)[: len(rewards)]}
        if labels is not None:
            known["step_reward"] = tuple(np.array(each, np.float32) for each in labels)
            known["step_end"] = tuple(np.array([9 + len(each) - k for k in range(len(each))][::-1]) for each in labels)
        return Encoded(ids, weights, 10, known)

    return [
        row((2, 3, 4), 1.0, (0.9, 0.5, 0.1), ([1, 0], [-1], [0, 0, 1])),
        row((5, 6), 0.5, (0.4, 0.4), ([0], [1])),
        row((8,), 0.25, None, None),
    ]


COUNTED = {
    "token": 9 * 1.0 + 11 * 0.5 + 8 * 0.25,
    "good token": 3 + 6 * 0.5,  # those of the second response of each, whatever it is worth
    "row": 6,
    "pair": 3,
    "step": 2 + 1 + 3 + 1 + 1,
    "decided step": 4,
    "group": 3,
}


@pytest.mark.parametrize("unit", UNITS[:-1], ids=lambda unit: unit.name)
@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("budget", [10_000, 20])
def test_each_unit_is_counted(unit: Unit, layout: Any, budget: int) -> None:
    batches = micro_batches(by_hand(), budget, layout=layout)
    assert (len(batches) > 1) == (budget == 20)
    assert sum(count(unit, batch) for batch in batches) == COUNTED[unit.name]


def test_the_better_rows_tokens_are_counted_apart() -> None:
    (batch,) = micro_batches(by_hand(), 10_000)
    # the first example's first two responses are better than another; equal ones count by their own labels
    assert count(TOKEN, batch, best=True) == 2 + 3 + 0 + 8 * 0.25


def test_a_constant_needs_something_to_divide() -> None:
    (batch,) = micro_batches(by_hand(), 10_000)
    assert constant(7.0) != constant(8.0) and count(constant(7.0), batch) > 0


@dataclass(frozen=True)
class Mean(Objective):
    """Some value of each unit."""

    unit: str
    divisor: float | None = None
    needs: ClassVar[Needs] = Needs()

    def __post_init__(self) -> None:
        self.need(unit=Unit(self.unit, self.divisor))

    def loss(self, rows: Rows) -> Tensor:
        total_N = rows.total(-rows.logp_S * rows.weight_S)
        if self.unit in ("token", "constant"):
            return -rows.logp_S * rows.weight_S
        if self.unit == "good token":
            return -rows.logp_S * rows.weight_S * rows.column("right")[rows.row_S]
        if self.unit == "row":
            return total_N
        if self.unit == "pair":
            better_P, worse_P = rows.better_worse(total_N)
            return (better_P - worse_P) ** 2
        if self.unit == "group":
            assert rows.group_N is not None
            groups = int(rows.group_N.max()) + 1
            return total_N.new_zeros(groups).index_add(0, rows.group_N, total_N) ** 2
        label_K = rows.column("step_reward")
        value_K = label_K + 2 + 0 * rows.logp_S.sum()
        return torch.where(label_K == 0, 0.0, value_K) if self.unit == "decided step" else value_K


def alone(objective: Mean, rows: list[Encoded]) -> float:
    """The sum of its values over all these rows."""
    (batch,) = micro_batches(rows, 100_000)
    with torch.no_grad(), Forward(tiny.model()).opened() as forward:
        return float(objective.loss(forward.rows(batch)).double().sum())


def trained(folder: Path, objective: Mean, **keys: Any) -> Run:
    run = Run(folder)
    recipe = tiny.recipe(folder, validate=Validate(every=1, keep_best=False), lr=1e-12, batch=4, **keys)
    fit(tiny.Policy(tiny.model()), objective, tiny.Prepared(Judged(8, 3), Judged(6, 3, seed=1)), recipe, run)
    return run


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_steps_loss_is_the_mean_over_its_unit_however_it_is_split(unit: Unit, tmp_path: Path) -> None:
    objective, validation = Mean(unit.name, unit.divisor), Judged(6, 3, seed=1).encoded
    (batch,) = micro_batches(validation, 100_000)
    # a constant stands for a step of training's size: six rows are one and a half steps of four
    divisor = unit.divisor * 6 / 4 if unit.divisor else count(unit, batch)
    expected = alone(objective, validation) / divisor
    whole, split = (trained(tmp_path / str(n), objective, micro_tokens=n) for n in (10_000, 60))
    steps = [[event["loss"] for event in run.events("step")] for run in (whole, split)]
    assert steps[0] == pytest.approx(steps[1], rel=1e-5)
    norms = [[event["grad_norm"] for event in run.events("step")] for run in (whole, split)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4, abs=1e-6)
    for run in (whole, split):
        assert next(run.events("evaluation"))["loss"] == pytest.approx(expected, rel=1e-5)


def test_a_constant_divides_whatever_the_step_holds(tmp_path: Path) -> None:
    """Steps of four rows and, the last, of two: their sums are divided by the same number."""
    store, run = tiny.Store(6), Run(tmp_path)
    recipe = tiny.recipe(tmp_path, lr=1e-12, batch=4)
    fit(tiny.Policy(tiny.model()), Mean("constant", 10.0), tiny.Prepared(store), recipe, run)
    losses = [event["loss"] for event in run.events("step")]
    assert sum(losses) == pytest.approx(alone(Mean("constant", 10.0), store.encoded) / 10, rel=1e-5)
    assert losses[1] < 0.8 * losses[0]
