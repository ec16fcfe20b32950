"""Losses of pairs: closed forms at the start, by hand, and where gradients point."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.unit.objectives import ragged
from tests.unit.objectives.ragged import pair

from luthier.errors import LuthierError
from luthier.objectives import OBJECTIVES

LOG2 = math.log(2)
REFERENCED = ["dpo", "ipo", "hinge", "sppo", "nca", "exo", "apo_zero", "apo_down", "discopop", "aot"]
PLAIN = ["orpo", "cpo", "simpo"]
AT_START: list[tuple[str, dict[str, Any], float]] = [
    ("dpo", {}, LOG2),
    ("dpo", {"beta": 0.5, "label_smoothing": 0.2}, LOG2),
    ("dpo", {"label_smoothing": 0.2, "robust": True}, LOG2),
    ("dpo", {"length_alpha": 0.3}, LOG2),
    ("ipo", {}, 25.0),
    ("ipo", {"beta": 0.5, "sum": True}, 1.0),
    ("hinge", {}, 1.0),
    ("sppo", {}, 50.0),
    ("nca", {}, 2 * LOG2),
    ("exo", {"label_smoothing": 0.01}, -LOG2 - 0.5 * math.log(0.01 * 0.99)),
    ("apo_zero", {}, 1.0),
    ("apo_down", {}, 1.0),
    ("discopop", {}, 0.5 * LOG2 + 0.5),
    ("aot", {}, LOG2),
    ("aot", {"unpaired": True}, LOG2),
]


def value(name: str, rows: Any, **keys: Any) -> float:
    (loss,) = OBJECTIVES.build(name, keys).loss(rows)
    return float(loss.detach())


def logistic(x: float) -> float:
    """-log sigma(x)."""
    return math.log1p(math.exp(-x))


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(("name", "keys", "expected"), AT_START)
def test_where_policy_and_reference_agree(name: str, keys: dict[str, Any], expected: float) -> None:
    rows = ragged.rows(ragged.examples(6, at_start=True))
    loss = OBJECTIVES.build(name, keys).loss(rows)
    assert loss.shape == (6,)
    torch.testing.assert_close(loss.detach(), torch.full((6,), expected), rtol=1e-6, atol=1e-6)


# h_better = 0.5 + 1 = 1.5 over 2 tokens; h_worse = -0.5 over 1 token
APART = ([-1.0, -2.0], [-3.0], [-1.5, -3.0], [-2.5])
BY_HAND: list[tuple[str, dict[str, Any], float]] = [
    ("dpo", {}, logistic(0.2)),
    ("dpo", {"beta": 0.5, "label_smoothing": 0.1}, 0.9 * logistic(1.0) + 0.1 * logistic(-1.0)),
    ("dpo", {"beta": 0.5, "label_smoothing": 0.1, "robust": True}, (0.9 * logistic(1.0) - 0.1 * logistic(-1.0)) / 0.8),
    # beyond the worse one's single token the better one's count one half: 0.5 + 0.5 * 1 = 1
    ("dpo", {"length_alpha": 0.5}, logistic(0.1 * (1.0 + 0.5))),
    ("dpo", {"length_alpha": 0.0}, logistic(0.1 * (0.5 + 0.5))),
    ("dpo", {"length_alpha": 1.0}, logistic(0.2)),
    ("ipo", {}, (0.75 + 0.5 - 5) ** 2),
    ("ipo", {"sum": True, "beta": 0.5}, (2.0 - 1.0) ** 2),
    ("hinge", {}, 0.8),
    ("hinge", {"beta": 1.0}, 0.0),
    ("sppo", {"beta": 0.5}, (1.5 - 1) ** 2 + (-0.5 + 1) ** 2),
    ("nca", {"beta": 1.0}, logistic(1.5) + 0.5 * logistic(-1.5) + 0.5 * logistic(0.5)),
    ("apo_zero", {"beta": 1.0}, 1 - sigma(1.5) + sigma(-0.5)),
    ("apo_down", {"beta": 1.0}, sigma(1.5) + 1 - sigma(2.0)),
    ("discopop", {"tau": 0.5}, (1 - sigma(0.4)) * logistic(0.2) + sigma(0.4) * math.exp(-0.2)),
    (
        "exo",
        {"label_smoothing": 0.1},
        sigma(0.2) * math.log(sigma(0.2) / 0.9) + sigma(-0.2) * math.log(sigma(-0.2) / 0.1),
    ),
    ("aot", {}, logistic(0.2)),
    ("aot", {"unpaired": True, "label_smoothing": 0.1}, 0.9 * logistic(0.2) + 0.1 * logistic(-0.2)),
]


@pytest.mark.parametrize(("name", "keys", "expected"), BY_HAND)
def test_by_hand_against_a_reference(name: str, keys: dict[str, Any], expected: float) -> None:
    assert value(name, pair(*APART), **keys) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("name", "keys", "expected"),
    [
        ("dpo", {"reference_free": True, "beta": 1.0}, logistic(-0.5)),  # -3 against -2.5
        # p = e^-1.5 and e^-2.5: log odds -1.5 - log(1 - e^-1.5), -2.5 - log(1 - e^-2.5)
        ("orpo", {}, 1.5 + 0.1 * logistic(1.0 - math.log(1 - math.exp(-1.5)) + math.log(1 - math.exp(-2.5)))),
        ("orpo", {"beta": 0.0}, 1.5),
        ("cpo", {}, logistic(-0.05) + 1.5),
        ("cpo", {"alpha": 0.0, "label_smoothing": 0.1}, 0.9 * logistic(-0.05) + 0.1 * logistic(0.05)),
        ("simpo", {}, logistic(2 * 1.0 - 1.0)),
        ("simpo", {"beta": 3.0, "gamma": 0.0, "label_smoothing": 0.1}, 0.9 * logistic(3.0) + 0.1 * logistic(-3.0)),
    ],
)
def test_by_hand_without_a_reference(name: str, keys: dict[str, Any], expected: float) -> None:
    assert value(name, pair([-1.0, -2.0], [-2.5]), **keys) == pytest.approx(expected, rel=1e-9)


def test_between_equal_responses_only_constants_are_left() -> None:
    rows = pair([-1.0, -2.0], [-1.5, -1.5])
    assert value("orpo", rows, beta=0.3) == pytest.approx(1.5 + 0.3 * LOG2)
    assert value("simpo", rows, gamma=0.7) == pytest.approx(math.log1p(math.exp(0.7)))
    assert value("cpo", rows, alpha=2.0) == pytest.approx(LOG2 + 3.0)


@pytest.mark.parametrize("name", [*REFERENCED, *PLAIN])
def test_where_gradients_point_at_the_start(name: str) -> None:
    """Descent makes the better response likelier than the worse one (DiscoPOP's loss rises there, as its card says)."""
    rows = pair([-1.0, -2.0], [-1.5, -1.5], [-1.0, -2.0], [-1.5, -1.5])
    (gradient,) = torch.autograd.grad(OBJECTIVES.build(name).loss(rows).sum(), rows.logp_S)
    apart = gradient[:2].sum() - gradient[2:].sum()
    assert apart > 0 if name == "discopop" else apart < 0
    if name in ("nca", "apo_zero", "sppo", *PLAIN):
        assert gradient[:2].sum() < 0
    if name == "apo_down":
        assert gradient[:2].abs().max() < 1e-12
        assert gradient[2:].sum() > 0


def test_apo_down_lets_the_better_response_fall_once_it_leads() -> None:
    rows = pair([-1.0], [-3.0], [-1.0], [-1.0])
    (gradient,) = torch.autograd.grad(OBJECTIVES.build("apo_down", {"beta": 1.0}).loss(rows).sum(), rows.logp_S)
    assert gradient[0] > 0
    assert gradient[1] > 0


def test_the_gradient_of_dpo_at_the_start_is_half_beta() -> None:
    rows = pair([-1.0, -2.0], [-1.5], [-1.0, -2.0], [-1.5])
    (gradient,) = torch.autograd.grad(OBJECTIVES.build("dpo", {"beta": 0.3}).loss(rows).sum(), rows.logp_S)
    assert gradient.tolist() == pytest.approx([-0.15, -0.15, 0.15])


def test_an_identical_pair_gives_no_gradient_to_shared_tokens() -> None:
    rows = pair([-1.0, -2.0], [-1.0, -2.0], [-1.0, -2.5], [-1.0, -2.5])
    loss = OBJECTIVES.build("dpo").loss(rows)
    (gradient,) = torch.autograd.grad(loss.sum(), rows.logp_S)
    assert float(loss.detach()) == pytest.approx(LOG2)
    assert (gradient[:2] + gradient[2:]).abs().max() < 1e-12


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_a_swapped_pair_has_the_loss_of_the_opposite_difference(beta: float) -> None:
    better, worse, ref_better, ref_worse = APART
    rows, swapped = pair(*APART), pair(worse, better, ref_worse, ref_better)
    # l(d) - l(-d) = -d for the logistic loss; for IPO (d - t)^2 - (d + t)^2 = -4 d t
    assert value("dpo", rows, beta=beta) - value("dpo", swapped, beta=beta) == pytest.approx(-2.0 * beta)
    assert value("ipo", rows, beta=beta) - value("ipo", swapped, beta=beta) == pytest.approx(-2 * 1.25 / beta)
    assert value("aot", rows, beta=beta) - value("aot", swapped, beta=beta) == pytest.approx(-2.0 * beta)


def test_the_robust_loss_is_unbiased() -> None:
    """Its mean over labels turned round at the rate it expects is the plain loss of the right labels."""
    better, worse, ref_better, ref_worse = APART
    rows, flipped = pair(*APART), pair(worse, better, ref_worse, ref_better)
    for rate in (0.1, 0.3, 0.45):
        robust = {"label_smoothing": rate, "robust": True, "beta": 0.7}
        mean = (1 - rate) * value("dpo", rows, **robust) + rate * value("dpo", flipped, **robust)
        assert mean == pytest.approx(value("dpo", rows, beta=0.7), rel=1e-9)


def test_the_conservative_loss_is_least_where_its_odds_are() -> None:
    """At sigma(d) = 1 - e the gradient of the smoothed loss vanishes."""
    d = math.log(0.9 / 0.1)
    rows = pair([-1.0 + d], [-1.0], [-1.0], [-1.0])
    loss = OBJECTIVES.build("dpo", {"beta": 1.0, "label_smoothing": 0.1}).loss(rows)
    (gradient,) = torch.autograd.grad(loss.sum(), rows.logp_S)
    assert gradient.abs().max() < 1e-12


def test_ipo_and_exo_are_zero_at_their_targets() -> None:
    assert value("ipo", pair([-1.0], [-6.0], [-1.0], [-1.0])) == pytest.approx(0, abs=1e-12)
    d = math.log(0.9 / 0.1)
    exo = value("exo", pair([d - 9], [-9.0], [-9.0], [-9.0]), beta=1.0, label_smoothing=0.1)
    assert exo == pytest.approx(0, abs=1e-12)


def test_length_desensitised_dpo_with_several_pairs_of_one_response() -> None:
    """The middle response is the worse one of one pair and the better one of another, with another limit in each."""
    logp = torch.tensor([-1.0, -1.0, -2.0, -2.0, -2.0, -3.0], dtype=torch.float64)
    base = pair([-1.0], [-1.0])
    rows = replace(
        base,
        logp_S=logp,
        ref_S=torch.zeros_like(logp),
        weight_S=torch.ones_like(logp),
        row_S=torch.tensor([0, 0, 1, 1, 1, 2]),
        num_rows=3,
        better_P=torch.tensor([0, 1, 0]),
        worse_P=torch.tensor([1, 2, 2]),
    )
    loss = OBJECTIVES.build("dpo", {"beta": 1.0, "length_alpha": 0.5}).loss(rows)
    log_ratios = [(-2.0, -2 - 2 - 1.0), (-2 - 1 - 1.0, -3.0), (-1 - 0.5, -3.0)]
    assert loss.tolist() == pytest.approx([logistic(better - worse) for better, worse in log_ratios])


def test_aot_matches_ranks_and_not_pairs() -> None:
    def two(first: tuple[float, float], second: tuple[float, float]) -> Any:
        logp = torch.tensor([*first, *second], dtype=torch.float64)
        return replace(
            pair([-1.0], [-1.0]),
            logp_S=logp,
            ref_S=torch.tensor([-1.0, -2.0, -3.0, -1.0], dtype=torch.float64),
            weight_S=torch.ones_like(logp),
            row_S=torch.arange(4),
            num_rows=4,
            better_P=torch.tensor([0, 2]),
            worse_P=torch.tensor([1, 3]),
        )

    rows = two((-5.0, -1.0), (-1.0, -6.0))
    # policy differences -4 and 5; the reference's 1 and -2: sorted (-4, 5) against (-2, 1)
    paired = OBJECTIVES.build("aot", {"beta": 1.0}).loss(rows)
    assert paired.tolist() == pytest.approx([logistic(-2.0), logistic(4.0)])
    # log-ratios: better -4 and 2, worse 1 and -5: sorted (-4, 2) against (-5, 1)
    unpaired = OBJECTIVES.build("aot", {"beta": 1.0, "unpaired": True}).loss(rows)
    assert unpaired.tolist() == pytest.approx([logistic(1.0), logistic(1.0)])


def test_log_odds_are_exact_at_both_ends() -> None:
    from luthier.objectives.reference_free import log_odds

    logp = torch.tensor([-1e-3, -0.5, -LOG2, -1.0, -50.0], dtype=torch.float32)
    expected = [x - math.log(-math.expm1(x)) for x in logp.double().tolist()]
    assert log_odds(logp).tolist() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_rewards_are_in_the_objectives_own_terms() -> None:
    rows = pair(*APART)
    for name, keys, expected in (
        ("dpo", {"beta": 0.5}, [0.75, -0.25]),
        ("dpo", {"reference_free": True}, [-0.3, -0.3]),  # though the rows hold a reference, as beside another term
        ("ipo", {}, [0.075, -0.05]),
        ("ipo", {"sum": True}, [0.15, -0.05]),
        ("simpo", {}, [-3.0, -6.0]),
        ("cpo", {}, [-0.3, -0.3]),
        ("orpo", {}, [-0.15, -0.3]),
    ):
        rewards = OBJECTIVES.build(name, keys).implicit_rewards(rows)
        assert rewards.tolist() == pytest.approx(expected), (name, keys)


def test_keys_that_make_no_sense_are_named() -> None:
    with pytest.raises(LuthierError, match="infinite loss"):
        OBJECTIVES.build("exo", {"label_smoothing": 0.0})
    with pytest.raises(LuthierError, match="robust"):
        OBJECTIVES.build("dpo", {"robust": True})
    for name, keys in (
        ("dpo", {"beta": 0}),
        ("dpo", {"label_smoothing": 0.5}),
        ("simpo", {"gamma": -1}),
        ("dpo", {"beta": True}),
    ):
        with pytest.raises(LuthierError, match=next(iter(keys))):
            OBJECTIVES.build(name, keys)
    assert not OBJECTIVES.build("dpo", {"reference_free": True}).needs.reference
    assert OBJECTIVES.build("dpo").needs.reference
