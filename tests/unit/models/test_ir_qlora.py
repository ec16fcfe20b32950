"""IR-QLoRA: calibrated rounding, and LoRA with an elastic connection."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

pytest.importorskip("bitsandbytes")
from bitsandbytes import functional

from luthier.errors import LuthierError
from luthier.models import saving
from luthier.models.adapters.own.elastic import Elastic, groups
from luthier.models.loading import load
from luthier.models.quantizers.calibrated import entropy, packed, rounded, shifts, unpacked
from luthier.recipe import Model, Plugin
from luthier.run import Run

NF4, IDS = Plugin(name="nf4"), torch.arange(20)[None]


def blocks(seed: int = 0) -> Tensor:
    return torch.randn(512, 64, generator=torch.Generator().manual_seed(seed)) * 0.02


def counted(blocks_NB: Tensor, tau_N: Tensor) -> Tensor:
    """Bits per code, counted in what bitsandbytes writes."""
    codes, _ = rounded(blocks_NB, tau_N, double=False)
    nibbles = torch.stack([codes.flatten() >> 4, codes.flatten() & 15], 1).view(len(blocks_NB), 64)
    share = torch.nn.functional.one_hot(nibbles.long(), 16).sum(1) / 64
    return -(torch.xlogy(share, share)).sum(1) / torch.log(torch.tensor(2.0))


def test_the_shift_found_loses_least() -> None:
    weights = blocks()
    tau = shifts(weights, 0.1, 51)
    median = weights.median(1).values
    ordered = weights.sort(1).values
    found, at_median = (entropy(ordered, t) for t in (tau, median))
    assert (found >= at_median).all() and (found <= 4).all()
    # as measured with the authors' code on normal weights
    assert [float(x.mean()) for x in (at_median, found)] == pytest.approx([3.69, 3.78], abs=0.02)
    assert torch.allclose(entropy(ordered, tau), counted(weights, tau), atol=1e-4)


def test_a_constant_block_comes_back() -> None:
    weights = torch.full((4, 64), 0.25)
    tau = unpacked(*packed(shifts(weights, 0.1, 3)))
    codes, state = rounded(weights, tau, double=False)
    assert torch.allclose(functional.dequantize_4bit(codes, state) + tau[:, None], weights, atol=2e-3)


def test_without_a_shift_it_is_plain_nf4() -> None:
    weights = blocks(1).view(64, 512)
    codes, state = rounded(weights, torch.zeros(512), double=True)
    theirs, their_state = functional.quantize_4bit(weights, blocksize=64, compress_statistics=True, quant_type="nf4")
    assert torch.equal(codes, theirs) and torch.equal(state.absmax, their_state.absmax)


@pytest.mark.parametrize(("r", "inputs", "outputs"), [(8, 64, 32), (6, 64, 128), (16, 64, 48)])
def test_the_shortcuts_are_matrices(r: int, inputs: int, outputs: int) -> None:
    part = Elastic(inputs, outputs, r)
    torch.nn.init.normal_(part.up)
    x = torch.randn(5, inputs)
    assert torch.equal(part(x), x @ part.down.T @ part.up.T), "beta = 0: plain LoRA"
    part.beta.data = torch.tensor([0.7, -0.4])
    down, up = part.matrices()
    assert torch.allclose(part(x), x @ down.T @ up.T)
    if inputs % r == 0 and outputs % r == 0:
        z = x @ part.down.T + 0.7 * x.view(5, r, -1).mean(-1)
        by_hand = z @ part.up.T - 0.4 * z.repeat_interleave(outputs // r, -1)
        assert torch.allclose(part(x), by_hand, atol=1e-5)
    assert groups(r, inputs).sum() > 0


@pytest.fixture
def base(tmp_path: Path) -> Model:
    return tiny.folder(tmp_path / "base", **tiny.WHOLE_BLOCKS)


def test_trained_saved_opened_and_merged(base: Model, tmp_path: Path) -> None:
    policy = load.load(base, [Plugin(name="ir_qlora", args={"r": 4, "steps": 5})], device="cpu", quantize=NF4)
    plain = load.load(base, train=False, device="cpu")
    few = load.load(base, train=False, device="cpu", quantize=NF4)
    with torch.no_grad():
        first = policy.module(IDS).logits
        near, far = ((m.module(IDS).logits - plain.module(IDS).logits).abs().mean() for m in (policy, few))
        assert 0 < near < 1.5 * far, "a rounded base, and no worse a one"
        with policy.attached.off():
            assert torch.allclose(policy.module(IDS).logits, first, atol=1e-5), "B = 0: nothing is learnt yet"
    with pytest.raises(LuthierError, match="switched off, it is not the base"), policy.adapter_off():
        pass
    torch.manual_seed(3)
    for _, weight in policy.trainable():
        weight.data.normal_(0, 0.05)
    logits = policy.module(IDS).logits
    logits.sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for _, weight in policy.trainable())
    run = Run(tmp_path / "run")
    saving.save(policy, run)
    again = load.open_run(run, device="cpu")
    with torch.no_grad():
        assert torch.allclose(again.module(IDS).logits, logits, atol=1e-5)
    saving.merge(policy, tmp_path / "merged")
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="auto")
    with torch.no_grad():
        assert torch.allclose(written(IDS).logits, logits, atol=1e-3)


def test_int8_is_refused(base: Model) -> None:
    with pytest.raises(LuthierError, match="cannot train on a base in int8, only in nf4"):
        load.load(base, [Plugin(name="ir_qlora", args={})], device="cpu", quantize=Plugin(name="int8"))
