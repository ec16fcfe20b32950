"""Rotations by blocks: the closed gradients, PEFT's own numbers, and what is kept from call to call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import tiny
import torch
from beside_a_tiny_model import logits, on, step
from torch import Tensor
from transformers import AutoModelForCausalLM

from luthier.models.blocks import rotations
from luthier.models.blocks.rotations import ButterflyLinear, Rotation, Turn, turn_gradient, turned


def skew(weight_KBB: Tensor) -> Tensor:
    return weight_KBB - weight_KBB.transpose(1, 2)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_a_turn_of_two_inputs_is_the_rotation_by_twice_the_arctangent() -> None:
    # Q = [[0, 3], [-3, 0]]: (I - Q)(I + Q)^-1 = [[-8, -6], [6, -8]] / 10
    q_KBB = torch.tensor([[[0.0, 3.0], [-3.0, 0.0]]])
    turn_KBB = Turn()(q_KBB, q_KBB)
    assert torch.allclose(turn_KBB + torch.eye(2), torch.tensor([[[-0.8, -0.6], [0.6, -0.8]]]))


def test_the_turn_equals_the_solve_for_large_weights_too_and_is_orthogonal() -> None:
    q_KBB = skew(drawn(3, 8, 8) * 10)
    eye = torch.eye(8, dtype=torch.float64)
    r_KBB = Turn()(q_KBB, q_KBB) + eye
    assert torch.allclose(r_KBB, torch.linalg.solve(eye + q_KBB, eye - q_KBB, left=False), atol=1e-12)
    assert torch.allclose(r_KBB @ r_KBB.transpose(1, 2), eye.expand_as(r_KBB), atol=1e-12)


def test_the_closed_gradient_of_the_turn_is_autograds() -> None:
    weight_KBB = (drawn(3, 4, 4) * 0.7).requires_grad_()
    assert torch.autograd.gradcheck(lambda w: Turn()(skew(w), w), weight_KBB)


def test_the_closed_gradient_of_turned_inputs_is_autograds() -> None:
    x_TI, turn_KBB = drawn(5, 12).requires_grad_(), drawn(3, 4, 4).requires_grad_()
    grad_TI = drawn(5, 12).flip(0)
    wanted_x, wanted_turn = torch.autograd.grad(turned(x_TI, turn_KBB), (x_TI, turn_KBB), grad_TI)
    assert torch.allclose(turned(grad_TI, turn_KBB.transpose(1, 2)), wanted_x)
    assert torch.allclose(turn_gradient(x_TI, grad_TI, turn_KBB), wanted_turn)
    whole = torch.block_diag(*turn_KBB) + torch.eye(12, dtype=torch.float64)
    assert torch.allclose(turned(x_TI, turn_KBB), x_TI @ whole)


@pytest.mark.parametrize(("count", "width", "wide"), [(6, 4, 24), (16, 4, 32), (5, 4, 20), (34, 4, 8), (3, 64, 64)])
def test_narrow_blocks_lie_side_by_side(count: int, width: int, wide: int) -> None:
    turn_KBB = drawn(count, width, width)
    joined = rotations._joined(turn_KBB)
    assert joined.shape[1:] == (wide, wide)
    assert torch.equal(torch.block_diag(*joined), torch.block_diag(*turn_KBB))


def test_the_inverse_is_made_again_when_weights_change_behind_autograds_back() -> None:
    weight_KBB, inverse = torch.nn.Parameter(drawn(2, 4, 4)), Turn().inverse
    first = inverse(skew(weight_KBB), weight_KBB)
    assert inverse(skew(weight_KBB), weight_KBB) is first
    weight_KBB.data.mul_(2)  # as some optimisers do: no version is counted
    second = inverse(skew(weight_KBB), weight_KBB)
    assert torch.allclose(second @ (torch.eye(4) + skew(weight_KBB)), torch.eye(4, dtype=torch.float64).expand(2, 4, 4))
    assert not torch.allclose(first, second)


def test_what_was_kept_while_generating_serves_training() -> None:
    module, _ = on(tiny.model(), "oft", block=8)
    rotation = next(part for part in module.modules() if isinstance(part, Rotation))
    with torch.inference_mode():
        module(input_ids=torch.arange(3, 27).view(2, 12))
    kept = rotation._turn._inverse
    before = rotation.weight.detach().clone()
    rotation.turn()[:, 0].sum().backward()  # a tensor of inference mode would be refused here
    assert kept is not None and rotation._turn._inverse is kept
    assert rotation.weight.grad is not None and rotation.weight.grad.any()
    step(module, 1)
    assert not torch.equal(rotation.weight, before)


WAYS: dict[str, dict[str, Any]] = {
    "oft": {"block": 8},
    "oft bounded": {"block": 8, "bound": 0.02},
    "oft neumann": {"block": 8, "neumann": 5},
    "boft": {"block": 4},
}


def family(name: str) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(tiny.config(name))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("base", ["llama", "qwen2"], ids=["no biases", "biases"])
def test_losses_and_gradients_are_those_of_pefts_own_layers(way: str, base: str, tmp_path: Path) -> None:
    module, _ = on(family(base), way.split()[0], **WAYS[way])
    step(module)
    module.save_pretrained(tmp_path)
    theirs = peft.PeftModel.from_pretrained(family(base), tmp_path, is_trainable=True)
    kinds = {type(layer) for layer in module.modules()}
    assert {Rotation, ButterflyLinear} & kinds
    assert not {Rotation, ButterflyLinear} & {type(layer) for layer in theirs.modules()}
    assert torch.allclose(logits(module), logits(theirs), atol=2e-5)
    grads = []
    for each in (module, theirs):
        each.zero_grad()
        each(input_ids=torch.arange(3, 27).view(2, 12), labels=torch.arange(3, 27).view(2, 12)).loss.backward()
        grads.append({name: w.grad for name, w in each.named_parameters() if w.requires_grad})
    assert grads[0].keys() == grads[1].keys() and grads[0]
    for name, grad in grads[1].items():
        assert torch.allclose(grads[0][name], grad, atol=1e-5, rtol=1e-3), name


def test_boft_keeps_no_matrix_of_inputs_by_inputs() -> None:
    module, _ = on(tiny.model(), "boft", block=4)
    assert not [name for name, _ in module.named_buffers() if name.endswith("boft_P")]


@pytest.mark.parametrize("name", ["oft", "boft"])
def test_dropout_leaves_out_blocks_in_training_alone(name: str) -> None:
    module, _ = on(tiny.model(), name, block=4, dropout=0.5)
    step(module)
    module.eval()
    assert torch.equal(logits(module), logits(module))
    module.train()
    torch.manual_seed(0)
    assert not torch.allclose(logits(module), logits(module), atol=1e-4)
    if name == "oft":
        rotation = next(each for each in module.modules() if isinstance(each, Rotation))
        assert sorted(turn.any().item() for turn in rotation.turn()) == [False] * 4 + [True] * 4
