"""A base in few bits by the command line: trained, killed, continued, written out whole, read by plain transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bench import Bench

from luthier.cli import main
from luthier.models import open_run
from luthier.models.merging import Drift
from luthier.run import Run

SETTINGS = ("train.epochs=20", "train.save_every=5")


@pytest.fixture
def few_bits(bench: Bench, another_model: Callable[..., Path]) -> Bench:
    pytest.importorskip("bitsandbytes")
    bench.content["model"]["name"] = str(another_model("wide", hidden=64))  # rows of whole blocks of 64 weights
    return bench


def logps(module: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = module.eval()(torch.arange(3, 60)[None]).logits.log_softmax(-1)
    return found


def divergence(one: torch.Tensor, other: torch.Tensor) -> float:
    """Mean KL(one || other) in nats a token."""
    return float((one.exp() * (one - other)).sum(-1).mean())


@pytest.mark.slow
@pytest.mark.parametrize("bits", ["nf4", "int8"])
def test_a_killed_run_goes_on_is_merged_and_read_elsewhere(
    few_bits: Bench, bits: str, capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM

    bench = few_bits
    assert bench.here("train", *SETTINGS, "output=whole", quantize=bits) == 0
    bench.killed("train", *SETTINGS, quantize=bits)
    assert not (bench.run / "adapter").exists()
    assert bench.here("train", *SETTINGS, quantize=bits) == 0
    weights = "adapter/adapter_model.safetensors"
    assert (bench.run / weights).read_bytes() == (bench.folder / "whole" / weights).read_bytes()

    capfd.readouterr()
    assert bench.inside(main, "export", "run", "--to", "merged") == 0
    drift = Drift(**json.loads((bench.run / "summary.json").read_text())["drift"]["merged"])
    assert str(drift) in " ".join(capfd.readouterr().err.split())
    assert 0 <= drift.kl < 0.05 and drift.rows == 12

    config = json.loads((bench.run / "merged/config.json").read_text())
    assert "quantization_config" not in config and config["dtype"] == "float32"
    written, trained = AutoModelForCausalLM.from_pretrained(bench.run / "merged"), open_run(Run(bench.run))
    assert trained.quantized == bits
    with trained.adapter_off():
        base = logps(trained.module)
    assert divergence(logps(trained.module), logps(written)) < 0.01 * divergence(base, logps(written))


def test_a_merge_that_drifts_beyond_the_bound_is_refused_and_leaves_nothing(
    few_bits: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    assert few_bits.here("train", quantize="int8") == 0
    capfd.readouterr()
    assert few_bits.inside(main, "export", "run", "--to", "merged", "dtype=bf16", "drift=1e-12") == 1
    assert "differs from the trained one" in " ".join(capfd.readouterr().err.split())
    assert not (few_bits.run / "merged").exists()
