"""Adapters between Luthier's command line and plain PEFT, there and back, and several of them made into one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from bench import Bench
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from luthier.cli import main
from luthier.models import open_run
from luthier.run import Run

IDS = torch.arange(3, 60)[None]
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def plain(folder: Path | str) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def logits(module: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = module(IDS).logits
    return found.clone()


def base(bench: Bench) -> str:
    return str(bench.content["model"]["name"])


@pytest.mark.parametrize("name", ["lora", "dora", "pissa", "corda"])
def test_what_the_command_line_trains_is_peft_s_on_the_untouched_base(bench: Bench, name: str) -> None:
    keys = {"rows": 12} if name == "corda" else {}
    assert bench.here("train", adapt={name: {"r": 4, **keys}}) == 0
    before = logits(plain(base(bench)))
    theirs = PeftModel.from_pretrained(plain(base(bench)), bench.run / "adapter").eval()
    ours = logits(open_run(Run(bench.run)).module)
    assert torch.allclose(logits(theirs), ours, **CLOSE)
    assert not torch.allclose(ours, before, atol=1e-2)
    with theirs.disable_adapter():
        assert torch.equal(logits(theirs), before)
    config = json.loads((bench.run / "adapter/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == base(bench) and config["init_lora_weights"] is True
    assert config["r"] == (8 if name in ("pissa", "corda") else 4)


def test_what_plain_peft_has_trained_is_a_model_to_train_on(bench: Bench) -> None:
    theirs = get_peft_model(plain(base(bench)), LoraConfig(r=3, lora_alpha=9, target_modules=["q_proj", "up_proj"]))
    torch.manual_seed(0)
    for name, weight in theirs.named_parameters():
        if "lora_" in name:
            weight.data.normal_(0, 0.3)
    theirs.save_pretrained(str(bench.folder / "theirs"))
    expected = logits(theirs.eval())
    assert not torch.allclose(expected, logits(plain(base(bench))), atol=1e-2)
    bench.content["model"] = {"name": "theirs", "dtype": "fp32"}
    assert bench.here("train") == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_CACHE", str(bench.cache))
        patch.chdir(bench.folder)
        trained = open_run(Run(bench.run))
    with trained.adapter_off():
        assert torch.allclose(logits(trained.module), expected, **CLOSE)
    assert not torch.allclose(logits(trained.module), expected, atol=1e-3)


def matrices(module: Any) -> dict[str, torch.Tensor]:
    found = {name: weight for name, weight in module.state_dict().items() if name.endswith("_proj.weight")}
    assert len(found) == 14
    return found


def update(bench: Bench, run: str) -> dict[str, torch.Tensor]:
    """What an adapter adds to each matrix, by plain PEFT."""
    start = matrices(plain(base(bench)))
    merged = PeftModel.from_pretrained(plain(base(bench)), bench.folder / run / "adapter").merge_and_unload()
    return {name: weight - start[name] for name, weight in matrices(merged).items()}


def test_two_runs_are_combined_and_the_result_is_a_run_that_others_read(
    bench: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    assert bench.here("train", "output=a") == 0
    assert bench.here("train", "output=b", "seed=1", "adapt.lora.r=6") == 0
    start, a, b = matrices(plain(base(bench))), update(bench, "a"), update(bench, "b")
    found = {}
    for how in ("linear", "ties", "dare_linear"):
        combining = ("export", "--merge", "a:0.7", "b:0.3", "--how", how, "--folder", how)
        assert bench.inside(main, *combining) == 0
        assert bench.inside(main, "export", how, "--to", "merged") == 0
        whole = plain(bench.folder / how / "merged")
        theirs = PeftModel.from_pretrained(plain(base(bench)), bench.folder / how / "adapter").eval()
        assert torch.allclose(logits(theirs), logits(whole), **CLOSE)
        found[how] = matrices(whole)
    for name, weight in found["linear"].items():
        assert torch.allclose(weight, start[name] + 0.7 * a[name] + 0.3 * b[name], **CLOSE), name
        assert not torch.allclose(found["ties"][name], weight, atol=1e-3)
        assert not torch.allclose(found["dare_linear"][name], weight, atol=1e-3)
    capfd.readouterr()
    assert bench.inside(main, "export", "--merge", "a:0.7", "b", "--folder", "ab") == 1
    assert "how much of 'b'?" in capfd.readouterr().err
    assert not (bench.folder / "ab").exists()
