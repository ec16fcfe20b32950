"""The policy gradient, by hand: ratios, clipping, means, corrections, and the first step of each published method.

Shapes: S = tokens of a rollout, N = responses.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tests.unit.objectives import ragged
from tests.unit.objectives.rolled import gradient, rollout

from luthier.errors import LuthierError
from luthier.objectives import OBJECTIVES
from luthier.objectives.policy.gradient import PolicyGradient
from luthier.objectives.shown import joined, means
from luthier.types import ROW, TOKEN

METHODS = ("reinforce", "rloo", "grpo", "dr_grpo", "gspo", "reinforce_pp", "dapo", "ppo", "vapo")
LOGP = [[-1.0, -2.0], [-0.5, -0.25, -0.75]]
ADVANTAGE = [[1.0, 1.0], [-2.0, -2.0, -2.0]]


def policy(**keys: Any) -> PolicyGradient:
    return PolicyGradient(**keys)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("written", [True, False], ids=["old written down", "old not known"])
def test_where_the_policy_is_the_old_one_the_gradient_is_the_plain_one(name: str, written: bool) -> None:
    """-advantage by the method's mean; nothing is clipped, whatever the bounds; the reference pulls nowhere."""
    objective = OBJECTIVES.build(name, {})
    old = LOGP if written else [[math.nan] * 2, [math.nan] * 3]
    rows = rollout(LOGP, ref=LOGP, advantage=ADVANTAGE, old_logp=old)
    each = {"token": (1, 1), "row": (2, 3), "constant": (objective.length,) * 2}[objective.unit]
    expected = [-1 / each[0]] * 2 + [2 / each[1]] * 3
    assert gradient(objective.loss(rows), rows) == pytest.approx(expected)
    told = means({k: float(v) for k, v in PolicyGradient.shown(objective, rows).items()})
    assert told["clipped"] == told["drift"] == told["kl"] == 0 and told["ratio_max"] == 1
    assert objective.needs.unit == (TOKEN if objective.unit == "token" else ROW)


@pytest.mark.parametrize("name", ["grpo", "dapo", "rloo", "gspo", "dr_grpo"])
def test_without_columns_it_is_the_policy_and_no_advantage(name: str) -> None:
    rows = rollout(LOGP, ref=LOGP)
    assert gradient(OBJECTIVES.build(name, {}).loss(rows), rows) == [0.0] * 5


def test_group_advantages_make_a_first_loss_of_0() -> None:
    """GRPO, RLOO at equal lengths, GSPO; DAPO's is -sum(A len) / sum(len)."""
    rows = rollout(LOGP, ref=LOGP, advantage=[[1.5] * 2, [-1.5] * 3])
    for name in ("grpo", "gspo"):
        assert float(OBJECTIVES.build(name, {}).loss(rows).detach().mean()) == pytest.approx(0)
    assert float(OBJECTIVES.build("dapo", {}).loss(rows).detach().mean()) == pytest.approx(-1.5 * (2 - 3) / 5)
    assert float(OBJECTIVES.build("dr_grpo", {"length": 10}).loss(rows).detach().mean()) == pytest.approx(0.075)


def ratio(value: float, advantage: float) -> Any:
    """One token whose ratio to the old policy is `value`."""
    return rollout([[math.log(value) - 1]], old_logp=[[-1.0]], advantage=[[advantage]])


@pytest.mark.parametrize(
    ("value", "advantage", "counted", "learns"),
    [
        (1.2, 1.0, 1.2, True),
        (1.3, 1.0, 1.28, False),
        (0.5, 1.0, 0.5, True),
        (1.3, -1.0, 1.3, True),
        (0.9, -1.0, 0.9, True),
        (0.7, -1.0, 0.8, False),
    ],
)
def test_clipping_stops_what_has_gone_far_enough(value: float, advantage: float, counted: float, learns: bool) -> None:
    """DAPO's bounds: up to 1.28, down to 0.8."""
    objective, rows = OBJECTIVES.build("dapo", {}), ratio(value, advantage)
    assert objective.loss(rows).item() == pytest.approx(-counted * advantage)
    assert gradient(objective.loss(rows), rows) == pytest.approx([-value * advantage if learns else 0.0])
    assert means({k: float(v) for k, v in objective.shown(rows).items()})["clipped"] == (not learns)


def test_no_bound_is_no_bound() -> None:
    objective = policy(clip_low="none", clip_high="none")
    for value, advantage in ((30.0, 1.0), (0.01, -1.0)):
        assert objective.loss(ratio(value, advantage)).item() == pytest.approx(-value * advantage)
    assert policy(clip_low="none").loss(ratio(0.01, -1.0)).item() == pytest.approx(0.01)
    assert policy(clip_low="none").loss(ratio(9.0, 1.0)).item() == pytest.approx(-1.2)


def test_dual_clipping_bounds_what_a_bad_token_costs() -> None:
    for value, advantage, loss in ((9.0, -1.0, 3.0), (2.0, -1.0, 2.0), (9.0, 1.0, -1.2)):
        rows = ratio(value, advantage)
        found = policy(dual_clip=3.0).loss(rows)
        assert found.item() == pytest.approx(loss)
        assert gradient(found, rows) == pytest.approx([value if loss == 2.0 else 0.0])


def test_a_ratio_too_large_for_a_number_is_one_all_the_same() -> None:
    rows = rollout([[-1.0, -500.0]], old_logp=[[-900.0, -1.0]], advantage=[[-1.0, -1.0]])
    for kind in ("token", "sequence", "product"):
        loss = policy(ratio=kind, unit="row").loss(rows)
        assert loss.isfinite().all() and torch.tensor(gradient(loss, rows)).isfinite().all()


# means
def test_what_the_mean_is_over() -> None:
    rows = rollout(LOGP, advantage=ADVANTAGE)
    assert policy(unit="token").loss(rows).tolist() == [-1.0, -1.0, 2.0, 2.0, 2.0]
    assert policy(unit="row").loss(rows).tolist() == [-1.0, 2.0]
    assert policy(unit="constant", length=4).loss(rows).tolist() == [-0.5, 1.5]


def test_twice_as_long_counts_twice_with_a_constant_and_the_same_with_a_response_mean() -> None:
    """Dr.GRPO's length property."""
    short, long = ([[-1.0] * tokens] for tokens in (3, 6))
    for name, factor in (("dr_grpo", 2.0), ("grpo", 1.0), ("rloo", 2.0)):
        one, other = (
            OBJECTIVES.build(name, {"kl": 0.0}).loss(rollout(logp, advantage=[[-1.5] * len(logp[0])])).item()
            for logp in (short, long)
        )
        assert other == pytest.approx(factor * one), name


# ratios of responses
OLD = [[-1.2, -1.9], [-0.7, -0.05, -0.85]]


def test_a_sequences_ratio_is_the_geometric_mean_whatever_its_length() -> None:
    for tokens in (1, 2, 7):
        old = [[-1.0 - math.log(1.1)] * tokens]
        rows = rollout([[-1.0] * tokens], old_logp=old, advantage=[[1.0] * tokens])
        loss = policy(ratio="sequence", unit="row").loss(rows)
        assert loss.item() == pytest.approx(-1.1) and gradient(loss, rows) == pytest.approx([-1.1 / tokens] * tokens)


@pytest.mark.parametrize("clip", [0.5, 1e-3])
def test_gspo_is_its_formula(clip: float) -> None:
    """-min(s A, clip(s) A) of each response, s its geometric mean."""
    rows = rollout(LOGP, old_logp=OLD, advantage=ADVANTAGE)
    loss = OBJECTIVES.build("gspo", {"clip_low": clip, "clip_high": clip}).loss(rows)
    s_N = rows.mean(rows.logp_S - rows.column("old_logp")).exp()
    a_N = torch.tensor([1.0, -2.0], dtype=torch.float64)
    wanted = -torch.minimum(s_N * a_N, s_N.clamp(1 - clip, 1 + clip) * a_N)
    torch.testing.assert_close(loss, wanted)
    assert gradient(loss, rows) == pytest.approx(gradient(wanted, rows))


def test_gspo_begins_with_the_gradient_of_grpo() -> None:
    rows = rollout(LOGP, old_logp=LOGP, advantage=ADVANTAGE)
    one, other = (OBJECTIVES.build(name, {"kl": 0.0}).loss(rows) for name in ("gspo", "grpo"))
    assert gradient(one, rows) == pytest.approx(gradient(other, rows))


@pytest.mark.parametrize("clip", [3.0, 1e-3])
def test_rloos_gradient_is_that_of_the_whole_responses_ratio(clip: float) -> None:
    rows = rollout(LOGP, old_logp=OLD, advantage=ADVANTAGE)
    loss = OBJECTIVES.build("rloo", {"kl": 0.0, "clip_low": clip, "clip_high": clip}).loss(rows)
    ratio_N = rows.total(rows.logp_S - rows.column("old_logp")).exp()
    a_N = torch.tensor([1.0, -2.0], dtype=torch.float64)
    wanted = -torch.minimum(ratio_N * a_N, ratio_N.clamp(1 - clip, 1 + clip) * a_N)
    assert gradient(loss, rows) == pytest.approx(gradient(wanted, rows))


# who drew
def test_what_the_engine_thought_is_corrected() -> None:
    """Ratios of model and engine 1.5, 4, unknown, 0.5."""
    old = [[-1.0, -1.0], [-1.0, -1.0]]
    sampler = [[-1 - math.log(1.5), -1 - math.log(4)], [math.nan, -1 - math.log(0.5)]]
    rows = rollout(old, old_logp=old, sampler_logp=sampler, advantage=[[-1.0] * 2] * 2)
    for correction, expected in {
        "none": [1.0, 1.0, 1.0, 1.0],
        "truncate": [1.5, 2.0, 1.0, 0.5],
        "mask": [1.5, 0.0, 1.0, 0.5],
        "mask_row": [0.0, 0.0, 0.5, 0.5],
    }.items():
        loss = policy(correction=correction).loss(rows)
        assert loss.tolist() == pytest.approx(expected), correction
        assert gradient(loss, rows) == pytest.approx(expected), "the weight itself is not learnt from"
    told = means({k: float(v) for k, v in policy().shown(rows).items()})
    gaps = [math.log(1.5), math.log(4), math.log(0.5)]
    assert told["mismatch"] == pytest.approx(sum(map(abs, gaps)) / 3) and told["mismatch_max"] == pytest.approx(gaps[1])
    assert told["mismatch_outside"] == 1.0
    assert told["mismatch_k3"] == pytest.approx(sum(math.exp(g) - 1 - g for g in gaps) / 3)


def test_without_old_ones_the_engine_is_compared_with_the_policy_as_it_stands() -> None:
    rows = rollout([[-1.0]], sampler_logp=[[-1 - math.log(1.5)]], advantage=[[-1.0]])
    loss = policy(correction="truncate").loss(rows)
    assert loss.item() == pytest.approx(1.5) and gradient(loss, rows) == pytest.approx([1.5])


# what is shown
def test_entropy_is_rewarded_where_it_has_a_weight() -> None:
    objective = policy(entropy=0.5)
    assert objective.needs.readouts == ("logp", "entropy") and policy().needs.readouts == ("logp",)
    rows = rollout(LOGP, advantage=ADVANTAGE)
    entropy_S = torch.arange(5.0, dtype=torch.float64)
    rows.readouts["entropy"] = entropy_S  # type: ignore[index]
    torch.testing.assert_close(objective.loss(rows), policy().loss(rows) - 0.5 * entropy_S)
    assert means({k: float(v) for k, v in objective.shown(rows).items()})["entropy"] == 2.0
    estimated = means({k: float(v) for k, v in policy().shown(rollout(LOGP)).items()})["entropy"]
    assert estimated == pytest.approx(4.5 / 5), "minus the mean log-probability of what was drawn"


@pytest.mark.parametrize("name", METHODS)
def test_micro_batches_together_show_what_the_whole_does(name: str) -> None:
    objective, examples = OBJECTIVES.build(name, {}), ragged.examples(6, responses=3)
    whole, *parts = (
        {key: float(value) for key, value in objective.shown(ragged.rows(part, objective.needs)).items()}
        for part in (examples, examples[:1], examples[1:4], examples[4:])
    )
    assert means(joined(parts)) == pytest.approx(means(whole)) and len(means(whole)) >= 8


def test_nothing_scored_shows_nothing() -> None:
    assert policy().shown(rollout([[], []])) == {} and means({}) == {}


# what it asks for
def test_a_reference_is_read_where_something_holds_to_it() -> None:
    assert policy().needs.roles == () and policy(kl=0.1).needs.roles == ("reference",)
    assert OBJECTIVES.build("grpo", {"kl": 0}).needs.roles == ()
    assert all(OBJECTIVES.build(name, {}).needs.rollouts for name in METHODS)


def test_what_is_taken_off_the_reward_is_not_in_the_loss() -> None:
    rows = rollout(LOGP, ref=OLD, advantage=ADVANTAGE)
    objective = OBJECTIVES.build("reinforce_pp", {"kl": 0.3})
    assert objective.reward_kl == 0.3 and OBJECTIVES.build("grpo", {}).reward_kl == 0
    assert gradient(objective.loss(rows), rows) == gradient(policy().loss(rows), rows)


def test_credit_of_a_critic_needs_one() -> None:
    with pytest.raises(LuthierError, match="trains none") as caught:
        OBJECTIVES.build("grpo", {"credit": "gae"})
    assert "ppo" in str(caught.value)
    assert OBJECTIVES.build("grpo", {"credit": {"group": {"scale": "none"}}}).estimator.scale == "none"
    assert OBJECTIVES.build("ppo", {"credit": "group"}).estimator.critic is False


@pytest.mark.parametrize("key", ["kl_by", "ratio", "unit", "correction", "clip_high", "dual_clip", "length", "cap"])
def test_what_is_no_choice_is_refused(key: str) -> None:
    with pytest.raises(LuthierError, match=key):
        OBJECTIVES.build("grpo", {key: 0 if key in ("dual_clip", "length", "cap") else "nothing"})
