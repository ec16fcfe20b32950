"""The equivalence classes of the core: however rows are laid out, loss and gradients are the same."""

from __future__ import annotations

import pytest
import torch
from core_models import FAMILIES, config, family_model, loss_and_gradients, rows
from passes import computed, distance, end_to_end

from luthier.errors import LuthierError
from luthier.forward.forward import Forward
from luthier.models import dropout

PACKABLE = sorted(set(FAMILIES) - {"gemma2"})
FUSED = ("llama", "qwen2", "qwen3", "mistral")


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("family", PACKABLE)
def test_packed_shared_and_fused_equal_padded(family: str, lora: bool) -> None:
    model, examples = family_model(family, lora=lora), rows()
    padded = loss_and_gradients(model, examples, layout="padded")
    for share in (False, True):
        for fused in (False, True):
            packed = loss_and_gradients(model, examples, layout="packed", share_prefix=share, fused=fused)
            assert distance(packed, padded) < 5e-6
            assert ("2 of 2 layers fused" in packed.path) == (fused and family in FUSED)


def test_one_key_head_under_a_norm_of_its_own() -> None:
    """Its keys lie token after token, as far apart as queries, keys and values together are wide."""
    model, examples = family_model("qwen3", num_key_value_heads=1), rows()
    padded, packed = (loss_and_gradients(model, examples, layout=layout) for layout in ("padded", "packed"))
    assert "2 of 2 layers fused" in packed.path and distance(packed, padded) < 5e-6


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_micro_batches_do_not_change_anything(family: str) -> None:
    model, examples = family_model(family), rows(16)
    whole, *parts = (loss_and_gradients(model, examples, budget=budget) for budget in (100_000, 200, 60, 1))
    cuts = [made.batches for made in (whole, *parts)]
    assert cuts[0] == 1 < cuts[1] < cuts[2] < cuts[3] == len(examples)
    for part in parts:
        assert distance(part, whole) < 5e-6


@pytest.mark.parametrize("fused", [False, True])
def test_gradient_checkpointing_changes_nothing(fused: bool) -> None:
    model, examples = family_model("qwen3", lora=True), rows()
    plain = loss_and_gradients(model, examples, fused=fused)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()
    counts = computed(model)
    remade = loss_and_gradients(model, examples, fused=fused)
    assert list(counts.values()) == [2, 2], "both layers are computed again on the way back"
    assert remade.path == plain.path and ("2 of 2 layers fused" in remade.path) == fused
    assert distance(remade, plain) < 5e-6


def test_a_frozen_base_costs_no_gradients_below_the_lowest_trained_layer() -> None:
    model, examples = family_model("llama"), rows()
    full = loss_and_gradients(model, examples)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("layers.1." in name)
    top = loss_and_gradients(model, examples)
    assert top.loss == pytest.approx(full.loss, rel=1e-6)
    assert top.gradients.keys() == {name for name in full.gradients if "layers.1." in name}
    assert all(p.grad is None for n, p in model.named_parameters() if "layers.1." not in n)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", FUSED)
def test_oft_in_fused_blocks_equals_oft_in_the_models_own_layers(family: str, checkpointing: bool) -> None:
    from luthier.models.adapters.peft.orthogonal import Oft

    model, examples = Oft(block=8).attach(family_model(family)), rows()
    for name, parameter in model.named_parameters():
        if "oft_R" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    padded = loss_and_gradients(model, examples, layout="padded")
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    packed = loss_and_gradients(model, examples)
    assert "2 of 2 layers fused" in packed.path
    assert len(packed.gradients) == 2 * 7
    assert distance(packed, padded) < 5e-6
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    assert distance(loss_and_gradients(model, examples), loss_and_gradients(model, examples, fused=False)) < 5e-6


@pytest.mark.parametrize("fused", [False, True], ids=["own layers", "fused"])
@pytest.mark.parametrize("family", FUSED)
def test_bf16_packed_is_within_the_noise_of_bf16(family: str, fused: bool) -> None:
    examples = rows()
    exact = loss_and_gradients(family_model(family, lora=True), examples, layout="padded")
    plain = loss_and_gradients(family_model(family, lora=True, dtype=torch.bfloat16), examples, layout="padded")
    packed = loss_and_gradients(family_model(family, lora=True, dtype=torch.bfloat16), examples, fused=fused)
    exact_G, plain_G, packed_G = (end_to_end(made.gradients) for made in (exact, plain, packed))
    assert (packed_G - exact_G).norm() < 1.5 * (plain_G - exact_G).norm()
    assert packed.loss == pytest.approx(exact.loss, rel=2e-3)


def test_another_adapter_than_plain_lora_falls_back_to_the_models_own_layers() -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(family_model("llama"), LoraConfig(r=4, use_dora=True, target_modules="all-linear")).train()
    examples = rows()
    packed = loss_and_gradients(model, examples)
    assert distance(packed, loss_and_gradients(model, examples, layout="padded")) < 5e-6
    assert "the model's own layers" in packed.path


def test_an_adapter_switched_off_gives_the_base() -> None:
    from luthier.forward.batches import micro_batches

    model, batch = family_model("llama", lora=True), micro_batches(rows(), 10_000)[0]
    with Forward(model).opened() as forward, torch.no_grad():
        adapted = forward.rows(batch).logp_S
        with model.disable_adapter():
            off = forward.rows(batch).logp_S
    with Forward(family_model("llama")).opened() as forward, torch.no_grad():
        base = forward.rows(batch).logp_S
    assert torch.allclose(off, base, atol=1e-5)
    assert not torch.allclose(adapted, base, atol=1e-2)


def test_closing_gives_the_model_back() -> None:
    model = family_model("llama", lora=True)
    names = [(name, type(module)) for name, module in model.named_modules()]
    forward = Forward(model)
    assert any(type(m).__name__ == "FusedLayer" for m in model.modules())
    plain = family_model("llama", lora=True)
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in plain.named_parameters()]
    forward.close()
    assert [(name, type(module)) for name, module in model.named_modules()] == names
    assert model.config._attn_implementation == "eager"


def test_what_cannot_be_packed_is_padded_and_says_why() -> None:
    model, examples = family_model("gemma2"), rows()
    padded = loss_and_gradients(model, examples)
    assert padded.path == "padded rows (Gemma2ForCausalLM caps its attention scores)"
    with pytest.raises(LuthierError, match="caps its attention scores"):
        Forward(model, layout="packed")


def test_dropout_keeps_prefixes_apart() -> None:
    from transformers import AutoModelForCausalLM

    noisy = config("gpt2")
    noisy.resid_pdrop = 0.1
    forward = Forward(AutoModelForCausalLM.from_config(noisy))
    assert not forward.share_prefix
    assert "prefixes not shared (the model has dropout)" in forward.path


@pytest.mark.parametrize(("family", "key"), [("gpt2", "attn_pdrop"), ("llama", "attention_dropout")])
def test_attention_that_is_dropped_is_computed_in_padded_rows(family: str, key: str) -> None:
    from transformers import AutoModelForCausalLM

    noisy = config(family)
    setattr(noisy, key, 0.5)
    model = AutoModelForCausalLM.from_config(noisy).train()
    assert "drops some of its attention" in Forward(model).path
    first, second = (loss_and_gradients(model, rows()).loss for _ in range(2))
    assert first != second
    with pytest.raises(LuthierError, match="drops some of its attention"):
        Forward(model, layout="packed")
    with dropout.off(dropout.of_base(model)):
        assert Forward(model).layout == "packed"
    assert Forward(model.eval()).layout == "packed"  # in evaluation nothing is dropped


def test_a_second_backward_through_the_fused_blocks_is_refused() -> None:
    from luthier.forward.batches import micro_batches

    with Forward(family_model("llama")).opened() as forward:
        loss = forward.rows(micro_batches(rows(), 10_000)[0]).logp_S.sum()
        loss.backward(retain_graph=True)
        with pytest.raises(RuntimeError, match="backward once"):
            loss.backward()
