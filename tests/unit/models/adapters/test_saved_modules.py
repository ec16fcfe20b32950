"""Modules that train whole beside an adapter: saved and reopened equal, whatever is converted on saving and tied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from beside_a_tiny_model import rows

from luthier.errors import LuthierError
from luthier.models import Beginning, load, open_run, saving
from luthier.recipe.schema import Model, Plugin
from luthier.run import Run

IDS = torch.arange(3, 30)[None]
SAMPLE = rows(*[(10, 10)] * 6)
WAYS: dict[str, dict[str, Any]] = {
    "lora": {}, "dora": {}, "pissa": {}, "olora": {}, "corda": {}, "lora_ga": {}, "eva": {"rho": 1.0}, "loftq": {},
}  # fmt: skip


def logits(module: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = module.eval()(input_ids=IDS).logits
    return found


def trained(base: Model, name: str, keys: dict[str, Any]) -> Any:
    quantize = Plugin(name="nf4") if name == "loftq" else None
    plugins = [Plugin(name=name, args=keys)]
    policy = load(base, plugins, device="cpu", beginning=Beginning(sample=SAMPLE), quantize=quantize)
    torch.manual_seed(0)
    for _, weight in policy.trainable():
        weight.data.add_(torch.randn_like(weight) * 0.05)
    return policy


def reopened_equal(policy: Any, folder: Path) -> None:
    expected = logits(policy.module)
    run = Run(folder / "run")
    saving.save(policy, run)
    assert torch.allclose(logits(open_run(run, device="cpu").module), expected, atol=1e-4)
    assert torch.allclose(logits(open_run(run, device="cpu", merged=True).module), expected, atol=1e-4)
    saving.merge(policy, folder / "merged", torch.float32)
    merged = load(Model(name=str(folder / "merged"), dtype="fp32"), train=False, device="cpu")
    assert torch.allclose(logits(merged.module), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("save", "tied"), [(["embed_tokens"], True), (["lm_head", "norm"], True), (["embed_tokens", "lm_head"], False)]
)
@pytest.mark.parametrize("name", WAYS)
def test_saved_whole_and_reopened_equal(tmp_path: Path, name: str, save: list[str], tied: bool) -> None:
    if name == "loftq":
        pytest.importorskip("bitsandbytes")
    base = tiny.folder(tmp_path / "base", **tiny.WHOLE_BLOCKS, tie_word_embeddings=tied)
    reopened_equal(trained(base, name, {"r": 2, "save_modules": save, **WAYS[name]}), tmp_path)


@pytest.mark.parametrize(
    "keys",
    [
        {"init_lora_weights": "pissa", "target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
        {"init_lora_weights": "pissa", "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj", "lm_head", "embed_tokens"]},
        {"target_modules": ["q_proj"], "trainable_token_indices": [3, 7]},
    ],
)
def test_pefts_own_keys_too(tmp_path: Path, keys: dict[str, Any]) -> None:
    base = tiny.folder(tmp_path / "base", **tiny.WHOLE_BLOCKS, tie_word_embeddings=True)
    reopened_equal(trained(base, "peft", {"peft_type": "LORA", "r": 2, **keys}), tmp_path)


@pytest.mark.parametrize("name", ["lora", "dora", "pissa"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("save", [["wte"], ["lm_head", "c_proj"]])
def test_transposed_layers_beside_them(tmp_path: Path, name: str, save: list[str], tied: bool) -> None:
    from transformers import AutoModelForCausalLM

    module = AutoModelForCausalLM.from_config(tiny.config("gpt2", tie_word_embeddings=tied))
    keys = {"r": 2, "targets": ["c_attn"], "save_modules": save}
    reopened_equal(trained(tiny.folder(tmp_path / "base", module), name, keys), tmp_path)


def test_pissa_beside_an_update_of_the_embeddings(tmp_path: Path) -> None:
    base = tiny.folder(tmp_path / "base", **tiny.WHOLE_BLOCKS, tie_word_embeddings=False)
    keys = {"peft_type": "LORA", "r": 2, "init_lora_weights": "pissa", "target_modules": ["q_proj", "embed_tokens"]}
    reopened_equal(trained(base, "peft", keys), tmp_path)


def test_nothing_is_taken_out_of_a_matrix_that_is_two(tmp_path: Path) -> None:
    base = tiny.folder(tmp_path / "base", tie_word_embeddings=True)
    keys = {"peft_type": "LORA", "r": 2, "init_lora_weights": "pissa", "target_modules": ["q_proj", "lm_head"]}
    with pytest.raises(LuthierError, match="one matrix with the embeddings"):
        trained(base, "peft", keys)
