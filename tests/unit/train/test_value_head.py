"""A critic: a scalar head read at every scored token, beside the log-probabilities and beside another head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import tiny
import torch
from tiny_judged import Judged
from torch import Tensor

from luthier import models
from luthier.forward.batches import micro_batches
from luthier.forward.forward import Forward
from luthier.models import Beginning, heads, open_run, save
from luthier.models.heads import HeadCard
from luthier.objectives.base import Objective
from luthier.objectives.rows import Rows
from luthier.recipe import Plugin
from luthier.run import Run
from luthier.train import Beside, fit, latest
from luthier.train.loop.losses import Losses
from luthier.types import Needs


@dataclass(frozen=True)
class Critic(Objective):
    """The negative log-likelihood, and how far the value at each token is from the reward of its response."""

    needs: ClassVar[Needs] = Needs(readouts=("logp",), heads=(("value", "token"),))

    def loss(self, rows: Rows) -> Tensor:
        value_S, row_S = rows.read("value")
        reward_N = rows.reward_N
        assert reward_N is not None and torch.equal(row_S, rows.row_S)
        return rows.weight_S * ((value_S - reward_N[row_S]) ** 2 - rows.logp_S)


def policy(module: Any = None, roles: tuple[str, ...] = ("value", "reward")) -> tiny.Policy:
    made = tiny.Policy(module if module is not None else tiny.lora())
    draw = torch.Generator().manual_seed(0)
    for role in roles:
        made.heads[role] = heads.attach(made.bare, made.device, HeadCard("token" if role == "value" else "row"))
        made.heads[role].weight.data.normal_(generator=draw)
    return made


def train(folder: Path, *, die: int = -1, steps: int = 4, **keys: Any) -> tuple[tiny.Policy, Run]:
    made, run = policy(), Run(folder)

    def watch(event: Mapping[str, Any]) -> None:
        if event["kind"] == "step" and event["step"] == die:
            raise InterruptedError

    recipe = tiny.recipe(folder, steps=steps, save_every=2, **keys)
    fit(made, Critic(), tiny.Prepared(Judged(12)), recipe, run, Beside({}, watch))
    return made, run


def test_its_gradient_is_that_by_hand_and_reaches_the_policy_too() -> None:
    made = policy()
    (batch,) = micro_batches(Judged(4).encoded, 10_000)
    assert any(segment.parent is not None for segment in batch.segments)
    with Forward(made.module, heads=made.heads).opened() as forward:
        Losses(forward, Critic()).sums(batch).sums_M.sum().backward()
        found = made.heads["value"].weight.grad
        with torch.no_grad():
            hidden_SD = forward.hidden(batch)[batch.hidden_S].double()
    assert batch.columns is not None
    value_S = hidden_SD @ made.heads["value"].weight[0].double()
    apart_S = value_S - batch.columns["reward"][batch.row_S]
    assert found is not None
    torch.testing.assert_close(found[0].double(), (2 * apart_S @ hidden_SD).detach(), rtol=1e-4, atol=1e-4)
    assert made.heads["reward"].weight.grad is None
    trained = {name: weight.grad for name, weight in made.module.named_parameters() if weight.requires_grad}
    with Forward(made.module, heads=made.heads).opened() as forward:
        made.module.zero_grad()
        (-forward.rows(batch).logp_S).sum().backward()
    for name, weight in made.module.named_parameters():
        if weight.requires_grad:
            assert not torch.allclose(trained[name], weight.grad, rtol=1e-3), f"the value moves nothing in {name}"


def test_it_is_read_where_the_token_is_predicted_and_packing_does_not_matter() -> None:
    made, rows = policy(), Judged(5).encoded
    found = {}
    for layout in ("packed", "padded"):
        with Forward(made.module, heads=made.heads, layout=layout).opened() as forward:  # type: ignore[arg-type]
            (batch,) = micro_batches(rows, 10_000, layout=forward.layout)
            found[layout] = forward.rows(batch, ("logp",), (("value", "token"),)).read("value")[0]
    torch.testing.assert_close(found["packed"], found["padded"], rtol=1e-4, atol=1e-4)
    one = rows[0]
    place = int(np.flatnonzero(one.weights[0])[0])
    with torch.no_grad():
        ids = torch.from_numpy(one.ids[0][:place].astype(np.int64))[None]  # what precedes the first scored token
        hidden_D = made.bare.model(ids).last_hidden_state[0, -1]
    torch.testing.assert_close(found["padded"][0], made.heads["value"].read(hidden_D[None])[0], rtol=1e-4, atol=1e-4)


def test_both_heads_are_there_by_name_and_the_one_that_is_read_trains(tmp_path: Path) -> None:
    before = policy()
    assert [name for name, _ in before.trainable()][-2:] == ["head.value.weight", "head.weight"]
    assert before.head is before.heads["reward"]
    after, run = train(tmp_path, weight_decay=0.0)
    moved = {name: not torch.equal(weight, before.snapshot()[name]) for name, weight in after.snapshot().items()}
    assert moved.pop("head.weight") is False, "nothing reads it"
    assert all(moved.values()), moved
    losses = [event["loss"] for event in run.events("step")]
    assert losses[-1] < losses[0]
    saved = latest(run)
    assert saved is not None and {"head.value.weight", "head.weight"} <= set(saved.weights())


def test_a_killed_run_goes_on_with_its_heads_to_the_bit(tmp_path: Path) -> None:
    whole, _ = train(tmp_path / "whole")
    with pytest.raises(InterruptedError):
        train(tmp_path / "cut", die=3)
    found, _ = train(tmp_path / "cut")
    for name, weight in whole.snapshot().items():
        assert torch.equal(found.snapshot()[name], weight), name


def test_splitting_changes_nothing(tmp_path: Path) -> None:
    losses = []
    for tokens in (10_000, 70):
        _, run = train(tmp_path / str(tokens), micro_tokens=tokens, steps=2)
        losses.append([event["loss"] for event in run.events("step")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("adapt", ["lora", "full"])
def test_both_come_back_with_what_was_trained(adapt: str, tmp_path: Path) -> None:
    named = tiny.folder(tmp_path / "base")
    cards = {"value": HeadCard("token", "critic"), "reward": HeadCard()}
    made = models.load(named, [Plugin(name=adapt)], device="cpu", beginning=Beginning(heads=cards))
    for seed, head in enumerate(made.heads.values()):
        head.weight.data = torch.randn(1, 32, generator=torch.Generator().manual_seed(seed))
    run = Run(tmp_path / "run")
    where = save(made, run)
    assert {"head.safetensors", "head.json", "head-value.safetensors", "head-value.json"} <= {
        path.name for path in where.iterdir()
    }
    again = open_run(run, device="cpu")
    assert set(again.heads) == {"value", "reward"} and again.trainable() == []
    for role, head in again.heads.items():
        assert torch.equal(head.weight, made.heads[role].weight) and head.card == cards[role]


def test_a_head_that_is_not_there_is_not_read() -> None:
    made = policy(roles=("reward",))
    (batch,) = micro_batches(Judged(2).encoded, 10_000)
    with Forward(made.module, heads=made.heads).opened() as forward:
        with pytest.raises(ValueError, match="no value head"):
            forward.rows(batch, ("logp",), (("value", "token"),))
        seen = forward.rows(batch, ("logp",), (("reward", "row"),))
    assert len(seen.read("reward")[0]) == batch.num_rows
    with pytest.raises(ValueError, match="no readings of a value head"):
        seen.read("value")
