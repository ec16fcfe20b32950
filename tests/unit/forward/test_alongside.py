"""A model under an open Forward is used in other ways: generated with, run by itself, opened a second time."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from core_models import family_model, rows
from passes import computed
from tiny_tokenizers import words
from torch import Tensor

from luthier.engines import LocalEngine
from luthier.forward.batches import micro_batches
from luthier.forward.forward import Forward
from luthier.train.loop import activations
from luthier.types import Completion, Sampling

SHAPES = ["llama", "qwen3", "gemma3", "gpt2", "mistral"]
PROMPTS = [[5, 6, 7, 8, 9, *range(20, 20 + length)] for length in (1, 9, 30, 4)]


def generated(model: Any) -> list[Completion]:
    return LocalEngine(model, words(97), {2}).generate(PROMPTS, Sampling(max_new_tokens=12))


def trained(model: Any, forward: Forward) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of one pass, as they are to the last bit."""
    model.zero_grad(set_to_none=True)
    (batch,) = micro_batches(rows(), 10_000, share_prefix=forward.share_prefix)
    loss = -forward.rows(batch).logp_S.sum()
    loss.backward()
    return loss.item(), {name: w.grad.clone() for name, w in model.named_parameters() if w.grad is not None}


def equal(one: tuple[float, dict[str, Tensor]], other: tuple[float, dict[str, Tensor]]) -> bool:
    return one[0] == other[0] and one[1].keys() == other[1].keys() and all(map(torch.equal, *_sides(one, other)))


def _sides(*passes: tuple[float, dict[str, Tensor]]) -> list[Any]:
    return [each[1].values() for each in passes]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "remade"])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("family", SHAPES)
def test_generation_between_two_passes_is_the_closed_models_and_changes_neither(
    family: str, lora: bool, checkpointing: bool, attention: str
) -> None:
    model = family_model(family, lora=lora)
    (model.get_base_model() if lora else model).set_attn_implementation(attention)
    if checkpointing:
        activations.remake(model)
    closed = generated(model)
    with Forward(model).opened() as forward:
        assert forward.layout == "packed"
        undisturbed = [trained(model, forward) for _ in range(2)]
    counts = computed(model)
    with Forward(model).opened() as forward:
        first = trained(model, forward)
        between = generated(model)
        assert model.training
        second = trained(model, forward)
    assert between == closed
    assert equal(first, undisturbed[0]) and equal(second, undisturbed[1])
    if checkpointing:
        assert set(counts.values()) == {4}, "each layer twice a pass, and never while generating"
    assert generated(model) == closed


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", SHAPES)
def test_padded_rows_and_plain_calls_see_the_models_own_mask(family: str, attention: str) -> None:
    model = family_model(family).eval()
    model.set_attn_implementation(attention)
    ids = torch.arange(5, 45).view(2, 20)
    mask = torch.ones_like(ids)
    mask[0, 13:] = 0
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask, use_cache=False).logits, model(input_ids=ids).logits
        with Forward(model).opened():
            found = model(input_ids=ids, attention_mask=mask, use_cache=False).logits, model(input_ids=ids).logits
    assert all(map(torch.equal, found, expected))


def state(model: Any) -> tuple[Any, ...]:
    parts = [(name, id(part), part.training) for name, part in model.named_modules()]
    checkpointed = [getattr(part, "gradient_checkpointing", None) for part in model.modules()]
    return model.config._attn_implementation, parts, checkpointed


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_forwards_over_one_another_close_in_any_order(order: tuple[int, ...]) -> None:
    model = family_model("llama")
    activations.remake(model)
    before = state(model)
    alone = {}
    for fused in (True, False):
        with Forward(model, fused=fused).opened() as forward:
            alone[fused] = trained(model, forward)
    assert not equal(alone[True], alone[False]), "fused or not, they round differently: else nothing is told apart"
    choices = [{"fused": False}, {"fused": True}, {"layout": "padded"}]
    opened = [Forward(model, **keys) for keys in choices]
    assert equal(trained(model, opened[0]), alone[False]) and equal(trained(model, opened[1]), alone[True])
    assert "2 of 2 layers fused" in opened[1].path and "the model's own layers" in opened[0].path
    for place in order:
        opened[place].close()
        opened[place].close()  # twice is once
        left = [forward for n, forward in enumerate(opened[:2]) if n not in order[: order.index(place) + 1]]
        for forward in left:
            assert equal(trained(model, forward), alone[forward is opened[1]])
    assert state(model) == before


def test_what_is_turned_on_while_it_is_open_stays_on() -> None:
    model = family_model("llama").eval()
    forward = Forward(model)
    model.train()
    activations.remake(model)
    forward.close()
    assert all(part.training for part in model.modules())
    assert all(layer.gradient_checkpointing for layer in model.model.layers)
    forward = Forward(model)
    model.eval()
    activations.keep(model)
    forward.close()
    assert not any(part.training for part in model.modules())
    assert not any(layer.gradient_checkpointing for layer in model.model.layers)


def test_no_mask_is_built_for_a_packed_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import masking_utils

    built: list[Any] = []
    mapping = masking_utils.ALL_MASK_ATTENTION_FUNCTIONS
    with Forward(family_model("gemma3")).opened() as forward:
        (batch,) = micro_batches(rows(), 10_000)
        name = forward.causal_lm.config._attn_implementation
        own = mapping[name]
        monkeypatch.setitem(mapping._global_mapping, name, lambda *a, **k: built.append(own(*a, **k)) or built[-1])
        forward.rows(batch)
    assert built and all(mask is None for mask in built)


def test_a_head_is_looked_at_once_and_again_when_it_is_another() -> None:
    model = family_model("llama")
    calls: list[int] = []
    model.model.register_forward_hook(lambda *_: calls.append(1))

    def opened() -> bool:
        with Forward(model).opened() as forward:
            return "head on scored tokens only" in forward.path

    assert opened() and opened() and len(calls) == 1
    hook = model.lm_head.register_forward_hook(lambda _m, _a, out: out + 1.0)
    assert not opened() and len(calls) == 2
    hook.remove()
    assert opened() and opened() and len(calls) == 3


def test_a_forward_that_cannot_be_opened_leaves_the_model_as_it_was() -> None:
    model = family_model("llama")
    before = state(model)

    def fail(*_: Any) -> None:
        raise MemoryError

    hook = model.lm_head.register_forward_pre_hook(fail)
    with pytest.raises(MemoryError):
        Forward(model)
    hook.remove()
    assert state(model) == before
