"""BitFit: biases move, matrices stay, bit by bit."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from beside_a_tiny_model import logits, on, step
from transformers import GPT2LMHeadModel

from luthier.errors import LuthierError


def gpt2() -> Any:
    torch.manual_seed(0)
    return GPT2LMHeadModel(tiny.config("gpt2", max_position_embeddings=64)).eval()


def test_a_model_without_biases_is_refused_with_the_way_out() -> None:
    with pytest.raises(LuthierError, match="LlamaForCausalLM has none") as refused:
        on(tiny.model(), "bitfit")
    assert "add_biases: true" in str(refused.value.fix)


def test_exactly_the_biases_train_and_matrices_stay_bit_identical() -> None:
    module, adapter = on(gpt2(), "bitfit")
    before = {name: weight.detach().clone() for name, weight in module.named_parameters()}
    base = logits(module)
    biases = {name for name in before if name.endswith("bias")}
    assert {name for name, weight in module.named_parameters() if weight.requires_grad} == biases
    step(module)
    assert {name for name, w in module.named_parameters() if not torch.equal(w, before[name])} == biases
    tuned = logits(module)
    with adapter.off(module):
        assert torch.equal(logits(module), base)
    assert torch.equal(logits(module), tuned) and not torch.equal(tuned, base)
    again, other = on(gpt2(), "bitfit")
    other.restore(again, adapter.tensors(module))
    assert torch.equal(logits(again), tuned)
    assert other.mergeable
    other.merge(again)
    assert set(again.state_dict()) == set(gpt2().state_dict())


def test_added_biases_begin_as_nothing_and_go_away_when_switched_off() -> None:
    module = tiny.model().eval()
    base, names = logits(module), set(module.state_dict())
    module, adapter = on(module, "bitfit", add_biases=True, targets=["q_proj", "down_proj"])
    added = set(module.state_dict()) - names
    assert added == {f"model.layers.{n}.{part}.bias" for n in (0, 1) for part in ("self_attn.q_proj", "mlp.down_proj")}
    assert torch.equal(logits(module), base)
    assert sum(weight.numel() for weight in module.parameters() if weight.requires_grad) == 2 * (32 + 32)
    step(module)
    tuned = logits(module)
    with adapter.off(module):
        assert module.model.layers[0].mlp.down_proj.bias is None
        assert torch.equal(logits(module), base)
    assert torch.equal(logits(module), tuned) and not torch.equal(tuned, base)
    assert not adapter.mergeable


def test_a_step_is_the_gradient_of_the_output_summed_over_tokens() -> None:
    module, _ = on(tiny.model().eval(), "bitfit", add_biases=True, targets=["down_proj"])
    grads: list[torch.Tensor] = []
    layer = module.model.layers[1].mlp.down_proj
    layer.register_full_backward_hook(lambda _m, _in, out: grads.append(out[0]))
    ids = torch.arange(3, 15)[None]
    module(input_ids=ids, labels=ids).loss.backward()
    assert torch.allclose(layer.bias.grad, grads[0].sum((0, 1)), atol=1e-7)
