"""LESS: Adam's step, the projection, and the gradients themselves, worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from luthier.data.selecting.influence import influence
from luthier.forward.influence import Influences, Moments, Projection, stepped


def test_the_first_step_of_adam_is_the_sign():
    found = stepped(torch.tensor([3.0, -0.004, 0.0]), None)
    assert found.tolist() == pytest.approx([1, -1, 0], abs=1e-5)


def test_a_later_step_is_adams_own():
    """β = (½, ¾), after one step: m = ½ · 2 + ½ · 4 = 3, v = ¾ · 1 + ¼ · 16 = 4.75, by 1 - ¼ and 1 - 9/16."""
    moments = Moments(torch.tensor([2.0]), torch.tensor([1.0]), 1, (0.5, 0.75), 0.0)
    expected = (3 / 0.75) / math.sqrt(4.75 / (7 / 16))
    assert stepped(torch.tensor([4.0]), moments).tolist() == pytest.approx([expected])
    weight = nn.Parameter(torch.tensor([0.5, -2.0]))
    adam, seen = torch.optim.Adam([weight], lr=1.0), [torch.tensor([0.1, 3.0]), torch.tensor([-0.2, 1.0])]
    for gradient in seen:
        weight.grad = gradient
        before = weight.detach().clone()
        state = adam.state.get(weight, {})
        known = Moments(state["exp_avg"].clone(), state["exp_avg_sq"].clone(), int(state["step"])) if state else None
        adam.step()
        assert (before - weight.detach()).tolist() == pytest.approx(stepped(gradient, known).tolist(), rel=1e-5)


def test_two_parameters_by_hand():
    """A task of two rows with gradients (4, 0) and (0, 2) wants (2, 1). Steps by sign: (1, 1) has the cosine
    3 / √10 with it, (1, -1) has 1 / √10, (-1, 0) has -2 / √5; a second task wants (-1, 0)."""
    task = np.mean([[4.0, 0.0], [0.0, 2.0]], axis=0)
    gradients = [[5.0, 0.1], [0.2, -9.0], [-3.0, 0.0], [0.0, 0.0]]
    steps = np.stack([stepped(torch.tensor(one), None).numpy() for one in gradients])
    alone = influence(steps, task[None].astype(np.float32))
    assert alone.tolist() == pytest.approx([3 / math.sqrt(10), 1 / math.sqrt(10), -2 / math.sqrt(5), 0], abs=1e-5)
    both = influence(steps, np.array([task, [-1.0, 0.0]], np.float32))
    assert both.tolist() == pytest.approx([3 / math.sqrt(10), 1 / math.sqrt(10), 1, 0], abs=1e-5)
    assert math.isnan(influence(np.array([[np.nan, 1.0]], np.float32), task[None].astype(np.float32))[0])


def test_the_projection_keeps_cosines():
    draw = torch.Generator().manual_seed(1)
    some = torch.randn(6, 30_000, generator=draw)
    some[1:] += some[0]
    project = Projection(30_000, 2048, torch.device("cpu"))
    again = Projection(30_000, 2048, torch.device("cpu"))
    found = torch.stack([project(one) for one in some])
    assert torch.equal(found[2], again(some[2]))
    exact, kept = torch.corrcoef(some), torch.nn.functional.normalize(found) @ torch.nn.functional.normalize(found).T
    assert (exact - kept).abs().max() < 5 / math.sqrt(2048)


def test_gradients_are_autograds_and_the_model_is_given_back():
    module = tiny.lora()
    trained = [(name, one) for name, one in module.named_parameters() if one.requires_grad]
    module.requires_grad_(False)
    module.eval()
    rows = tiny.rows(3, 2, seed=1, ids=(1, 60), lengths=(3, 6))
    size = 1 << 22  # so many places that hardly two of the few hundred weights share one
    found = Influences(module, trained, {}, size)(rows, adam=False)
    assert not any(one.requires_grad or one.grad is not None for one in module.parameters()) and not module.training
    for row, sketch in zip(rows, found, strict=True):
        for _, one in trained:
            one.requires_grad_(True)
        ids, weights = torch.tensor(row.ids[0])[None].long(), torch.tensor(row.weights[0][1:])
        logp = module(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
        gradients = torch.autograd.grad(-logp[weights != 0].mean(), [one for _, one in trained], allow_unused=True)
        flat = torch.cat(
            [
                torch.zeros(one.numel()) if g is None else g.reshape(-1)
                for g, (_, one) in zip(gradients, trained, strict=True)
            ]
        )
        expected = Projection(len(flat), size, torch.device("cpu"))(flat).numpy()
        assert np.allclose(sketch, expected, atol=1e-5) and np.linalg.norm(expected) > 1e-3
