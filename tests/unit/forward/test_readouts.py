"""What is read of whole distributions against plain autograd in double precision, in blocks small enough to be many.

Shapes: S = scored tokens, D = hidden size, V = vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import tiny
import torch
from torch import Tensor

from luthier.errors import LuthierError
from luthier.forward import divergence, statistics
from luthier.forward import head as head_module
from luthier.forward.head import Head, Teacher, readouts
from luthier.objectives.base import Objective
from luthier.objectives.rows import Rows
from luthier.run import Run
from luthier.train import Beside, fit
from luthier.types import Needs, jsd

NAMES = ("logp", "mean_logp", "entropy", "kl", "reverse_kl", jsd(0.5), jsd(0.1))
V, D = 30, 5


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (head_module, statistics):
        monkeypatch.setattr(module, "CHUNK", 4)
        monkeypatch.setattr(module, "BLOCK", 7)
    monkeypatch.setattr(divergence, "BLOCK", 7)


def case(scored: int, *, trains: bool, bias: bool, scale: float = 1.0, softcap: float = 0.0) -> tuple[Any, ...]:
    """Hidden states that need a gradient, targets, a head, and a teacher of another hidden size."""
    draw = torch.Generator().manual_seed(scored)
    hidden = torch.randn(scored, D, generator=draw).requires_grad_()
    weight = torch.randn(V, D, generator=draw).requires_grad_(trains)
    bias_V = torch.randn(V, generator=draw).requires_grad_(trains) if bias else None
    other = Head(torch.randn(V, 9, generator=draw), torch.randn(V, generator=draw) if bias else None)
    teacher = Teacher(torch.randn(scored, 9, generator=draw), other)
    return hidden, torch.randint(0, V, (scored,), generator=draw), Head(weight, bias_V, scale, softcap), teacher


def doubled(head: Head) -> Head:
    bias = None if head.bias_V is None else head.bias_V.double()
    return Head(head.weight_VD.double(), bias, head.scale, head.softcap)


def dense(hidden: Tensor, target: Tensor, head: Head, teacher: Teacher) -> dict[str, Tensor]:
    """The definitions, in double precision."""
    p = torch.log_softmax(doubled(head).logits(hidden.double()), -1)
    q = torch.log_softmax(doubled(teacher.head).logits(teacher.hidden_SD.double()), -1)

    def mixed(beta: float) -> Tensor:
        m = (beta * q.exp() + (1 - beta) * p.exp()).log()
        return (beta * q.exp() * (q - m) + (1 - beta) * p.exp() * (p - m)).sum(-1)

    return {
        **{jsd(beta): mixed(beta) for beta in (0.5, 0.1)},
        "logp": p[torch.arange(len(target)), target],
        "mean_logp": p.mean(-1),
        "entropy": -(p.exp() * p).sum(-1),
        "kl": (q.exp() * (q - p)).sum(-1),
        "reverse_kl": (p.exp() * (p - q)).sum(-1),
    }


def inputs(hidden: Tensor, head: Head) -> list[Tensor]:
    every = [hidden, head.weight_VD, *([] if head.bias_V is None else [head.bias_V])]
    return [one for one in every if one.requires_grad]


@pytest.mark.parametrize("asked", [(name,) for name in NAMES] + [NAMES, ("kl", "entropy")], ids=" ".join)
@pytest.mark.parametrize("trains", [False, True], ids=["frozen", "trains"])
@pytest.mark.parametrize(("bias", "scale", "softcap"), [(False, 1.0, 0.0), (True, 1.0, 0.0), (True, 0.5, 3.0)])
def test_values_and_gradients_are_those_of_the_definitions(
    asked: tuple[str, ...], trains: bool, bias: bool, scale: float, softcap: float
) -> None:
    hidden, target, head, teacher = case(11, trains=trains, bias=bias, scale=scale, softcap=softcap)
    found, wanted = readouts(hidden, target, head, asked, teacher), dense(hidden, target, head, teacher)
    assert set(found) == {"logp", *asked}
    for name, value in found.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), wanted[name], atol=1e-5, rtol=0)
    outer = torch.randn(len(found), 11, generator=torch.Generator().manual_seed(1))
    mine = sum((value * outer[k]).sum() for k, value in enumerate(found.values()))
    theirs = sum((wanted[name] * outer[k].double()).sum() for k, name in enumerate(found))
    assert isinstance(mine, Tensor) and isinstance(theirs, Tensor)
    gradients = zip(
        torch.autograd.grad(mine, inputs(hidden, head)), torch.autograd.grad(theirs, inputs(hidden, head)), strict=True
    )
    for one, other in gradients:
        torch.testing.assert_close(one.double(), other.double(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_each_gradient_alone_is_its_own(name: str) -> None:
    """Asked for all and differentiated by one."""
    hidden, target, head, teacher = case(9, trains=False, bias=True)
    (one,) = torch.autograd.grad(readouts(hidden, target, head, NAMES, teacher)[name].sum(), [hidden])
    (other,) = torch.autograd.grad(dense(hidden, target, head, teacher)[name].sum(), [hidden])
    torch.testing.assert_close(one.double(), other.double(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("trains", [False, True], ids=["frozen", "trains"])
@pytest.mark.parametrize("most", [3, 12, 64])
def test_the_most_probable_tokens(trains: bool, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "TOP", most)  # 64 are more than there are
    hidden, target, head, _ = case(11, trains=trains, bias=True)
    found = readouts(hidden, target, head, ("top_k", "entropy"))
    full = torch.log_softmax(doubled(head).logits(hidden.double()), -1).topk(min(most, V), -1)
    torch.testing.assert_close(found["top_k"].double(), full.values, atol=1e-5, rtol=0)
    assert torch.equal(found["top_ids"], full.indices)
    assert not found["top_k"].requires_grad and found["entropy"].requires_grad
    found["entropy"].sum().backward()


@pytest.mark.parametrize("trains", [False, True], ids=["frozen", "trains"])
def test_no_scored_token(trains: bool) -> None:
    hidden, target, head, teacher = case(0, trains=trains, bias=True)
    found = readouts(hidden, target, head, (*NAMES, "top_k"), teacher)
    for name in NAMES:
        assert found[name].shape == (0,)
    assert found["top_k"].shape == found["top_ids"].shape == (0, V)
    sum(found[name].sum() for name in NAMES).backward()  # type: ignore[union-attr]
    assert hidden.grad is not None and hidden.grad.shape == (0, D)


def test_numbers_worked_by_hand() -> None:
    uniform, hidden = Head(torch.zeros(10, 4)), torch.randn(3, 4)
    flat = Teacher(torch.randn(3, 2), Head(torch.zeros(10, 2)))
    found = readouts(hidden, torch.tensor([0, 5, 9]), uniform, (*NAMES, "top_k"), flat)
    for name, value in {"entropy": math.log(10), "mean_logp": -math.log(10), "kl": 0.0, "reverse_kl": 0.0}.items():
        assert found[name].tolist() == pytest.approx([value] * 3, abs=1e-6), name
    assert found["top_k"].tolist() == [pytest.approx([-math.log(10)] * 10)] * 3
    # two tokens, of which the model gives the first 3/4 and the teacher both one half
    model = Head(torch.tensor([[math.log(3.0)], [0.0]]))
    found = readouts(
        torch.ones(1, 1), torch.tensor([0]), model, NAMES, Teacher(torch.ones(1, 1), Head(torch.zeros(2, 1)))
    )
    by_hand = {
        "logp": math.log(0.75),
        "entropy": -0.75 * math.log(0.75) - 0.25 * math.log(0.25),
        "kl": 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25),
        "reverse_kl": 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5),
    }
    for name, value in by_hand.items():
        assert found[name].item() == pytest.approx(value, abs=1e-6), name


def test_a_model_that_is_its_own_teacher_is_at_no_distance_and_stays() -> None:
    hidden, target, head, _ = case(11, trains=False, bias=True)
    found = readouts(hidden, target, head, ("kl", "reverse_kl"), Teacher(hidden.detach(), head))
    for name in ("kl", "reverse_kl"):
        assert found[name].abs().max() < 1e-6
        (gradient,) = torch.autograd.grad(found[name].sum(), [hidden], retain_graph=True)
        assert gradient.abs().max() < 1e-5


def test_what_cannot_be_read_is_said() -> None:
    hidden, target, head, teacher = case(4, trains=False, bias=False)
    for trains in (False, True):
        other = Head(head.weight_VD.detach().requires_grad_(trains))
        with pytest.raises(ValueError, match="need a teacher"):
            readouts(hidden, target, other, ("kl",))
        with pytest.raises(ValueError, match="the teacher has 29 tokens, the model 30"):
            readouts(hidden, target, other, ("reverse_kl",), Teacher(teacher.hidden_SD, Head(torch.zeros(29, 9))))
        with pytest.raises(ValueError, match="no readout is called 'entropi'; there are logp,"):
            readouts(hidden, target, other, ("entropi",))


# through the loop
@dataclass(frozen=True)
class Distil(Objective):
    """The divergence from a teacher at each token."""

    needs: ClassVar[Needs] = Needs(readouts=("logp", "kl"), roles=("teacher",))

    def loss(self, rows: Rows) -> Tensor:
        return rows.readouts["kl"] * rows.weight_S


def distilled(folder: Path, openers: Mapping[str, Any], module: Any = None, **keys: Any) -> list[float]:
    recipe = tiny.recipe(folder, **{"steps": 6, "batch": 16, "schedule": "constant", "warmup": 0, **keys})
    policy = tiny.Policy(module if module is not None else tiny.model())
    fit(policy, Distil(), tiny.Prepared(tiny.Store(16)), recipe, Run(folder), Beside(openers))
    return [event["loss"] for event in Run(folder).events("step")]


def sharp(hidden: int = 48) -> Any:
    return tiny.model(7, hidden_size=hidden, initializer_range=0.3)


@pytest.mark.parametrize("layout", ["auto", "padded"])
@pytest.mark.parametrize("lora", [False, True], ids=["head trains", "head frozen"])
def test_a_teacher_of_another_size_teaches_and_stays_as_it_is(tmp_path: Path, lora: bool, layout: str) -> None:
    module = sharp()
    before = {name: weight.clone() for name, weight in module.state_dict().items()}
    losses = distilled(
        tmp_path, {"teacher": lambda: tiny.Policy(module)}, tiny.lora() if lora else tiny.model(), layout=layout
    )
    assert losses[-1] < (0.97 if lora else 0.8) * losses[0], losses
    for name, weight in module.state_dict().items():
        assert torch.equal(weight, before[name]), name
    assert all(weight.grad is None for weight in module.parameters())
    assert module.config._attn_implementation == sharp().config._attn_implementation, "closed when the run has ended"


def test_a_teacher_has_no_dropout_and_shares_prefixes(tmp_path: Path) -> None:
    losses = [
        distilled(tmp_path / str(rate), {"teacher": lambda rate=rate: tiny.Policy(tiny.lora(7, dropout=rate))}, steps=1)
        for rate in (0.0, 0.5)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_teacher_must_be_named_and_speak_the_same_tokens(tmp_path: Path) -> None:
    with pytest.raises(LuthierError, match="learns from a teacher, and none is named"):
        distilled(tmp_path / "none", {})
    with pytest.raises(LuthierError, match="the teacher has 70 tokens, the model 65"):
        distilled(tmp_path / "other", {"teacher": lambda: tiny.Policy(tiny.model(vocab_size=70))})
