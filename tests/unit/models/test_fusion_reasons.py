"""Why a model's own layers run and not the fused blocks: the path of a run says it."""

from typing import Any

import pytest
import tiny
from peft import IA3Config, LoraConfig, get_peft_model
from torch import nn

from luthier.forward.forward import Forward
from luthier.models.blocks.fused import Fusion, fuse, unfuse


def adapted(**keys: Any) -> Any:
    return get_peft_model(tiny.model(), LoraConfig(r=2, target_modules="all-linear", **keys)).get_base_model()


def hooked() -> Any:
    model = tiny.model()
    model.model.layers[0].mlp.register_forward_hook(lambda module, given, out: out * 2)
    return model


def reformed() -> Any:
    model = tiny.model()
    for layer in model.model.layers:
        layer.mlp.act_fn = nn.GELU()
    return model


def replaced() -> Any:
    model = tiny.model()
    model.model.layers[1].self_attn.q_proj.forward = lambda x: x
    return model


def merged() -> Any:
    module = get_peft_model(tiny.model(), LoraConfig(r=2, target_modules="all-linear"))
    module.merge_adapter()
    return module.get_base_model()


def several() -> Any:
    module = get_peft_model(tiny.model(), LoraConfig(r=2, target_modules="all-linear"))
    module.add_adapter("other", LoraConfig(r=2, target_modules="all-linear"))
    module.base_model.set_adapter(["default", "other"])
    return module.get_base_model()


CASES = {
    "plain": (tiny.model, Fusion(2, None)),
    "plain LoRA": (adapted, Fusion(2, None)),
    "dropout": (lambda: adapted(lora_dropout=0.1), Fusion(0, "q_proj has LoRA with dropout")),
    "DoRA": (lambda: adapted(use_dora=True), Fusion(0, "q_proj has LoRA of another form (Dora)")),
    "LoRA with a bias": (lambda: adapted(lora_bias=True), Fusion(0, "q_proj has LoRA with a bias")),
    "merged": (merged, Fusion(0, "q_proj has several adapters, or one that is merged")),
    "several": (several, Fusion(0, "q_proj has several adapters, or one that is merged")),
    "another tuner": (
        lambda: get_peft_model(tiny.model(), IA3Config(task_type="CAUSAL_LM")).get_base_model(),
        Fusion(0, "self_attn.k_proj is ia3's Linear"),
    ),
    "a hook": (hooked, Fusion(1, "what goes through mlp is changed on the way")),
    "another forward": (replaced, Fusion(1, "the forward pass of self_attn.q_proj was replaced")),
    "another activation": (reformed, Fusion(0, "its activation is GELU")),
    "another family": (
        lambda: _gpt2(),
        Fusion(0, "GPT2LMHeadModel is not of the Llama family"),
    ),
}


def _gpt2() -> Any:
    from transformers import GPT2LMHeadModel

    return GPT2LMHeadModel(tiny.config("gpt2"))


@pytest.mark.parametrize("name", CASES)
def test_what_is_not_fused_says_why(name):
    make, expected = CASES[name]
    model = make()
    assert fuse(model) == expected
    unfuse(model)


def test_the_path_of_a_run_says_it():
    def path(model: Any, **keys: Any) -> str:
        with Forward(model, **keys).opened() as forward:
            return forward.path

    assert "2 of 2 layers fused, head" in path(tiny.model())
    assert "the model's own layers (train.fused is false), head" in path(tiny.model(), fused=False)
    assert "the model's own layers (q_proj has LoRA with dropout)" in path(adapted(lora_dropout=0.1))
    assert "1 of 2 layers fused (in another, what goes through mlp is changed on the way)" in path(hooked())
