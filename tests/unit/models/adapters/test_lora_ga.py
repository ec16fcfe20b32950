"""LoRA-GA: the first step is the best step of rank 2r, and the model begins as the base."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny
import torch
from beside_a_tiny_model import logits, on, rows
from transformers import GPT2LMHeadModel

from luthier.errors import LuthierError
from luthier.models.adapters.kit import gradients as measured
from luthier.models.adapters.kit.gradients import gradients
from luthier.models.adapters.kit.targets import linear_layers

SAMPLE = rows((4, 8), (6, 3), (2, 10), (5, 5))
R = 3


def gpt2() -> Any:
    torch.manual_seed(0)
    return GPT2LMHeadModel(tiny.config("gpt2", max_position_embeddings=64))


def full_gradients(module: Any) -> dict[str, torch.Tensor]:
    """Of the summed loss of the sample, by plain backward, all rows at once in the loss."""
    module.eval()
    total: Any = 0
    for row in SAMPLE:
        ids = torch.from_numpy(row.ids[0].astype(np.int64))
        logp = module(input_ids=ids[None]).logits[0].log_softmax(-1)
        total = total - sum(logp[t - 1, ids[t]] for t in np.flatnonzero(row.weights[0]))
    total.backward()
    turned = isinstance(module, GPT2LMHeadModel)
    return {n: layer.weight.grad.T if turned else layer.weight.grad for n, layer in linear_layers(module).items()}


@pytest.mark.parametrize("build", [tiny.model, gpt2])
def test_measured_gradients_are_those_of_the_loss(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = full_gradients(build())
    module = build().train()
    module.transformer.wte.weight.requires_grad_(False) if build is gpt2 else None
    asked = [weight.requires_grad for weight in module.parameters()]
    for at_once in (10**9, 3000):  # one pass, and several
        monkeypatch.setattr(measured, "AT_ONCE", at_once)
        found = dict(gradients(module, linear_layers(module), SAMPLE))
        assert found.keys() == expected.keys()
        for name, gradient in found.items():
            assert torch.allclose(gradient, expected[name], atol=1e-5 * float(expected[name].abs().max()) + 1e-7), name
    assert module.training and asked == [weight.requires_grad for weight in module.parameters()]
    assert all(weight.grad is None for weight in module.parameters())


@pytest.mark.parametrize("build", [tiny.model, gpt2])
@pytest.mark.parametrize("niter", [0, 16])
def test_first_step_is_the_truncated_svd_of_the_gradient(build: Any, niter: int) -> None:
    expected = full_gradients(build())
    module, _ = on(build(), "lora_ga", r=R, rows=4, niter=niter, gamma=16, sample=SAMPLE)
    layers = {name: layer for name, layer in module.get_base_model().named_modules() if name in expected}
    assert layers.keys() == expected.keys() and layers
    for name, layer in layers.items():
        a, b = layer.lora_A["default"].weight.detach(), layer.lora_B["default"].weight.detach()
        gradient = expected[name]
        step = b @ b.T @ gradient + gradient @ a.T @ a
        u, s, vh = torch.linalg.svd(gradient, full_matrices=False)
        best = (u[:, : 2 * R] * s[: 2 * R]) @ vh[: 2 * R]
        cosine = float((step * best).sum() / step.norm() / best.norm())
        assert cosine == pytest.approx(1, abs=5e-5), name
        c = len(gradient) ** 0.25 / 4
        assert float(step.norm() / best.norm()) == pytest.approx(c**2, rel=1e-3)
        assert torch.allclose(a @ a.T, c**2 * torch.eye(R), atol=1e-4)


def test_a_real_step_of_gradient_descent_goes_where_full_fine_tuning_goes() -> None:
    expected = full_gradients(tiny.model())
    module, _ = on(tiny.model(), "lora_ga", r=R, rows=4, niter=0, sample=SAMPLE)
    module.eval()
    inner = module.get_base_model()
    before = {n: m.get_delta_weight("default") for n, m in inner.named_modules() if n in expected}
    assert before.keys() == expected.keys() and before
    full = sum(_loss(module, row) for row in SAMPLE)
    full.backward()
    with torch.no_grad():
        for weight in module.parameters():
            if weight.requires_grad:
                weight -= 1e-4 * weight.grad
    for name, first in before.items():
        change = inner.get_submodule(name).get_delta_weight("default") - first
        u, s, vh = torch.linalg.svd(-expected[name], full_matrices=False)
        best = (u[:, : 2 * R] * s[: 2 * R]) @ vh[: 2 * R]
        assert float((change * best).sum() / change.norm() / best.norm()) > 0.999, name


def _loss(module: Any, row: Any) -> Any:
    ids = torch.from_numpy(row.ids[0].astype(np.int64))
    logp = module(input_ids=ids[None]).logits[0].log_softmax(-1)
    return -sum(logp[t - 1, ids[t]] for t in np.flatnonzero(row.weights[0]))


@pytest.mark.parametrize("build", [tiny.model, gpt2])
def test_the_offset_is_taken_out_of_the_base(build: Any) -> None:
    base = logits(build().eval())
    module, adapter = on(build().eval(), "lora_ga", r=R, rows=4, sample=SAMPLE)
    assert torch.allclose(logits(module.eval()), base, atol=5e-6)
    assert adapter.rewrites_base and not adapter.exact_start
    with module.disable_adapter():
        assert not torch.allclose(logits(module), base, atol=1e-3)


def test_too_high_a_rank_and_no_rows_are_refused() -> None:
    with pytest.raises(LuthierError, match=r"2r = 18 directions of each matrix, but .*k_proj .* has only 16"):
        on(tiny.model(), "lora_ga", r=9, rows=4, sample=SAMPLE)
    on(tiny.model(), "lora_ga", r=9, rows=4, ranks={"k_proj": 8, "v_proj": 8}, sample=SAMPLE)
    with pytest.raises(LuthierError, match="none here"):
        on(tiny.model(), "lora_ga", r=4)
