"""Generalised distillation: what it reads, its ends, and the divergence between them on whole distributions.

Shapes: S = tokens, V = vocabulary.
"""

from __future__ import annotations

import math

import pytest
import torch
from tests.unit.objectives.rolled import rollout
from torch import Tensor

from luthier.forward.divergence import of
from luthier.forward.head import Head, Teacher, readouts
from luthier.objectives import OBJECTIVES
from luthier.objectives.shown import means
from luthier.types import jsd


def distributions(seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    model, teacher = (3 * torch.randn(40, 12, dtype=torch.float64, generator=draw) for _ in range(2))
    return model.log_softmax(1), teacher.log_softmax(1)


@pytest.mark.parametrize(("beta", "readout"), [(0.0, "kl"), (1.0, "reverse_kl"), (0.5, "jsd 0.5"), (0.25, "jsd 0.25")])
def test_beta_says_what_is_read(beta: float, readout: str) -> None:
    objective = OBJECTIVES.build("gkd", {"beta": beta})
    assert objective.needs.readouts == (readout,) and objective.needs.roles == ("teacher",)
    rows = rollout([[-1.0, -2.0], [-3.0]])
    divergence_S = torch.tensor([0.1, 0.4, 0.7], dtype=torch.float64)
    rows.readouts[readout] = divergence_S  # type: ignore[index]
    rows.weight_S[1] = 0.5
    assert objective.loss(rows).tolist() == pytest.approx([0.1, 0.2, 0.7])
    shown = {key: float(value) for key, value in objective.shown(rows).items()}
    assert means(shown) == {"teacher_divergence": pytest.approx(0.4)}


@pytest.mark.parametrize(("own", "drawn"), [(0.0, False), (0.3, True), (1.0, True)])
def test_the_share_of_own_responses_decides_whether_any_are_drawn(own: float, drawn: bool) -> None:
    needs = OBJECTIVES.build("gkd", {"own": own}).needs
    assert needs.rollouts is drawn and needs.own == own


def test_equal_models_are_0_apart() -> None:
    model, _ = distributions()
    for beta in (0.1, 0.5, 0.9):
        torch.testing.assert_close(of(model, model, beta), torch.zeros(40, dtype=torch.float64), atol=1e-14, rtol=0)


def test_the_middle_is_symmetric_and_log_2_at_most() -> None:
    model, teacher = distributions()
    one, other = of(model, teacher, 0.5), of(teacher, model, 0.5)
    torch.testing.assert_close(one, other)
    assert (one > 0).all() and (one < math.log(2)).all()
    apart = torch.tensor([[0.0, -80.0]], dtype=torch.float64).log_softmax(1)
    assert of(apart, apart.flip(1), 0.5).item() == pytest.approx(math.log(2))


def test_near_its_ends_it_is_beta_times_the_divergences_that_stand_for_them() -> None:
    """Why 0 and 1 are another readout each: the divergence itself goes to 0 there."""
    model, teacher = distributions()
    forward, reverse = (teacher.exp() * (teacher - model)).sum(1), (model.exp() * (model - teacher)).sum(1)
    torch.testing.assert_close(of(model, teacher, 1e-8) / 1e-8, forward, rtol=1e-3, atol=0)
    torch.testing.assert_close(of(model, teacher, 1 - 1e-8) / 1e-8, reverse, rtol=1e-3, atol=0)


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_its_gradient_leads_to_the_teacher(beta: float) -> None:
    """A student of one token's logits, by plain gradient descent."""
    draw = torch.Generator().manual_seed(2)
    teacher = Teacher(torch.randn(1, 6, generator=draw), Head(torch.randn(6, 6, generator=draw)))
    head, hidden = Head(torch.eye(6)), torch.zeros(1, 6).requires_grad_()
    values = []
    for _ in range(300):
        value = readouts(hidden, torch.tensor([0]), head, (jsd(beta),), teacher)[jsd(beta)].sum()
        (slope,) = torch.autograd.grad(value, hidden)
        hidden = (hidden - 4.0 * slope).detach().requires_grad_()
        values.append(value.item())
    assert values[0] > 0.03 and values[-1] < 1e-3 * values[0]
