"""Matrices that the compiled step reads from copies in fewer bytes."""

from __future__ import annotations

from typing import Any

import paged
import pytest
import torch
from torch import Tensor

from luthier.models.blocks.kernels import decode
from luthier.models.decode.compiled import CompiledReader
from luthier.models.decode.copies import Kind

pytestmark = pytest.mark.skipif(decode.library() is None, reason="no C compiler")
IDS = paged.tokens(21)
MATRICES = 2 * 7 + 1


def frozen(family: str = "qwen2") -> Any:
    """A model in fp32 whose numbers bf16 holds."""
    return paged.model(family, torch.bfloat16).float().requires_grad_(False)


def read(module: Any, kind: Kind = "own") -> Tensor:
    return paged.read(reader(module, kind), IDS, 0, (4, 1))


def reader(module: Any, kind: Kind) -> CompiledReader:
    found = CompiledReader.of(module, kind)
    assert isinstance(found, CompiledReader), found
    found.grow(64)
    return found


@pytest.mark.parametrize("family", paged.FAMILIES)
def test_numbers_that_bf16_holds_are_read_in_it_to_the_bit(family: str) -> None:
    module = frozen(family)
    half = reader(module, "bf16")
    assert half.describe() == f"compiled decoding (fp32, {MATRICES} matrices read in bf16)"
    assert torch.equal(paged.read(half, IDS, 0, (4, 1)), read(module))


def test_what_trains_or_does_not_fit_is_read_where_it_lies() -> None:
    module = frozen()
    layer = module.model.layers[0]
    layer.mlp.up_proj.weight.requires_grad_(True)
    layer.mlp.down_proj.weight.data[3, 5] = 1 / 3
    half = reader(module, "bf16")
    assert f"{MATRICES - 2} matrices" in half.describe()
    before = paged.read(half, IDS, 0)
    assert torch.equal(before, paged.read(reader(module, "own"), IDS, 0))
    with torch.no_grad():
        layer.mlp.up_proj.weight.mul_(1.01)
    assert torch.equal(paged.read(half, IDS, 0), paged.read(reader(module, "own"), IDS, 0)), "without refresh"


def test_a_model_of_bf16_has_nothing_to_copy() -> None:
    module = paged.model("llama", torch.bfloat16).requires_grad_(False)
    half = reader(module, "bf16")
    assert "0 matrices" in half.describe()
    assert torch.equal(paged.read(half, IDS, 0), paged.read(reader(module, "own"), IDS, 0))


@pytest.mark.parametrize("changed", [False, True], ids=["as they were", "changed meanwhile"])
def test_copies_are_let_go_of_at_rest_and_made_again(changed: bool) -> None:
    module = frozen()
    half = reader(module, "bf16")
    before = paged.read(half, IDS, 0)
    half.rest()
    assert "0 matrices" in half.describe()
    if changed:
        module.model.layers[1].mlp.up_proj.weight.mul_(2)  # still numbers that bf16 holds
        half.refresh()
    half.grow(64)
    after = paged.read(half, IDS, 0)
    assert f"{MATRICES} matrices" in half.describe() and torch.equal(before, after) != changed
    assert torch.equal(after, paged.read(reader(module, "own"), IDS, 0))


def in_steps(weight: Tensor) -> Tensor:
    """To the nearest of 255 numbers a row, worked in fp64."""
    step = weight.abs().amax(1, keepdim=True).double() / 127
    return (torch.round(weight.double() / step) * step).float()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_int8_is_each_row_in_255_steps(dtype: torch.dtype) -> None:
    module = paged.model("qwen2", dtype)
    found = read(module, "int8")
    true = read(module)
    for part in module.modules():
        if isinstance(part, torch.nn.Linear):
            part.weight.data = in_steps(part.weight.data)
    module.float()
    stepped = read(module)
    assert (found - stepped).abs().mean() < (1e-5 if dtype is torch.float32 else 0.05)
    assert 1e-4 < (found - true).abs().mean() < 0.1 * true.abs().mean()


@pytest.mark.parametrize("kind", ["bf16", "int8"])
def test_copies_follow_their_matrices_on_refresh(kind: Kind) -> None:
    module = frozen()
    own = reader(module, kind)
    first = paged.read(own, IDS, 0)
    copies = dict(own._copies._found)
    own.refresh()
    assert own._copies._found == copies, "nothing has changed, nothing is made anew"
    with torch.no_grad():
        module.model.layers[1].self_attn.q_proj.weight.mul_(2)  # in place
    module.model.layers[0].mlp.up_proj.weight.data = -module.model.layers[0].mlp.up_proj.weight.data  # elsewhere
    own.refresh()
    second = paged.read(own, IDS, 0)
    assert not torch.equal(first, second) and torch.equal(second, paged.read(reader(module, kind), IDS, 0))
    assert len(own._copies._found) == MATRICES and len(own._copies._found.keys() & copies.keys()) == MATRICES - 2


def test_a_row_of_zeros_stays_one() -> None:
    module = paged.model("llama", tie_word_embeddings=False)
    module.lm_head.weight.data[7] = 0
    assert bool((read(module, "int8")[:, 7] == 0).all())
