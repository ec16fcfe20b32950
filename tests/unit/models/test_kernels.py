"""The compiled and the Triton kernels against the reference."""

from __future__ import annotations

import os

import pytest
import torch

from luthier.models.blocks import kernels
from luthier.models.blocks.kernels import cpu, reference

T, D, F, H, E = 5, 48, 40, 6, 8


def cases(dtype: torch.dtype) -> dict[str, tuple]:
    """Arguments for each kernel; every call gets fresh copies."""
    torch.manual_seed(0)
    x, g, add = (torch.randn(T, D).to(dtype) for _ in range(3))
    weight = torch.randn(D).to(dtype)
    rstd = reference.rms_norm(x, weight, 1e-5)[1]
    angles = torch.randn(2, T, E).to(dtype)
    running = (torch.randn(T), torch.rand(T), torch.randn(T))
    return {
        "rms_norm": (x, weight, 1e-5),
        "rms_norm_backward": (add, g, x, weight, rstd),
        "rope_": (torch.randn(T, H, E).to(dtype), angles[0], angles[1], -1.0),
        "swiglu": (3 * torch.randn(T, 2 * F).to(dtype),),
        "swiglu_backward_": (3 * torch.randn(T, 2 * F).to(dtype), torch.randn(T, F).to(dtype)),
        "online_softmax_": (5 * torch.randn(T, 1000).to(dtype), *running),
    }


def outputs(backend, name: str, arguments: tuple) -> list[torch.Tensor]:
    own = [a.clone() if isinstance(a, torch.Tensor) else a for a in arguments]
    found = getattr(backend, name)(*own)
    changed = own[1:] if name == "online_softmax_" else []
    return [*(found if isinstance(found, tuple) else (found,)), *changed]


compiled = pytest.mark.skipif(cpu.library() is None, reason="no C compiler")
ROUNDING = {torch.bfloat16: 4e-3, torch.float32: 2e-6}
"""Of numbers of size one."""
both = pytest.mark.parametrize("dtype", ROUNDING, ids=["bf16", "fp32"])


@compiled
@both
@pytest.mark.parametrize("name", sorted(cases(torch.bfloat16)))
def test_compiled_equals_reference_to_rounding(name: str, dtype: torch.dtype) -> None:
    arguments, close = cases(dtype)[name], 5 * ROUNDING[dtype]
    for mine, theirs in zip(outputs(cpu, name, arguments), outputs(reference, name, arguments), strict=True):
        assert mine.dtype == theirs.dtype
        assert torch.allclose(mine.float(), theirs.float(), rtol=close, atol=close), name


@compiled
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_tensors_of_one_compiled_type_are_served_by_the_compiled_kernels(dtype: torch.dtype) -> None:
    assert kernels.describe(torch.device("cpu"), dtype) == "compiled CPU kernels"
    assert kernels.describe(torch.device("cpu"), torch.float64) == "torch kernels"
    assert kernels._backend(torch.zeros(2).to(dtype), torch.zeros(2).double()) is reference


@compiled
@both
@pytest.mark.parametrize("window", [0, 3])
def test_compiled_causal_softmax(window: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    prefix, length = torch.tensor([4, 0], dtype=torch.int32), torch.tensor([3, 5], dtype=torch.int32)
    scores = 4 * torch.randn(2 * 2, 3 * 5, 9).to(dtype)
    mine = cpu.causal_softmax_(scores.clone(), prefix, length, 5, 0.3, window)
    theirs = reference.causal_softmax_(scores.clone(), prefix, length, 5, 0.3, window)
    assert torch.allclose(mine.float(), theirs.float(), atol=ROUNDING[dtype])
    assert torch.equal(mine == 0, theirs == 0), "the same keys are seen"
    grad = torch.randn(scores.shape).to(dtype)
    back = [b.causal_softmax_backward_(grad.clone(), theirs, 0.3).float() for b in (cpu, reference)]
    assert torch.allclose(back[0], back[1], atol=ROUNDING[dtype])


@compiled
@both
@pytest.mark.parametrize("size", [8, 64])
def test_compiled_fold_and_unfold(size: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    place = torch.tensor([[0, 1, 2, -1], [3, 4, -1, -1]])
    x = torch.randn(5, 7 * size).to(dtype)[:, size:].unflatten(1, (6, size))  # rows that are not contiguous
    folded = [b.fold(x, place, 2) for b in (cpu, reference)]
    assert folded[0].shape == (4, 12, size)
    assert torch.equal(folded[0], folded[1])
    back = torch.zeros(2, 5, 6, size).to(dtype)
    for out, backend in zip(back, (cpu, reference), strict=True):
        backend.unfold_(out, folded[0], place, 2)
        assert torch.equal(out, x)
    shared = torch.tensor([[0, 1, 2], [0, 1, 4]])
    keys = torch.randn(4, 3, size).to(dtype)
    sums = torch.zeros(2, 5, 2, size)
    cpu.unfold_add_(sums[0], keys, shared)
    reference.unfold_add_(sums[1], keys, shared)
    assert torch.equal(sums[0], sums[1])
    assert torch.equal(sums[0][1, 0], keys[0, 1].float() + keys[2, 1].float())


@compiled
@both
def test_a_nan_is_not_lost(dtype: torch.dtype) -> None:
    x = torch.randn(2, 8).to(dtype)
    x[1, 3] = torch.nan
    assert torch.isnan(cpu.rms_norm(x, torch.ones(8).to(dtype), 1e-5)[0]).any(1).tolist() == [False, True]
    state = (torch.full((2,), -torch.inf), torch.zeros(2), torch.zeros(2))
    cpu.online_softmax_(x.clone(), *state)
    assert torch.isnan(state[1]).tolist() == [False, True]


@both
def test_extreme_logits_stay_finite(dtype: torch.dtype) -> None:
    x = torch.tensor([[1e4, -1e4, 0.0, 9.9e3]]).to(dtype)
    for backend in filter(None, (reference, cpu if cpu.library() else None)):
        state = (torch.full((1,), -torch.inf), torch.zeros(1), torch.zeros(1))
        terms, _ = backend.online_softmax_(x.clone(), *state)
        assert terms.float().tolist() == [[1.0, 0.0, 0.0, pytest.approx(0.0, abs=1e-6)]]
        assert (state[0] + state[1].log()).item() == pytest.approx(1e4, rel=4e-3)


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="needs Triton's interpreter (TRITON_INTERPRET=1)")
@pytest.mark.parametrize("name", sorted(cases(torch.float32)))
def test_triton_equals_reference(name: str) -> None:
    pytest.importorskip("triton")
    from luthier.models.blocks.kernels import cuda

    arguments = cases(torch.float32)[name]
    for mine, theirs in zip(outputs(cuda, name, arguments), outputs(reference, name, arguments), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-4)
