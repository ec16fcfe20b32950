"""PPO and VAPO on the loop: who moves when, at which rate, and who learns from the critic's loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from tiny_judged import Judged

from luthier.errors import LuthierError
from luthier.forward.batches import micro_batches
from luthier.forward.forward import Forward
from luthier.models import heads
from luthier.models.heads import HeadCard
from luthier.objectives import OBJECTIVES
from luthier.run import Run
from luthier.train import Beside, fit
from luthier.train.loop.losses import Losses
from luthier.types import Encoded


def rolled(count: int, responses: int = 3) -> Judged:
    """Judged rows as a rollout leaves them: columns of tokens behind prompts of which nothing is known."""
    store, draw = Judged(count, responses), np.random.default_rng(1)

    def columns(each: Encoded) -> dict[str, Any]:
        names = ("advantage", "return", "old_value")
        return {name: tuple(draw.normal(size=len(ids)).astype(np.float32) for ids in each.ids) for name in names}

    store.encoded = [
        replace(each, columns={**each.columns, **columns(each), "reward": (1.0, 0.4, 0.2)[:responses]})
        for each in store.encoded
    ]
    return store


def policy() -> tiny.Policy:
    made = tiny.Policy(tiny.lora())
    made.heads["value"] = heads.attach(made.bare, made.device, HeadCard("token"))
    made.heads["value"].weight.data.normal_(generator=torch.Generator().manual_seed(0))
    return made


def trained(folder: Path, name: str, steps: int, **keys: Any) -> tuple[tiny.Policy, list[dict[str, torch.Tensor]]]:
    """The policy, and its weights before and after each step."""
    made = policy()
    seen = [made.snapshot()]

    def watch(event: Mapping[str, Any]) -> None:
        if event["kind"] == "step":
            seen.append({name: weight.clone() for name, weight in made.snapshot().items()})

    recipe = tiny.recipe(folder, steps=steps, batch=4, lr=1e-3, warmup=0, schedule="constant", weight_decay=0.1)
    fit(made, OBJECTIVES.build(name, keys), tiny.Prepared(rolled(12)), recipe, Run(folder), Beside({}, watch))
    return made, seen


@pytest.mark.parametrize("name", ["ppo", "vapo"])
def test_while_the_critic_learns_alone_the_model_stays_to_the_bit(name: str, tmp_path: Path) -> None:
    """Weight decay moves it no more than losses do."""
    _, seen = trained(tmp_path, name, 4, warm=2, kl=0.0)
    value = "head.value.weight"
    for step, (before, after) in enumerate(pairwise(seen)):
        moved = {key: not torch.equal(before[key], after[key]) for key in before}
        assert moved.pop(value)
        assert not any(moved.values()) if step < 2 else all(moved.values()), step


def test_a_run_in_which_the_model_never_learns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LuthierError, match="the critic learns alone"):
        trained(tmp_path, "vapo", 20)


def test_the_critic_has_a_rate_of_its_own(tmp_path: Path) -> None:
    """Adam's first step is as large as its rate."""
    sizes = {}
    for rate in (1.0, 10.0):
        _, seen = trained(tmp_path / str(rate), "ppo", 1, critic_lr=rate, kl=0.0)
        size = {key: float((seen[1][key] - seen[0][key]).abs().max()) for key in seen[0]}
        sizes[rate] = size.pop("head.value.weight"), max(size.values())
    assert sizes[10.0][0] == pytest.approx(10 * sizes[1.0][0], rel=1e-2)
    assert sizes[10.0][1] == pytest.approx(sizes[1.0][1], rel=1e-2)


@pytest.mark.parametrize("critic", ["head", "model"])
def test_what_the_critic_learns_changes_the_model_only_if_it_is_to(critic: str) -> None:
    made = policy()
    (batch,) = micro_batches(rolled(3).encoded, 10_000)
    objective = OBJECTIVES.build("ppo", {"critic": critic, "kl": 0.0})
    with Forward(made.module, heads=made.heads).opened() as forward:
        losses = Losses(forward, objective)
        losses.sums(batch).sums_M[1].backward()
    assert made.heads["value"].weight.grad is not None and made.heads["value"].weight.grad.any()
    reached = [bool(weight.grad is not None and weight.grad.any()) for _, weight in made.module.named_parameters()]
    assert any(reached) == (critic == "model")


def test_terms_beside_a_critic_learn_from_every_response(tmp_path: Path) -> None:
    """Only what imitates is kept to the better ones: the policy learns from the worse ones, too."""
    made = policy()
    (batch,) = micro_batches(rolled(3).encoded, 10_000)
    assert not batch.best_N.all()
    for name in ("ppo", "vapo"):
        objective = OBJECTIVES.build(name, {"kl": 0.0})
        with Forward(made.module, heads=made.heads).opened() as forward:
            losses = Losses(forward, objective)
            rows = forward.rows(batch, objective.needs.readouts, objective.needs.heads)
            assert float(losses.sums(batch).sums_M[0]) == pytest.approx(float(objective.loss(rows).sum()), rel=1e-5)
            assert losses.units(batch)[:2] == [len(batch.weight_S)] * 2
            good = batch.columns["right"][batch.row_S] > 0.5  # type: ignore[index]
            assert losses.units(batch)[2:] == ([int(good.sum())] if name == "vapo" else [])
