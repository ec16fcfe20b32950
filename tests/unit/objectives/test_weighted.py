"""The weighted sum: how it is written, what it needs, which rows its terms see."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import torch
from tests.unit.objectives import ragged

from luthier.errors import LuthierError
from luthier.objectives import OBJECTIVES
from luthier.recipe import load
from luthier.recipe.resolve import lock, resolve
from luthier.types import ROW, Needs


def build(of: Any) -> Any:
    return OBJECTIVES.build("sum", {"of": of})


def test_terms_have_keys_and_weights() -> None:
    total = build({"dpo": {"beta": 0.3}, "sft": 0.2, "kto": None})
    (one, dpo), (share, sft), (whole, kto) = total.terms()
    assert (one, share, whole) == (1.0, 0.2, 1.0)
    assert dpo == OBJECTIVES.build("dpo", {"beta": 0.3})
    assert sft == OBJECTIVES.build("sft")
    assert kto == OBJECTIVES.build("kto")
    assert total == build({"dpo": {"beta": 0.3, "weight": 1}, "sft": {"weight": 0.2}, "kto": {}})
    assert total == OBJECTIVES.build("sum", {"dpo": {"beta": 0.3}, "sft": 0.2, "kto": None})


def test_no_objective_has_a_key_of_the_sums() -> None:
    for name in OBJECTIVES.names():
        assert "weight" not in {field.name for field in fields(OBJECTIVES.get(name))}, name


def test_it_needs_what_its_terms_need() -> None:
    total = build({"sft": {"label_smoothing": 0.1}, "kto": {}, "simpo": {}})
    assert total.needs == Needs(
        responses=2,
        readouts=("logp", "mean_logp"),
        roles=("reference",),
        kl_baseline=True,
        labels=True,
        unit=ROW,
    )
    assert not total.needs.whole_step
    assert total.default_lr == 5e-6
    assert build({"orpo": {}, "aot": {}}).needs.whole_step
    assert build({"reward": {}, "sft": 0.1}).needs.reward_head == "row"
    assert build({"sft": {}}).default_lr is None
    assert not build({"dpo": {"reference_free": True}, "sft": 1}).needs.reference
    assert OBJECTIVES.build("dpo").terms() == ((1.0, OBJECTIVES.build("dpo")),)


def test_a_likelihood_term_learns_from_the_better_responses_alone() -> None:
    total = build({"dpo": {}, "sft": 0.2})
    rows = ragged.rows(ragged.examples(4, responses=2), total.needs)
    (_, dpo), (_, sft) = total.terms()
    assert dpo.loss(rows).shape == (4,)
    loss = sft.loss(rows.best())
    better = torch.isin(rows.row_S, rows.better_P)
    assert torch.equal(loss != 0, better)
    assert loss[better].tolist() == (-rows.logp_S[better]).tolist()
    alone = ragged.rows(ragged.examples(4, responses=1), Needs(labels=True))
    assert torch.equal((sft.loss(alone.best()) != 0), alone.reward_N[alone.row_S] > 0.5)


def test_dpo_plus_sft_is_the_paper_s_regularised_loss() -> None:
    """One pair by hand: the sum of the terms' means, each over its own unit."""
    total = build({"dpo": {"beta": 0.5}, "sft": {"weight": 0.3}})
    rows = ragged.pair([-1.0, -2.0], [-3.0], [-1.5, -3.0], [-2.5])
    (w_dpo, dpo), (w_sft, sft) = total.terms()
    mean = w_dpo * dpo.loss(rows).mean() + w_sft * sft.loss(rows.best()).sum() / 2
    plain = OBJECTIVES.build("dpo", {"beta": 0.5}).loss(rows).mean()
    assert float(mean.detach()) == pytest.approx(float(plain.detach()) + 0.3 * 1.5)


def test_rewards_are_the_stateful_terms_else_the_first_ones() -> None:
    rows = ragged.rows(ragged.examples(4, responses=2), Needs(responses=2, roles=("reference",), labels=True))
    for of, name, keys in (
        ({"sft": 1, "dpo": {"beta": 0.7}, "simpo": {}}, "dpo", {"beta": 0.7}),
        ({"simpo": {}, "dpo": {}}, "simpo", {}),
        ({"simpo": {}, "bco": {"beta": 0.3}}, "bco", {"beta": 0.3}),
    ):
        assert torch.equal(build(of).implicit_rewards(rows), OBJECTIVES.build(name, keys).implicit_rewards(rows))
    assert build({"sft": 1}).implicit_rewards(rows) is None


def test_the_state_is_its_terms() -> None:
    total, bco = build({"dpo": {}, "bco": {}}), OBJECTIVES.build("bco")
    rewards, scores = torch.tensor([0.4, -0.8]), torch.tensor([1.0, 0.0])
    assert total.begin() == bco.begin()
    assert total.updated(total.begin(), rewards, scores) == bco.updated(bco.begin(), rewards, scores)


@pytest.mark.parametrize(
    ("of", "message"),
    [
        ({}, "no terms"),
        ({"dpo": "yes"}, "mapping of its keys"),
        ({"dpo": {"weight": 0}}, "above 0"),
        ({"dpo": {"weight": "much"}}, "above 0"),
        ({"dpo": {"weight": True}}, "above 0"),
        ({"dpoo": {}}, "dpoo"),
        ({"dpo": {"betta": 0.1}}, "betta"),
        ({"sum": {"of": {"dpo": {}}}}, "term of a sum"),
        ({"reward": {}, "process_reward": {}}, "one scalar head"),
        ([{"dpo": {}}], "of"),
    ],
)
def test_what_makes_no_sense_is_named(of: Any, message: str) -> None:
    with pytest.raises(LuthierError, match=message):
        build(of)


def test_it_is_written_in_a_recipe_overridden_and_locked(tmp_path: Any) -> None:
    from luthier.workflow.registries import REGISTRIES

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model: m\ndata: rows.jsonl\noutput: out\nobjective: {sum: {dpo: {beta: 0.3}, sft: 0.2}}\n")
    resolved = resolve(load(recipe, ["objective.sum.dpo.beta=0.5"]), REGISTRIES).recipe
    total = OBJECTIVES.build("sum", resolved.objective.args)
    assert total == build({"dpo": {"beta": 0.5}, "sft": {"weight": 0.2}})
    again = tmp_path / "lock.yaml"
    again.write_text(lock(resolved))
    assert OBJECTIVES.build("sum", resolve(load(again), REGISTRIES).recipe.objective.args) == total
