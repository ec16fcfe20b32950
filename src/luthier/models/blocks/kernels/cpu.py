"""The C kernels, compiled once by the machine's C compiler and kept in the cache; None where there is no compiler.

The library is loaded after torch, whose OpenMP runtime it then shares: one pool of threads, set by
`torch.set_num_threads`. The functions below run those of `cpu.c` on contiguous tensors of one type, bf16 or fp32 (rows
of `rope_` may be strided); `attention.py` runs those of `attention.c`. C is told addresses and sizes, and believes
them: each function first sees to it that they are true, and raises ValueError with what differs.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from luthier.cache import root

SOURCES = [Path(__file__).with_name(name) for name in ("cpu.c", "attention.c", "sample.c")]
HEADERS = [Path(__file__).with_name(name) for name in ("elementwise.h", "tiles.h")]
FLAGS = [
    *("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC"),
    # reassociation lets sums vectorise; NaN and infinity keep their meaning, the guards need them
    *("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math", "-freciprocal-math"),
]
POINTER, SIZE, REAL = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
KINDS = {torch.bfloat16: "bf16", torch.float32: "fp32"}
"""What the kernels are compiled for, and how their names end."""
SIGNATURES = {
    "rms_norm": [POINTER] * 4 + [SIZE] * 2 + [REAL],
    "rms_norm_backward": [POINTER] * 6 + [SIZE] * 2,
    "rope": [POINTER] * 3 + [SIZE] * 4 + [REAL],
    "swiglu": [POINTER] * 2 + [SIZE] * 2,
    "swiglu_backward": [POINTER] * 2 + [SIZE] * 2,
    "causal_softmax": [POINTER] * 3 + [SIZE] * 6 + [REAL],
    "causal_softmax_backward": [POINTER] * 2 + [SIZE] * 2 + [REAL],
    "fold": [POINTER] * 3 + [SIZE] * 6,
    "unfold": [POINTER] * 3 + [SIZE] * 6,
    "unfold_add": [POINTER] * 3 + [SIZE] * 4,
    "online_softmax": [POINTER] * 5 + [SIZE] * 2,
}


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None. `LUTHIER_KERNELS=off` turns them off."""
    loaded = built("cpu", SOURCES, HEADERS, FLAGS)
    if loaded is None:
        return None
    for name, signature in SIGNATURES.items():
        for kind in KINDS.values():
            function = getattr(loaded, f"{name}_{kind}")
            function.argtypes, function.restype = signature, None
    return loaded


def built(name: str, sources: Sequence[Path], headers: Sequence[Path], flags: Sequence[str]) -> ctypes.CDLL | None:
    """A library of C sources, compiled where the cache has it not; None without a compiler that can build it, and
    under `LUTHIER_KERNELS=off`."""
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc") or shutil.which("clang")
    if os.environ.get("LUTHIER_KERNELS") == "off" or compiler is None:
        return None
    try:
        path = root() / "kernels" / f"{name}-{_digest(compiler, [*sources, *headers], flags)}.so"
        if not path.exists():
            _compile([compiler, *flags, *map(str, sources)], path)
        return ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError):
        # a compiler that cannot build them is no compiler to us; the path that a run takes says which it is
        return None


def _digest(compiler: str, files: Sequence[Path], own: Sequence[str]) -> str:
    """Names source, flags, compiler and processor: a cache shared between machines stays right."""
    processor = Path("/proc/cpuinfo")
    flags = ""
    if processor.exists():
        flags = next(
            (line for line in processor.read_text().splitlines() if line.startswith(("flags", "Features"))), ""
        )
    content = "\n".join([*(path.read_text() for path in files), *own, compiler, platform.platform(), flags])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _compile(command: Sequence[str], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        subprocess.run([*command, "-o", str(made), "-lm"], check=True, capture_output=True, timeout=120)
        made.replace(path)


def must(
    kernel: str, name: str, x: Tensor, shape: Sequence[int], dtype: torch.dtype, *, contiguous: bool = True
) -> None:
    """Raises ValueError unless a tensor is of this shape and type, on the CPU, and lies without gaps."""
    if x.shape == torch.Size(shape) and x.dtype is dtype and x.device.type == "cpu":
        if not contiguous or x.is_contiguous():
            return
        raise ValueError(f"{kernel}: {name} does not lie without gaps (shape {list(x.shape)}, strides {x.stride()})")
    raise ValueError(
        f"{kernel}: {name} is {list(x.shape)} of {x.dtype} on {x.device}, "
        f"and must be {list(shape)} of {dtype} on the CPU"
    )


def _sizes(kernel: str, x: Tensor, dimensions: int) -> tuple[int, ...]:
    """The sizes of a kernel's first tensor, which says what the others must be."""
    if x.dim() != dimensions or x.dtype not in KINDS:
        raise ValueError(
            f"{kernel}: the first tensor is {list(x.shape)} of {x.dtype}, and must have {dimensions} sizes"
        )
    must(kernel, "the first tensor", x, x.shape, x.dtype)
    return tuple(x.shape)


def _side_by_side(kernel: str, name: str, x_THD: Tensor) -> None:
    """Heads lie side by side; tokens may be any distance apart."""
    if x_THD.dim() != 3 or (x_THD.numel() and x_THD.stride()[1:] != (x_THD.shape[2], 1)):
        raise ValueError(
            f"{kernel}: {name} is {list(x_THD.shape)} with strides {x_THD.stride()}, heads not side by side"
        )


def _places(kernel: str, place_BL: Tensor, tokens: int) -> None:
    """Places within so many tokens; -1 is none."""
    must(kernel, "the places", place_BL, place_BL.shape, torch.int64)
    if place_BL.dim() != 2 or (place_BL.numel() and int(place_BL.max()) >= tokens):
        raise ValueError(f"{kernel}: places {list(place_BL.shape)} up to {int(place_BL.max())} of {tokens} tokens")


def rms_norm(x_TD: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(weight * x * rstd, rstd)."""
    tokens, size = _sizes("rms_norm", x_TD, 2)
    must("rms_norm", "the weight", weight_D, (size,), x_TD.dtype)
    out_TD, rstd_T = torch.empty_like(x_TD), torch.empty(tokens, dtype=torch.float32)
    _call("rms_norm", x_TD, weight_D, out_TD, rstd_T, tokens, size, eps)
    return out_TD, rstd_T


def rms_norm_backward(add_TD: Tensor, grad_TD: Tensor, x_TD: Tensor, weight_D: Tensor, rstd_T: Tensor) -> Tensor:
    """`add` plus the gradient of x."""
    tokens, size = _sizes("rms_norm_backward", add_TD, 2)
    for name, x in (("the gradient", grad_TD), ("the input", x_TD)):
        must("rms_norm_backward", name, x, (tokens, size), add_TD.dtype)
    must("rms_norm_backward", "the weight", weight_D, (size,), add_TD.dtype)
    must("rms_norm_backward", "rstd", rstd_T, (tokens,), torch.float32)
    out_TD = torch.empty_like(x_TD)
    _call("rms_norm_backward", add_TD, grad_TD, x_TD, weight_D, rstd_T, out_TD, tokens, size)
    return out_TD


def rope_(x_THD: Tensor, cos_TD: Tensor, sin_TD: Tensor, sign: float) -> Tensor:
    """Rotary embedding in place."""
    _side_by_side("rope_", "the first tensor", x_THD)
    tokens, heads, size = x_THD.shape
    must("rope_", "the first tensor", x_THD, x_THD.shape, x_THD.dtype, contiguous=False)
    if size % 2:
        raise ValueError(f"rope_: heads of {size} numbers have no halves")
    for name, x in (("the cosines", cos_TD), ("the sines", sin_TD)):
        must("rope_", name, x, (tokens, size), x_THD.dtype)
    _call("rope", x_THD, cos_TD, sin_TD, tokens, heads, size, x_THD.stride(0), sign)
    return x_THD


def swiglu(gate_up_TF: Tensor) -> Tensor:
    """silu(gate) * up."""
    rows, both = _sizes("swiglu", gate_up_TF, 2)
    if both % 2:
        raise ValueError(f"swiglu: gate and up of {both} numbers are not alike")
    out_TF = gate_up_TF.new_empty(rows, both // 2)
    _call("swiglu", gate_up_TF, out_TF, rows, both // 2)
    return out_TF


def swiglu_backward_(gate_up_TF: Tensor, grad_TF: Tensor) -> tuple[Tensor, Tensor]:
    """(gradient of gate and up, the output once more), both written over the arguments."""
    rows, both = _sizes("swiglu_backward_", gate_up_TF, 2)
    must("swiglu_backward_", "the gradient", grad_TF, (rows, both // 2), gate_up_TF.dtype)
    if both % 2:
        raise ValueError(f"swiglu_backward_: gate and up of {both} numbers are not alike")
    _call("swiglu_backward", gate_up_TF, grad_TF, rows, both // 2)
    return gate_up_TF, grad_TF


def causal_softmax_(
    scores: Tensor, prefix_B: Tensor, length_B: Tensor, longest: int, scale: float, window: int
) -> Tensor:
    """softmax(scale * scores) over the keys that a query sees, in place."""
    blocks, queries, keys = _sizes("causal_softmax_", scores, 3)
    segments = len(prefix_B)
    for name, x in (("the prefixes", prefix_B), ("the lengths", length_B)):
        must("causal_softmax_", name, x, (segments,), torch.int32)
    if not segments or blocks % segments or longest < 1 or queries % longest:
        raise ValueError(
            f"causal_softmax_: {blocks} x {queries} scores are no {segments} segments of {longest} queries"
        )
    if int((prefix_B + length_B).max()) > keys or int(prefix_B.min()) < 0 or int(length_B.min()) < 1:
        raise ValueError(f"causal_softmax_: a segment sees none, or more than the {keys} keys that there are")
    _call(
        "causal_softmax", scores, prefix_B, length_B, blocks, blocks // segments, queries, longest, keys, window, scale
    )
    return scores


def causal_softmax_backward_(grad: Tensor, p: Tensor, scale: float) -> Tensor:
    """Gradient of the scores, in place."""
    keys = _sizes("causal_softmax_backward_", grad, grad.dim())[-1]
    must("causal_softmax_backward_", "the probabilities", p, grad.shape, grad.dtype)
    _call("causal_softmax_backward", grad, p, grad.numel() // max(keys, 1), keys, scale)
    return grad


def fold(x_THD: Tensor, place_BL: Tensor, heads: int) -> Tensor:
    """Tokens to segments."""
    tokens, all_heads, size = x_THD.shape
    _places("fold", place_BL, tokens)
    must("fold", "the first tensor", x_THD, x_THD.shape, x_THD.dtype, contiguous=False)
    group = _group("fold", all_heads, heads)
    segments, longest = place_BL.shape
    if x_THD.stride()[1:] != (size, 1):
        x_THD = x_THD.contiguous()
    out = x_THD.new_empty(segments * heads, group * longest, size)
    _call("fold", x_THD, place_BL, out, segments, longest, heads, group, size, x_THD.stride(0))
    return out


def unfold_(out_THD: Tensor, x: Tensor, place_BL: Tensor, heads: int) -> None:
    """Nodes to tokens."""
    _side_by_side("unfold_", "the tokens", out_THD)
    tokens, all_heads, size = out_THD.shape
    _places("unfold_", place_BL, tokens)
    group = _group("unfold_", all_heads, heads)
    segments, longest = place_BL.shape
    must("unfold_", "the tokens", out_THD, out_THD.shape, x.dtype, contiguous=False)
    must("unfold_", "the segments", x, (segments * heads, group * longest, size), x.dtype)
    _call("unfold", x, place_BL, out_THD, segments, longest, heads, group, size, out_THD.stride(0))


def unfold_add_(sum_TGD: Tensor, x: Tensor, place_BL: Tensor) -> None:
    """Nodes to tokens, added up."""
    must("unfold_add_", "the sums", sum_TGD, sum_TGD.shape, torch.float32)
    tokens, heads, size = sum_TGD.shape
    _places("unfold_add_", place_BL, tokens)
    segments, longest = place_BL.shape
    must("unfold_add_", "the segments", x, (segments * heads, longest, size), x.dtype)
    _call("unfold_add", x, place_BL, sum_TGD, segments, longest, heads, size)


def online_softmax_(logits_CV: Tensor, top_C: Tensor, sum_C: Tensor, total_C: Tensor) -> tuple[Tensor, Tensor]:
    """(e^(logits - top), rescale), all in place."""
    rows, size = _sizes("online_softmax_", logits_CV, 2)
    for name, x in (("the maxima", top_C), ("the sums", sum_C), ("the totals", total_C)):
        must("online_softmax_", name, x, (rows,), torch.float32)
    rescale_C = torch.empty_like(top_C)
    _call("online_softmax", logits_CV, top_C, sum_C, total_C, rescale_C, rows, size)
    return logits_CV, rescale_C


def _group(kernel: str, all_heads: int, heads: int) -> int:
    """Query heads to each key head."""
    if heads < 1 or all_heads % heads:
        raise ValueError(f"{kernel}: {all_heads} heads are no groups of {heads}")
    return all_heads // heads


def _call(name: str, first: Tensor, *more: Tensor | int | float) -> None:
    """The kernel for the type of `first`."""
    if first.dtype not in KINDS:
        raise ValueError(f"{name}: there is no kernel for {first.dtype}")
    pointers = (a.data_ptr() if isinstance(a, Tensor) else a for a in (first, *more))
    getattr(library(), f"{name}_{KINDS[first.dtype]}")(*pointers)
