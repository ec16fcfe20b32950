"""Merging: into a base in few bits, and what it changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM

from luthier.errors import LuthierError
from luthier.models import merging, saving
from luthier.models.loading import load
from luthier.models.policy import Policy
from luthier.recipe import Model, Plugin
from luthier.run import Run
from luthier.types import Encoded

LORA = [Plugin(name="lora", args={"r": 4})]


@pytest.fixture
def base(tmp_path: Path) -> Model:
    return tiny.folder(tmp_path / "base", **tiny.WHOLE_BLOCKS)


def trained(base: Model, quantize: str | None, size: float = 0.05) -> Policy:
    plugin = None if quantize is None else Plugin(name=quantize)
    policy = load.load(base, LORA, device="cpu", quantize=plugin)
    torch.manual_seed(3)
    for _, weight in policy.trainable():
        weight.data.normal_(0, size)
    return policy


def rows(number: int = 3) -> list[Encoded]:
    found = []
    for seed in range(number):
        ids = np.random.default_rng(seed).integers(3, 65, 12).astype(np.int32)
        found.append(Encoded((ids,), (np.array([0] * 4 + [1] * 8, np.float32),)))
    return found


@pytest.mark.parametrize("quantize", ["nf4", "int8"])
def test_a_quantised_base_is_written_out_with_the_adapter_in_it(base: Model, quantize: str, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    policy = trained(base, quantize)
    saving.merge(policy, tmp_path / "merged")
    assert policy.quantized == quantize, "the policy itself stays as it is"
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="auto")
    assert written.dtype == torch.float32 and "quantization_config" not in written.config.to_dict()
    ids = torch.arange(20)[None]
    with torch.no_grad():
        policy.module.train()  # int8 rounds its inputs in evaluation only
        assert torch.allclose(written(ids).logits, policy.module(ids).logits, atol=1e-4)
        with policy.adapter_off():
            assert not torch.allclose(written(ids).logits, policy.module(ids).logits, atol=0.1)


def test_a_run_opens_with_the_bits_it_was_trained_in(base: Model, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    policy, run = trained(base, "nf4"), Run(tmp_path / "run")
    saving.save(policy, run)
    ids = torch.arange(20)[None]
    again = load.open_run(run, device="cpu")
    assert again.quantized == "nf4"
    with torch.no_grad():
        assert torch.equal(again.module(ids).logits, policy.module(ids).logits)
        merged = load.open_run(run, device="cpu", merged=True)
        assert merged.quantized is None and not merged.has_adapter
        assert torch.allclose(merged.module(ids).logits, policy.module(ids).logits, atol=1e-4)


def test_drift_is_the_mean_divergence_on_scored_tokens(base: Model, tmp_path: Path) -> None:
    policy = trained(base, None)
    saving.merge(policy, tmp_path / "exact")
    exact = merging.drift(policy, tmp_path / "exact", rows())
    assert exact is not None and exact.kl < 1e-6 and exact.largest < 1e-3
    assert (exact.rows, exact.tokens) == (3, 24)
    saving.merge(policy, tmp_path / "rounded", torch.bfloat16)
    rounded = merging.drift(policy, tmp_path / "rounded", rows())
    assert rounded is not None and rounded.kl > 10 * exact.kl
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "rounded", dtype="auto")
    by_hand = []
    with torch.no_grad():
        for row in rows():
            ids = torch.as_tensor(row.ids[0], dtype=torch.long)[None]
            p, q = (m(ids).logits.float().log_softmax(-1)[0, 3:11] for m in (policy.module.eval(), written))
            by_hand.append((p.exp() * (p - q)).sum(-1))
    assert rounded.kl == pytest.approx(float(torch.cat(by_hand).mean()), rel=1e-3)
    merging.refuse_beyond(rounded, rounded.kl, tmp_path)
    with pytest.raises(LuthierError, match="differs from the trained one"):
        merging.refuse_beyond(rounded, rounded.kl / 2, tmp_path)


def test_no_scored_token_no_drift(base: Model, tmp_path: Path) -> None:
    policy = trained(base, None)
    saving.merge(policy, tmp_path / "merged")
    none = [Encoded((np.arange(5, dtype=np.int32),), (np.zeros(5, np.float32),))]
    assert merging.drift(policy, tmp_path / "merged", none) is None
