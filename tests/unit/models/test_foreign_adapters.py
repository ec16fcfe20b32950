"""An adapter that plain PEFT has written, named as a model: what PEFT computes, or a refusal in words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import tiny
import tiny_tokenizers
import torch
from peft import AutoPeftModelForCausalLM, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM

from luthier.errors import LuthierError
from luthier.models import fetch, load
from luthier.models.loading import load as loading
from luthier.models.loading.foreign import CONFIG, WEIGHTS
from luthier.recipe.schema import Model

IDS = torch.tensor([[3, 40, 50, 60, 7, 8]])
QV, HEAD, BOTH = ["q_proj", "v_proj"], ["q_proj", "lm_head"], ["q_proj", "lm_head", "embed_tokens"]
LORA: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": QV},
    "head saved": {"target_modules": QV, "modules_to_save": ["lm_head"]},
    "embeddings saved": {"target_modules": QV, "modules_to_save": ["embed_tokens"]},
    "both saved": {"target_modules": QV, "modules_to_save": ["embed_tokens", "lm_head"]},
    "kept tied": {"target_modules": QV, "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "a block saved": {"target_modules": QV, "modules_to_save": ["mlp"]},
    "a saved block with layers": {"target_modules": [*QV, "up_proj"], "modules_to_save": ["mlp", "norm"]},
    "on the head": {"target_modules": HEAD},
    "on the embeddings": {"target_modules": ["q_proj", "embed_tokens"]},
    "on both": {"target_modules": BOTH},
    "on both, kept tied": {"target_modules": BOTH, "ensure_weight_tying": True},
    "tokens": {"target_modules": QV, "trainable_token_indices": [3, 7, 50]},
    "tokens of the head": {"target_modules": QV, "trainable_token_indices": {"lm_head": [3, 7]}},
    "tokens and the head": {"target_modules": HEAD, "trainable_token_indices": [3, 7]},
    "patterns": {"target_modules": HEAD, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"lm_head": 1}},
    "rslora": {"target_modules": BOTH, "use_rslora": True},
    "dora": {"target_modules": BOTH, "use_dora": True},
    "biases": {"target_modules": BOTH, "bias": "all"},
    "biases of its own": {"target_modules": HEAD, "lora_bias": True},
    "pissa": {"target_modules": QV, "init_lora_weights": "pissa"},
    "olora": {"target_modules": QV, "init_lora_weights": "olora"},
    "pissa on the head": {"target_modules": HEAD, "init_lora_weights": "pissa"},
    "layers twice": {"target_modules": QV, "layer_replication": [[0, 2], [1, 2]]},
    "parameters": {"target_modules": [], "target_parameters": ["q_proj.weight"]},
    "after some tokens": {"target_modules": QV, "alora_invocation_tokens": [7]},
}
OTHER = {
    "IA3": {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    "LOHA": {"target_modules": HEAD, "r": 2},
    "LOKR": {"target_modules": QV, "r": 2},
    "OFT": {"target_modules": HEAD, "oft_block_size": 4, "r": 0},
    "BOFT": {"target_modules": QV, "boft_block_size": 4},
    "VERA": {"target_modules": ["q_proj"], "r": 2},
    "HRA": {"target_modules": QV, "r": 2},
    "LN_TUNING": {"target_modules": ["input_layernorm", "norm"]},
    "ADALORA": {"target_modules": HEAD, "init_r": 3, "total_step": 9},
    "FOURIERFT": {"target_modules": HEAD, "n_frequency": 20},
    "TRAINABLE_TOKENS": {"token_indices": [3, 7]},
    "VBLORA": {"target_modules": QV, "num_vectors": 8, "vector_length": 8},
    "PROMPT_TUNING": {"num_virtual_tokens": 2},
    "PREFIX_TUNING": {"num_virtual_tokens": 2},
}
REFUSED = {"biases of its own", "after some tokens", "PROMPT_TUNING", "PREFIX_TUNING"}
"""What is no change of the base's weights, or cannot be merged by PEFT."""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))


def written(folder: Path, base: Model, config: Any) -> Path:
    """What PEFT writes of a tuner whose weights have moved."""
    torch.manual_seed(1)
    module: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(base.name), config)
    for weight in module.parameters():
        if weight.requires_grad:
            weight.data.add_(torch.randn_like(weight) * 0.05)
    module.save_pretrained(folder)
    return folder


def lora(**keys: Any) -> Any:
    return peft.LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **keys)


def by_peft(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = AutoPeftModelForCausalLM.from_pretrained(folder).eval()(input_ids=IDS).logits
    return logits


def as_a_model(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        policy = load(Model(name=str(folder), dtype="fp32"), train=False, device="cpu")
        logits: torch.Tensor = policy.module(input_ids=IDS).logits
    return logits


def same_or_refused(folder: Path, name: str) -> None:
    if name in REFUSED:
        with pytest.raises(LuthierError, match=r"cannot be a model to train on: .{20,}"):
            as_a_model(folder)
    else:
        assert torch.allclose(as_a_model(folder), by_peft(folder), atol=2e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", LORA)
def test_it_is_the_model_that_peft_computes(tmp_path: Path, name: str, tied: bool) -> None:
    base = tiny.folder(tmp_path / "base", tie_word_embeddings=tied)
    folder = written(tmp_path / "adapter", base, lora(**LORA[name]))
    same_or_refused(folder, name)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", OTHER)
def test_so_is_every_other_tuner(tmp_path: Path, name: str) -> None:
    base = tiny.folder(tmp_path / "base", tie_word_embeddings=True)
    config = peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING[name](task_type="CAUSAL_LM", **OTHER[name])
    same_or_refused(written(tmp_path / "adapter", base, config), name)


@pytest.mark.filterwarnings("ignore")
def test_parameters_of_experts_are_merged_one_in_the_other(tmp_path: Path) -> None:
    torch.manual_seed(0)
    keys = {**tiny.SIZES, "num_local_experts": 4, "num_experts_per_tok": 2}
    base = tiny.folder(tmp_path / "base", MixtralForCausalLM(MixtralConfig(**keys)))
    both = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    folder = written(tmp_path / "adapter", base, lora(target_modules=["q_proj"], target_parameters=both))
    same_or_refused(folder, "experts")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["head saved", "on the head", "on both", "on both, kept tied", "kept tied", "tokens"])
def test_merged_in_memory_it_is_the_same(tmp_path: Path, name: str) -> None:
    base = tiny.folder(tmp_path / "base", tie_word_embeddings=True)
    folder = written(tmp_path / "adapter", base, lora(**LORA[name]))
    policy = loading.open_adapter(folder, merged=True, device="cpu")
    with torch.no_grad():
        assert torch.allclose(policy.module.eval()(input_ids=IDS).logits, by_peft(folder), atol=2e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "one"), [("plain", True), ("kept tied", True), ("tokens", True), ("on the head", False)]
)
def test_embeddings_and_output_are_two_matrices_only_where_they_differ(tmp_path: Path, name: str, one: bool) -> None:
    base = tiny.folder(tmp_path / "base", tie_word_embeddings=True)
    folder = written(tmp_path / "adapter", base, lora(**LORA[name]))
    made = fetch(Model(name=str(folder), dtype="fp32")).folder
    assert json.loads((made / "config.json").read_text())["tie_word_embeddings"] is one
    assert ("lm_head.weight" in load_file(made / "model.safetensors")) is not one


# what lies in the folder
@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return written(tmp_path / "adapter", tiny.folder(tmp_path / "base"), lora(target_modules=QV))


def edit(path: Path, **keys: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


def test_a_config_of_a_model_beside_it_does_not_make_it_one(adapter: Path, tmp_path: Path) -> None:
    expected = by_peft(adapter)
    shutil.copy(tmp_path / "base" / "config.json", adapter)
    assert torch.allclose(as_a_model(adapter), expected, atol=2e-5)
    shutil.copy(tmp_path / "base" / "model.safetensors", adapter)
    with pytest.raises(LuthierError, match="a whole model and an adapter"):
        as_a_model(adapter)


def test_a_base_that_changed_in_place_is_another_model(adapter: Path, tmp_path: Path) -> None:
    first = as_a_model(adapter)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    with torch.no_grad():
        base.model.norm.weight.mul_(0.5)
    base.save_pretrained(tmp_path / "base")
    second = as_a_model(adapter)
    assert torch.allclose(second, by_peft(adapter), atol=2e-5) and not torch.allclose(first, second, atol=1e-2)
    edit(tmp_path / "base" / "config.json", rms_norm_eps=0.1)
    assert torch.allclose(as_a_model(adapter), by_peft(adapter), atol=2e-5)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"task_type": "SEQ_CLS"}, "another task than writing text"),
        ({"base_model_name_or_path": None}, "names no base"),
        ({"base_model_name_or_path": "nowhere/at-all"}, "cannot be opened"),
        ({"peft_type": None}, "of which kind"),
        ({"peft_type": "SPELL"}, "no tuner 'SPELL'"),
        ({"target_modules": ["no_such_layer"]}, "does not fit the base"),
        ({"spelt_by_a_newer_peft": 3}, "does not know its 'spelt_by_a_newer_peft'"),
        ({"modules_to_save": ["norm"]}, "does not fit the base"),
    ],
)
def test_a_configuration_that_cannot_be_followed(adapter: Path, keys: dict[str, Any], says: str) -> None:
    edit(adapter / CONFIG, **keys)
    with pytest.raises(LuthierError, match=says):
        as_a_model(adapter)


def test_weights_that_peft_would_pass_over_are_an_error(adapter: Path) -> None:
    tensors = load_file(adapter / WEIGHTS)
    save_file({**tensors, "base_model.model.score.weight": torch.zeros(2, 32)}, adapter / WEIGHTS)
    with pytest.raises(LuthierError, match=r"no place for base_model\.model\.score\.weight"):
        as_a_model(adapter)


def test_weights_that_are_cut_short_missing_or_pickled(adapter: Path) -> None:
    whole = (adapter / WEIGHTS).read_bytes()
    for size in (0, 4, 100, len(whole) - 50):
        (adapter / WEIGHTS).write_bytes(whole[:size])
        with pytest.raises(LuthierError, match="damaged or cut short"):
            as_a_model(adapter)
    (adapter / WEIGHTS).unlink()
    with pytest.raises(LuthierError, match="lacks its weights"):
        as_a_model(adapter)
    (adapter / "adapter_model.bin").touch()
    with pytest.raises(LuthierError, match="only as a pickle"):
        as_a_model(adapter)
    (adapter / CONFIG).write_text("{")
    with pytest.raises(LuthierError, match="no JSON"):
        as_a_model(adapter)


# the tokenizer that it brings
OWN = "{% for m in messages %}{{ m.role | upper }}: {{ m.content }} w1 {% endfor %}"


def test_its_own_tokenizer_and_template_are_used_and_told(adapter: Path, capfd: pytest.CaptureFixture[str]) -> None:
    own = tiny_tokenizers.words(tiny.VOCABULARY + 1)
    own.save_pretrained(adapter)
    as_a_model(adapter)
    assert "brings its own" not in capfd.readouterr().err, "it is the base's"
    own.chat_template = OWN
    own.save_pretrained(adapter)
    assert load(Model(name=str(adapter)), train=False).tokenizer.chat_template == OWN
    assert "brings its own chat template" in capfd.readouterr().err


def test_a_template_alone_goes_with_the_bases_tokenizer(adapter: Path) -> None:
    (adapter / "chat_template.jinja").write_text(OWN)
    assert load(Model(name=str(adapter)), train=False).tokenizer.chat_template == OWN


def test_other_tokens_than_the_bases_are_an_error(adapter: Path) -> None:
    own = tiny_tokenizers.words(tiny.VOCABULARY + 1)
    own.save_pretrained(adapter)
    content = json.loads((adapter / "tokenizer.json").read_text())
    words = content["model"]["vocab"]
    words["w7"], words["w9"] = words["w9"], words["w7"]
    (adapter / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(LuthierError, match=r"2 tokens differ, for instance 'w[79]' is [79]"):
        as_a_model(adapter)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tied", [True, False])
def test_new_tokens_come_with_their_rows_or_not_at_all(tmp_path: Path, tied: bool) -> None:
    base = tiny.folder(tmp_path / "base", tie_word_embeddings=tied)
    module: Any = AutoModelForCausalLM.from_pretrained(base.name)
    module.resize_token_embeddings(67, mean_resizing=False)
    module.save_pretrained(tmp_path / "larger")
    own = tiny_tokenizers.words(65)
    own.add_special_tokens({"additional_special_tokens": ["<a>", "<b>"]})
    torch.manual_seed(1)
    wrapped: Any = PeftModel(module, lora(target_modules=QV))
    wrapped.peft_config["default"].base_model_name_or_path = base.name
    wrapped.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    own.save_pretrained(tmp_path / "adapter")
    assert torch.allclose(as_a_model(tmp_path / "adapter"), by_peft(tmp_path / "adapter"), atol=2e-5)
    assert len(load(Model(name=str(tmp_path / "adapter")), train=False).tokenizer) == 67
    wrapped.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    with pytest.raises(LuthierError, match="tokenizer has 67 tokens, its base rows for 65"):
        as_a_model(tmp_path / "adapter")
