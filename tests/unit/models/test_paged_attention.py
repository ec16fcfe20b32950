"""Attention over pages: by hand, against the plain formula, and the Triton kernel under Triton's interpreter."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch

from luthier.models.blocks import paged
from luthier.models.decode.step import PAGE

Way = Callable[..., torch.Tensor]


def _ways() -> list[Any]:
    """The torch form, and the kernel where Triton can run it: interpreted, or on a device."""
    no_kernel = pytest.mark.skipif(
        os.environ.get("TRITON_INTERPRET") != "1" and not torch.cuda.is_available(),
        reason="needs Triton's interpreter (TRITON_INTERPRET=1) or a CUDA device",
    )
    return [pytest.param("gathered", id="gathered"), pytest.param("kernel", id="kernel", marks=no_kernel)]


@pytest.fixture(params=_ways())
def way(request: pytest.FixtureRequest) -> Way:
    if request.param == "gathered":
        return paged.gathered
    pytest.importorskip("triton")
    from luthier.models.blocks.kernels.paged_cuda import paged_attention

    device = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"

    def on_device(query: Any, pool: Any, table: Any, position: Any, scale: float, window: int) -> torch.Tensor:
        pool = tuple(part.to(device) for part in pool)
        return paged_attention(query.to(device), pool, table.to(device), position.to(device), scale, window).cpu()

    return on_device


def test_by_hand(way: Way) -> None:
    """Two keys weigh 1 : 3; the third lies after the token, and the fourth on a page that is another's."""
    keys, values = torch.zeros(3 * PAGE, 1, 1), torch.full((3 * PAGE, 1, 1), torch.nan)
    first = 2 * PAGE
    keys[first + 1] = math.log(3)
    values[first], values[first + 1] = 4.0, 8.0
    ones, table, position = torch.ones(1, 1, 1), torch.tensor([[2, 0]]), torch.tensor([1])
    assert way(ones, (keys, values), table, position, 1.0, 0).item() == pytest.approx(7.0)
    assert way(ones, (keys, values), table, position, 1.0, 1).item() == pytest.approx(8.0)


@pytest.mark.parametrize(("heads", "groups", "size"), [(4, 2, 16), (6, 2, 24), (3, 3, 8)])
@pytest.mark.parametrize(("pages", "window"), [(1, 0), (3, 9), (20, 0), (20, 270)])
def test_rows_of_all_lengths(way: Way, heads: int, groups: int, size: int, pages: int, window: int) -> None:
    torch.manual_seed(0)
    room = 64
    pool = torch.randn(room * PAGE, groups, size), torch.randn(room * PAGE, groups, size)
    position_R = torch.tensor([0, PAGE - 1, min(PAGE, pages * PAGE - 1), pages * PAGE // 2, pages * PAGE - 1])
    table_RP = torch.stack([torch.randperm(room)[:pages] for _ in position_R])
    query_RHD = torch.randn(len(position_R), heads, size)
    out_RHD = way(query_RHD, pool, table_RP, position_R, 0.3, window)
    for row, position in enumerate(position_R.tolist()):
        first = max(0, position - window + 1) if window else 0
        slots = [int(table_RP[row, at // PAGE]) * PAGE + at % PAGE for at in range(first, position + 1)]
        for head in range(heads):
            group = head // (heads // groups)
            weights = (pool[0][slots, group] @ query_RHD[row, head] * 0.3).softmax(0)
            assert torch.allclose(out_RHD[row, head], weights @ pool[1][slots, group], atol=1e-5)
    if way is not paged.gathered:  # to the bit, whatever is beside and however far the table is filled up
        wide = torch.nn.functional.pad(table_RP[1:2], (0, 33))
        assert torch.equal(way(query_RHD[1:2], pool, wide, position_R[1:2], 0.3, window)[0], out_RHD[1])
