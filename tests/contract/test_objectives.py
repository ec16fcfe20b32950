"""What holds for every registered objective: one matrix, no copies for each method."""

from __future__ import annotations

import dataclasses
import math
import pickle
from typing import Any

import pytest
import torch
from tests.unit.objectives import ragged

from luthier.objectives import OBJECTIVES
from luthier.objectives.rows import Rows
from luthier.recipe.resolve import plain
from luthier.types import DECIDED_STEP, GOOD_TOKEN, PAIR, ROW, STEP, TOKEN

KEYS: dict[str, dict[str, Any]] = {
    "sum": {"of": {"dpo": {"beta": 0.3}, "sft": {"weight": 0.2}}},
    "online": {"of": {"ipo": {"beta": 0.3}}},
}
"""Objectives that cannot be built without keys."""
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("sft", {"label_smoothing": 0.1}),
    ("dpo", {"label_smoothing": 0.1}),
    ("dpo", {"label_smoothing": 0.1, "robust": True}),
    ("dpo", {"length_alpha": 0.5}),
    ("dpo", {"reference_free": True}),
    ("ipo", {"sum": True}),
    ("aot", {"unpaired": True}),
    ("cpo", {"alpha": 0.0, "label_smoothing": 0.1}),
    ("kto", {"lambda_desirable": 1.5}),
    ("bco", {"density_ratio": True}),
    ("reward", {"centring": 0.01}),
    ("process_reward", {"neutral": "ignore"}),
    ("grpo", {"unit": "token", "entropy": 0.01, "dual_clip": 3.0, "correction": "truncate", "kl_by": "k3_ratio"}),
    ("rloo", {"kl_by": "k2", "correction": "mask_row"}),
    ("ppo", {"unit": "row", "value_clip": "none", "critic": "model"}),
    ("gkd", {"beta": 0.0}),
    ("gkd", {"beta": 1.0, "own": 0.0}),
    ("sum", {"of": {"ppo": {"warm": 3}, "sft": 0.1}}),
    ("gspo", {"correction": "mask", "clip_low": 0.3, "clip_high": "none"}),
    ("sum", {"of": {"kto": {}, "sft": 0.5}}),
    ("sum", {"of": {"bco": {"beta": 0.2}, "simpo": {}, "ipo": {"weight": 3}}}),
    ("sum", {"of": {"reward": {}, "aot": {}}}),
]
CASES = [(name, KEYS.get(name, {})) for name in OBJECTIVES.names()] + OPTIONS
EXAMPLES = 7
STATE = {"good_mean": 0.4, "good_count": 3.0, "bad_mean": -0.2, "bad_count": 5.0}

every = pytest.mark.parametrize(("name", "keys"), CASES, ids=lambda value: value if isinstance(value, str) else None)


def drawn(objective: Any, seed: int = 0) -> list[ragged.Example]:
    return ragged.examples(EXAMPLES, seed, responses=3 if objective.needs.responses > 1 else 1)


def laid(objective: Any, chosen: list[ragged.Example]) -> Rows:
    """The rows as the loop brings them: what the objective does not declare is absent."""
    return ragged.rows(
        chosen,
        objective.needs,
        state=STATE if objective.begin() else None,
        weights=objective.needs.row_weights,
    )


def units(term: Any, rows: Rows) -> int:
    """How many values a term owes."""
    unit = term.needs.unit
    if unit == PAIR:
        assert rows.better_P is not None
        return len(rows.better_P)
    return {TOKEN: len(rows.logp_S), GOOD_TOKEN: len(rows.logp_S), ROW: rows.num_rows}.get(unit) or len(
        rows.column("step_reward")
    )


def learns_through(term: Any, rows: Rows) -> torch.Tensor:
    """What the term's gradient goes into."""
    readouts = [name for name in term.needs.readouts if name != "logp"]
    if "logp" in term.needs.readouts:
        return rows.logp_S
    return rows.readouts[readouts[0]] if readouts else rows.read(term.needs.heads[0][0])[0]


def seen(objective: Any, term: Any, rows: Rows) -> Rows:
    return rows.best() if len(objective.terms()) > 1 and term.imitates else rows


def values(objective: Any, chosen: list[ragged.Example]) -> list[torch.Tensor]:
    """The values of each term."""
    rows = laid(objective, chosen)
    return [term.loss(seen(objective, term, rows)).detach() for _, term in objective.terms()]


@every
def test_finite_values_and_gradients_one_value_a_unit(name: str, keys: dict[str, Any]) -> None:
    objective = OBJECTIVES.build(name, keys)
    rows = laid(objective, drawn(objective))
    for weight, term in objective.terms():
        loss = term.loss(seen(objective, term, rows))
        assert weight > 0
        assert loss.shape == (units(term, rows),)
        assert loss.isfinite().all()
        (gradient,) = torch.autograd.grad(loss.sum(), learns_through(term, rows), retain_graph=True)
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0


@every
def test_the_order_of_examples_does_not_matter(name: str, keys: dict[str, Any]) -> None:
    objective = OBJECTIVES.build(name, keys)
    chosen = drawn(objective)
    turned = [chosen[i] for i in (3, 0, 6, 2, 5, 1, 4)]
    for ours, theirs in zip(values(objective, chosen), values(objective, turned), strict=True):
        torch.testing.assert_close(ours.sort().values, theirs.sort().values, rtol=1e-5, atol=1e-5)


@every
def test_a_split_batch_has_the_same_values(name: str, keys: dict[str, Any]) -> None:
    """Except where the objective says that it needs the whole step."""
    objective = OBJECTIVES.build(name, keys)
    chosen = drawn(objective)
    whole = values(objective, chosen)
    parts = zip(values(objective, chosen[:3]), values(objective, chosen[3:]), strict=True)
    same = [
        torch.allclose(ours, torch.cat(both), rtol=1e-5, atol=1e-6) for ours, both in zip(whole, parts, strict=True)
    ]
    assert all(same) is not objective.needs.whole_step


@every
def test_rewards_are_one_a_response_and_move_with_the_loss(name: str, keys: dict[str, Any]) -> None:
    objective = OBJECTIVES.build(name, keys)
    rows = laid(objective, drawn(objective))
    rewards = objective.implicit_rewards(rows)
    if objective.needs.unit in (TOKEN, STEP, DECIDED_STEP) or objective.estimator is not None:
        assert rewards is None
        return
    assert rewards is not None
    assert rewards.shape == (rows.num_rows,)
    assert rewards.isfinite().all()
    assert rewards.unique().numel() == rows.num_rows


@every
def test_it_is_rebuilt_from_its_yaml_keys_and_from_a_pickle(name: str, keys: dict[str, Any]) -> None:
    objective = OBJECTIVES.build(name, keys)
    written = {f.name: plain(getattr(objective, f.name)) for f in dataclasses.fields(objective)}
    again = OBJECTIVES.build(name, {key: value for key, value in written.items() if value is not None})
    assert again == objective
    copied = pickle.loads(pickle.dumps(objective))
    assert copied == objective
    assert copied.needs == again.needs == objective.needs
    with pytest.raises(dataclasses.FrozenInstanceError):
        objective.beta = 1.0


@every
def test_a_padding_row_without_tokens_is_harmless(name: str, keys: dict[str, Any]) -> None:
    """A response of which nothing is scored (cut off whole) gives finite values and gradients."""
    objective = OBJECTIVES.build(name, keys)
    chosen = [list(example) for example in drawn(objective)]
    none = torch.empty(0)
    tokens = dict.fromkeys(chosen[2][0].tokens, none)
    chosen[2][0] = dataclasses.replace(chosen[2][0], logp=none, ref=none, mean_logp=none, weight=none, tokens=tokens)
    rows = laid(objective, chosen)
    for _, term in objective.terms():
        loss = term.loss(seen(objective, term, rows))
        assert loss.isfinite().all()
        assert torch.autograd.grad(loss.sum(), learns_through(term, rows), retain_graph=True)[0].isfinite().all()


@every
def test_extreme_log_probabilities_stay_finite(name: str, keys: dict[str, Any]) -> None:
    objective = OBJECTIVES.build(name, keys)
    rows = laid(objective, drawn(objective))
    for scale in (0.0, 60.0):  # certain responses; all but impossible ones
        logp = (rows.logp_S.detach() * scale).requires_grad_()
        extreme = dataclasses.replace(rows, logp_S=logp)
        for _, term in objective.terms():
            if "logp" in term.needs.readouts:
                loss = term.loss(seen(objective, term, extreme))
                assert loss.isfinite().all(), scale
                assert torch.autograd.grad(loss.sum(), logp, retain_graph=True)[0].isfinite().all(), scale


@every
def test_the_state_starts_plain_and_is_numbers(name: str, keys: dict[str, Any]) -> None:
    objective = OBJECTIVES.build(name, keys)
    state = objective.begin()
    rows = laid(objective, drawn(objective))
    rewards = objective.implicit_rewards(rows)
    if rewards is None or rows.reward_N is None:
        assert state == {}
        return
    after = objective.updated(state, rewards.detach(), rows.reward_N)
    assert after.keys() == state.keys()
    assert all(isinstance(value, float) and math.isfinite(value) for value in after.values())
    assert (after != state) is bool(state)
