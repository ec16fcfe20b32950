"""The chunked head against the plain log-softmax, in blocks small enough to be many."""

from __future__ import annotations

import pytest
import torch

from luthier.forward import head as head_module
from luthier.forward.head import Head, readouts


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_module, "CHUNK", 4)
    monkeypatch.setattr(head_module, "BLOCK", 7)


@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize(("bias", "scale", "softcap"), [(False, 1.0, 0.0), (True, 1.0, 0.0), (False, 0.5, 3.0)])
def test_values_and_gradients_are_those_of_the_whole_softmax(
    trains: bool, bias: bool, scale: float, softcap: float
) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(11, 5, dtype=torch.float64).float().requires_grad_()
    weight = torch.randn(30, 5).requires_grad_(trains)
    bias_V = torch.randn(30).requires_grad_(trains) if bias else None
    target = torch.randint(0, 30, (11,))
    inputs = [hidden, *([weight] if trains else []), *([bias_V] if trains and bias else [])]
    head = Head(weight, bias_V, scale, softcap)

    found = readouts(hidden, target, head, ("logp", "mean_logp"))
    logp, mean = found["logp"], found["mean_logp"]
    full = torch.log_softmax(head.logits(hidden), -1)
    assert torch.allclose(logp, full[torch.arange(11), target], atol=1e-5)
    assert torch.allclose(mean, full.mean(-1), atol=1e-5)

    outer = torch.randn(11)
    found = torch.autograd.grad((logp * outer).sum() + (mean * outer.roll(1)).sum(), inputs)
    wanted = (full[torch.arange(11), target] * outer).sum() + (full.mean(-1) * outer.roll(1)).sum()
    for mine, theirs in zip(found, torch.autograd.grad(wanted, inputs), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)


def test_a_uniform_model_scores_minus_log_v() -> None:
    target, head = torch.tensor([0, 5, 9]), Head(torch.zeros(10, 4))
    found = readouts(torch.randn(3, 4), target, head, ("logp", "mean_logp"))
    logp, mean = found["logp"], found["mean_logp"]
    assert logp.tolist() == pytest.approx([-(torch.tensor(10.0).log().item())] * 3, rel=1e-6)
    assert mean.tolist() == pytest.approx(logp.tolist(), rel=1e-6)


def test_a_certain_token_in_bf16_is_never_more_than_certain() -> None:
    torch.manual_seed(0)
    weight = torch.randn(30, 64).bfloat16()
    target = torch.arange(30)
    logp = readouts(3 * weight[target], target, Head(weight))["logp"]
    assert logp.max() <= 0
    assert logp.mean() > -1e-3


def test_no_scored_token() -> None:
    hidden = torch.randn(0, 4, requires_grad=True)
    for head in (Head(torch.randn(10, 4)), Head(torch.randn(10, 4, requires_grad=True))):
        logp = readouts(hidden, torch.zeros(0, dtype=torch.long), head)["logp"]
        assert logp.shape == (0,)
        logp.sum().backward()
