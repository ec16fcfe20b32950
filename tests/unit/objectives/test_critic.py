"""The critic's loss, PPO and VAPO: by hand, and against one another.

Shapes: S = tokens.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from tests.unit.objectives import ragged
from tests.unit.objectives.rolled import rollout

from luthier.errors import LuthierError
from luthier.objectives import OBJECTIVES
from luthier.objectives.base import MODEL
from luthier.objectives.policy.critic import PPO, Good, Value
from luthier.objectives.policy.gradient import PolicyGradient
from luthier.objectives.rows import Rows
from luthier.objectives.shown import joined, means
from luthier.types import GOOD_TOKEN, TOKEN


def rows(values: list[float], old: list[float], returns: list[float]) -> Rows:
    made = rollout([[-1.0] * len(values)], old_value=[old], **{"return": [returns]})
    value_S = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    return dataclasses.replace(made, values={"value": (value_S, made.row_S)})


def test_the_critics_loss_by_hand() -> None:
    """Near the old value: half the squared distance. Past the bound and nearer to the return than it: no gradient.
    Past the bound on the other side: the whole distance."""
    made = rows([0.1, 0.9, -0.9], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0])
    loss_S = Value(0.2).loss(made)
    assert loss_S.tolist() == pytest.approx([0.5 * 0.81, 0.5 * 0.64, 0.5 * 3.61])
    (gradient,) = torch.autograd.grad(loss_S.sum(), made.read("value")[0])
    assert gradient.tolist() == pytest.approx([-0.9, 0.0, -1.9])
    free = Value("none").loss(made)
    assert free.tolist() == pytest.approx([0.5 * 0.81, 0.5 * 0.01, 0.5 * 3.61])
    assert Value.needs.heads == (("value", "token"),) and Value.needs.readouts == ()


def test_tokens_count_by_their_weight() -> None:
    made = rows([0.5, 0.5], [0.5, 0.5], [1.0, 1.0])
    made.weight_S[1] = 0.25
    assert Value().loss(made).tolist() == pytest.approx([0.125, 0.125 / 4])


def explained(values: list[float], returns: list[float]) -> dict[str, float]:
    """Shown of two micro-batches."""
    parts = [rows(one, one, other) for one, other in ((values[:2], returns[:2]), (values[2:], returns[2:]))]
    return means(joined({k: float(v) for k, v in Value().shown(part).items()} for part in parts))


def test_how_much_the_critic_explains() -> None:
    returns = [0.0, 1.0, 2.0, 5.0]
    assert explained(returns, returns)["explained"] == 1.0
    assert explained([one + 3 for one in returns], returns)["explained"] == pytest.approx(1.0), "all but the mean"
    assert explained([2.0] * 4, returns)["explained"] == pytest.approx(0.0)
    assert explained([-one for one in returns], returns)["explained"] == pytest.approx(-3.0)
    assert "explained" not in explained(returns, [1.0] * 4), "there is nothing to explain"
    shown = explained([1.0, 2.0, 3.0, 4.0], returns)
    assert shown["value"] == 2.5 and shown["return"] == 2.0


def test_right_answers_are_imitated_and_no_others() -> None:
    made = rollout([[-1.0, -2.0], [-3.0], [-4.0]], reward=[0.2, 0.9, float("nan")])
    made = dataclasses.replace(made, columns={**made.columns, "right": torch.tensor([1.0, 0.0, 0.0])})
    assert Good().loss(made).tolist() == [1.0, 2.0, 0.0, 0.0] and Good.needs.unit == GOOD_TOKEN
    assert Good().loss(rollout([[-1.0]], reward=[1.0])).tolist() == [0.0], "nothing is called right"


def test_ppo_is_the_policy_and_the_critic() -> None:
    objective, made = OBJECTIVES.build("ppo", {"value": 0.3, "value_clip": 0.1}), ragged.rows(ragged.examples(4))
    (one, actor), (other, critic) = objective.terms()
    assert (one, other) == (1.0, 0.3)
    plain = PolicyGradient(clip_low=0.2, clip_high=0.2, unit="token")
    assert torch.equal(actor.loss(made), plain.loss(made)) and torch.equal(critic.loss(made), Value(0.1).loss(made))
    assert objective.needs.heads == (("value", "token"),) and objective.needs.unit == TOKEN
    assert objective.estimator.critic and objective.reward_kl == 0.05


def test_vapo_without_its_own_is_ppo() -> None:
    """No imitation, a fixed lambda, PPO's bounds: the same terms, credit and losses."""
    same = {"credit": {"gae": {"lam": 0.9}}, "kl": 0.0}
    one = OBJECTIVES.build("vapo", {**same, "imitate": 0.0, "clip_high": 0.2, "warm": 0})
    other = OBJECTIVES.build("ppo", same)
    made = ragged.rows(ragged.examples(4))
    assert one.estimator == other.estimator and one.needs == other.needs
    for (weight, term), (wanted, like) in zip(one.terms(), other.terms(), strict=True):
        assert weight == wanted and torch.equal(term.loss(made), like.loss(made))


def test_vapos_own() -> None:
    objective = OBJECTIVES.build("vapo", {})
    assert [weight for weight, _ in objective.terms()] == [1.0, 0.1, 0.1]
    assert (objective.clip_low, objective.clip_high) == (0.2, 0.28) and objective.needs.roles == ()
    gae = objective.estimator
    assert (gae.lam_value, gae.adaptive, gae.lam_of(100)) == (1.0, 0.05, 0.8)


@pytest.mark.parametrize(
    ("name", "keys", "terms"),
    [
        ("ppo", {}, [1.0, 0.1]),
        ("vapo", {"imitate": 0.2}, [1.0, 0.1, 0.2]),
        ("sum", {"of": {"vapo": {"weight": 2.0, "warm": 3}, "sft": 0.5}}, [2.0, 0.2, 0.2, 0.5]),
    ],
)
def test_at_first_the_critic_learns_alone(name: str, keys: dict[str, Any], terms: list[float]) -> None:
    objective = OBJECTIVES.build(name, keys if name == "sum" else {**keys, "warm": 3})
    early = [terms[1] if index == 1 else terms[index] if index == 3 else 0.0 for index in range(len(terms))]
    for version, expected in ((0, early), (2, early), (3, terms), (9, terms)):
        assert objective.weights(version) == pytest.approx(expected), version
        rates = {"value": 10.0} if version >= 3 else {"value": 10.0, MODEL: 0.0}
        assert objective.rates(version) == rates
    assert [weight for weight, _ in objective.terms()] == pytest.approx(terms)


def test_the_leash_tightens_where_the_policy_is_too_far_and_gives_where_it_is_near() -> None:
    """Ten thousand responses at twice the target: 20 % more; at half of it: 20 % less; near it, as far as it is off."""
    objective = OBJECTIVES.build("ppo", {"kl_target": 6.0, "kl_horizon": 10_000})
    for seen, after in ((12.0, 0.06), (3.0, 0.04), (6.6, 0.055), (6.0, 0.05)):
        assert objective.next_reward_kl(0.05, seen, 10_000) == pytest.approx(after), seen
    assert objective.next_reward_kl(0.05, 12.0, 100) == pytest.approx(0.05 * 1.002)
    summed = OBJECTIVES.build("sum", {"of": {"sft": 0.1, "ppo": {"kl_target": 6.0}}})
    assert summed.next_reward_kl(0.05, 12.0, 10_000) == pytest.approx(0.06) and summed.reward_kl == 0.05
    assert OBJECTIVES.build("ppo", {}).next_reward_kl(0.05, 12.0, 10_000) == 0.05
    for keys in ({"kl": 0.0}, {"kl_by": "k3"}):
        with pytest.raises(LuthierError, match="kl_target"):
            OBJECTIVES.build("ppo", {"kl_target": 6.0, **keys})


def test_a_critic_that_moves_the_model_cannot_learn_alone() -> None:
    with pytest.raises(LuthierError, match="would change what the model says"):
        OBJECTIVES.build("ppo", {"critic": "model", "warm": 5})
    assert OBJECTIVES.build("ppo", {"critic": "model"}).needs.apart == () and PPO().needs.apart == ("value",)
