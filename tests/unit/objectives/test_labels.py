"""KTO and BCO by hand: the step's baseline, the balance of labels, the running shift, the density ratio."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tests.unit.objectives import ragged

from luthier.objectives import OBJECTIVES, Rows, density
from luthier.objectives.labels import BCO, KTO

LOG2 = math.log(2)


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def labelled(log_ratios: list[float], scores: list[float], **more) -> Rows:
    """Responses of one token each, with these log-ratios from a reference of -1."""
    logp = torch.tensor([log_ratio - 1 for log_ratio in log_ratios], dtype=torch.float64, requires_grad=True)
    ones = torch.ones_like(logp)
    places = torch.arange(len(log_ratios))
    return Rows(
        logp,
        ones,
        places,
        len(log_ratios),
        ref_S=-ones.detach(),
        columns={"reward": torch.tensor(scores, dtype=torch.float64)},
        **more,
    )


def test_kto_begins_at_one_half_and_bco_at_log_2() -> None:
    rows = ragged.rows(ragged.examples(6, responses=1, at_start=True), kl_baseline=0.0)
    assert OBJECTIVES.build("kto").loss(rows).tolist() == pytest.approx([0.5] * 6, rel=1e-6)
    # three good ones, three bad: (1.33 + 1) / 2 / 2 on the mean
    weighted = OBJECTIVES.build("kto", {"lambda_desirable": 1.33}).loss(rows)
    assert float(weighted.detach().mean()) == pytest.approx(0.5825, rel=1e-6)
    assert OBJECTIVES.build("bco").loss(rows).tolist() == pytest.approx([LOG2] * 6, rel=1e-6)


def test_kto_by_hand() -> None:
    rows = labelled([2.0, -1.0, 0.5], [1.0, 0.0, 1.0], kl_baseline=torch.tensor(0.4))
    kto = OBJECTIVES.build("kto", {"beta": 0.5, "lambda_desirable": 1.2, "lambda_undesirable": 0.8})
    expected = [1.2 * (1 - sigma(0.5 * 1.6)), 0.8 * (1 - sigma(0.5 * 1.4)), 1.2 * (1 - sigma(0.5 * 0.1))]
    assert kto.loss(rows).tolist() == pytest.approx(expected)
    assert kto.implicit_rewards(rows).tolist() == pytest.approx([1.0, -0.5, 0.25])


def test_ktos_baseline_is_never_below_zero_and_has_no_gradient() -> None:
    below = labelled([0.3, 0.3], [1.0, 0.0], kl_baseline=torch.tensor(-5.0))
    zero = labelled([0.3, 0.3], [1.0, 0.0], kl_baseline=torch.tensor(0.0))
    assert KTO().loss(below).tolist() == KTO().loss(zero).tolist()
    kl_baseline = torch.tensor(0.5, requires_grad=True)
    rows = labelled([0.3, 0.3], [1.0, 0.0], kl_baseline=kl_baseline)
    KTO().loss(rows).sum().backward()
    assert kl_baseline.grad is None
    assert rows.logp_S.grad is not None
    assert rows.logp_S.grad[0] < 0 < rows.logp_S.grad[1]


def test_kto_saturates() -> None:
    rows = labelled([900.0, -900.0, -900.0, 900.0], [1.0, 0.0, 1.0, 0.0], kl_baseline=torch.tensor(0.0))
    assert KTO(lambda_undesirable=2.0).loss(rows).tolist() == pytest.approx([0, 0, 1, 2], abs=1e-12)


@pytest.mark.parametrize(
    ("good", "bad", "expected"),
    [(10, 10, (1, 1)), (12, 10, (1, 1)), (4, 3, (1, 1)), (10, 40, (4, 1)), (40, 10, (1, 3)), (1, 3, (3, 1))],
)
def test_ktos_suggested_balance(good: int, bad: int, expected: tuple[float, float]) -> None:
    desirable, undesirable = KTO.suggest(good, bad)
    assert (desirable, undesirable) == pytest.approx(expected)
    assert 1 - 1e-9 <= desirable * good / (undesirable * bad) <= 4 / 3 + 1e-9


def test_kto_suggests_nothing_for_one_class() -> None:
    with pytest.raises(ValueError, match="0 bad"):
        KTO.suggest(3, 0)


def test_kto_advises_weights_for_labels_out_of_balance() -> None:
    kto = OBJECTIVES.build("kto")
    # 1 : 3, so between 3 x 1 and 3 x 4/3
    assert "objective.kto.lambda_desirable to 3.00 … 4.00" in str(kto.advice(1, 3))
    assert "lambda_undesirable to 1.50 … 2.00" in str(kto.advice(2, 1))
    assert kto.advice(4, 3) is None, "4 : 3 is balanced"
    assert kto.advice(3, 0) is None
    assert OBJECTIVES.build("sum", {"of": {"sft": 1, "kto": 1}}).advice(1, 3) == kto.advice(1, 3)
    assert OBJECTIVES.build("bco").advice(1, 3) is None


def test_bco_by_hand() -> None:
    state = {"good_mean": 0.6, "good_count": 9.0, "bad_mean": -0.2, "bad_count": 1.0}
    rows = labelled([2.0, -1.0], [1.0, 0.0], state=state)
    bco = OBJECTIVES.build("bco", {"beta": 0.5})
    # the shift is (0.6 - 0.2) / 2 whatever the counts; rewards 1 and -0.5
    expected = [-math.log(sigma(1.0 - 0.2)), -math.log(sigma(0.5 + 0.2))]
    assert bco.loss(rows).tolist() == pytest.approx(expected)
    weighed = OBJECTIVES.build("bco", {"beta": 0.5, "density_ratio": True})
    assert weighed.loss(replace(rows, weight_N=torch.tensor([7.0, 3.0]))).tolist() == pytest.approx(
        [expected[0], 3 * expected[1]]
    )
    with pytest.raises(ValueError, match="weight for each row"):
        weighed.loss(rows)


def test_bcos_shift_is_one_half_each_class_over_all_steps() -> None:
    """An oracle that keeps every reward: the mean of the two classes' means, however the steps were cut."""
    generator = torch.Generator().manual_seed(3)
    rewards = torch.randn(40, generator=generator)
    scores = (torch.rand(40, generator=generator) > 0.8).float()
    rewards = rewards + scores
    assert 0 < scores.sum() < 20
    expected = 0.5 * float(rewards[scores > 0.5].double().mean() + rewards[scores <= 0.5].double().mean())
    for sizes in ([40], [1] * 40, [7, 13, 20]):
        state = BCO().begin()
        assert BCO.reward_baseline(state) == 0.0
        for r, s in zip(rewards.split(sizes), scores.split(sizes), strict=True):
            state = BCO().updated(state, r, s)
        assert BCO.reward_baseline(state) == pytest.approx(expected, rel=1e-9)
        assert state["good_count"] + state["bad_count"] == 40
    # all by count, as others do it, would be another number here
    assert abs(expected - float(rewards.mean())) > 0.05


def test_bco_counts_an_unseen_class_as_untrained_and_an_unlabelled_row_not_at_all() -> None:
    state = BCO().updated(BCO().begin(), torch.tensor([0.8, 0.4, 9.0]), torch.tensor([1.0, 1.0, float("nan")]))
    assert state["good_count"] == 2
    assert state["bad_count"] == 0
    assert BCO.reward_baseline(state) == pytest.approx(0.3)


def test_bcos_bound_on_dpo_is_tightest_in_the_middle() -> None:
    """-log s(a - d) - log s(d - b) >= -log s(a - b) for every shift d; least at d = (a + b) / 2."""
    generator = torch.Generator().manual_seed(0)
    for a, b in torch.randn(200, 2, generator=generator, dtype=torch.float64).tolist():
        shifts = [(a + b) / 2 + offset for offset in (0.0, -3.0, -0.3, 0.3, 3.0)]
        sums = []
        for shift in shifts:
            state = {"good_mean": shift, "bad_mean": shift, "good_count": 1.0, "bad_count": 1.0}
            sums.append(float(BCO(beta=1.0).loss(labelled([a, b], [1.0, 0.0], state=state)).detach().sum()))
        assert min(sums) == sums[0]
        assert sums[0] >= math.log1p(math.exp(b - a))


def test_density_weights_recover_a_known_ratio() -> None:
    """Prompts of two kinds: 80 % of the good and 25 % of the bad are of the first, so that its ratio is 3.2."""
    kinds = torch.tensor([0] * 160 + [1] * 40 + [0] * 200 + [1] * 600)
    good = torch.tensor([True] * 200 + [False] * 800)
    embedding = torch.nn.functional.one_hot(kinds, 2).float() * 5 + 1
    weights = density.weights(embedding, good)
    assert weights[good].tolist() == [1.0] * 200
    # the true ratios are 0.8 / 0.25 and 0.2 / 0.75 (below the bound); the penalty pulls them a little towards 1
    assert float(weights[200]) == pytest.approx(3.2, rel=0.02)
    assert float(weights[-1]) == 0.5
    assert torch.equal(weights, density.weights(embedding, good))


def test_density_weights_where_prompts_tell_everything_or_nothing() -> None:
    good = torch.tensor([True, False] * 50)
    apart = density.weights(torch.where(good, 30.0, -30.0)[:, None], good)
    assert apart[~good].tolist() == [0.5] * 50  # bad prompts that look like no good one
    assert apart[good].tolist() == [1.0] * 50
    alike = density.weights(torch.ones(100, 3), good)
    assert alike.tolist() == pytest.approx([1.0] * 100)
    one_like_the_good = torch.cat([torch.full((50,), 4.0), torch.full((49,), -4.0), torch.tensor([4.0])])[:, None]
    weights = density.weights(one_like_the_good, torch.arange(100) < 50)
    assert float(weights[-1]) == 10.0
    with pytest.raises(ValueError, match="good and bad"):
        density.weights(torch.ones(4, 2), torch.ones(4))


def test_the_density_fit_is_at_its_minimum() -> None:
    """The gradient of the penalised loss, by autograd, is zero at the logits found."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(60, 5, generator=generator, dtype=torch.float64)
    target = (x[:, 0] + torch.randn(60, generator=generator, dtype=torch.float64) > 0).double()
    each = torch.rand(60, generator=generator, dtype=torch.float64) + 0.5
    logits = density._fit(x, target, each)
    whole = torch.cat([x, torch.ones(60, 1, dtype=torch.float64)], 1)
    beta = torch.linalg.lstsq(whole, logits[:, None]).solution[:, 0].requires_grad_()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(whole @ beta, target, each, reduction="sum")
    (gradient,) = torch.autograd.grad(loss + 0.5 * beta[:-1].square().sum(), beta)
    assert gradient.abs().max() < 1e-6
