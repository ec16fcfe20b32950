"""The C kernels, compiled once by the machine's C compiler and kept in the cache; None where there is no compiler.

The library is loaded after torch, whose OpenMP runtime it then shares: one pool of threads, set by
`torch.set_num_threads`. The functions below run those of `cpu.c` on contiguous tensors of one type, bf16 or fp32 (rows
of `rope_` may be strided); `attention.py` runs those of `attention.c`.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from luthier.cache import root

SOURCES = [Path(__file__).with_name(name) for name in ("cpu.c", "attention.c")]
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
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc") or shutil.which("clang")
    if os.environ.get("LUTHIER_KERNELS") == "off" or compiler is None:
        return None
    try:
        path = root() / "kernels" / f"cpu-{_digest(compiler)}.so"
        if not path.exists():
            _compile(compiler, path)
        loaded = ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError):
        return (
            None  # a compiler that cannot build them is no compiler to us; the path that a run takes says which it is
        )
    for name, signature in SIGNATURES.items():
        for kind in KINDS.values():
            function = getattr(loaded, f"{name}_{kind}")
            function.argtypes, function.restype = signature, None
    return loaded


def _digest(compiler: str) -> str:
    """Names source, flags, compiler and processor: a cache shared between machines stays right."""
    processor = Path("/proc/cpuinfo")
    flags = ""
    if processor.exists():
        flags = next(
            (line for line in processor.read_text().splitlines() if line.startswith(("flags", "Features"))), ""
        )
    sources = [path.read_text() for path in (*SOURCES, *HEADERS)]
    content = "\n".join([*sources, *FLAGS, compiler, platform.platform(), flags])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _compile(compiler: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        built = Path(folder) / path.name
        command = [compiler, *FLAGS, *map(str, SOURCES), "-o", str(built), "-lm"]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        built.replace(path)


def rms_norm(x_TD: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(weight * x * rstd, rstd)."""
    out_TD, rstd_T = torch.empty_like(x_TD), torch.empty(x_TD.shape[0], dtype=torch.float32)
    _call("rms_norm", x_TD, weight_D, out_TD, rstd_T, *x_TD.shape, eps)
    return out_TD, rstd_T


def rms_norm_backward(add_TD: Tensor, grad_TD: Tensor, x_TD: Tensor, weight_D: Tensor, rstd_T: Tensor) -> Tensor:
    """`add` plus the gradient of x."""
    out_TD = torch.empty_like(x_TD)
    _call("rms_norm_backward", add_TD, grad_TD, x_TD, weight_D, rstd_T, out_TD, *x_TD.shape)
    return out_TD


def rope_(x_THD: Tensor, cos_TD: Tensor, sin_TD: Tensor, sign: float) -> Tensor:
    """Rotary embedding in place."""
    _call("rope", x_THD, cos_TD, sin_TD, *x_THD.shape, x_THD.stride(0), sign)
    return x_THD


def swiglu(gate_up_TF: Tensor) -> Tensor:
    """silu(gate) * up."""
    rows, size = gate_up_TF.shape[0], gate_up_TF.shape[1] // 2
    out_TF = gate_up_TF.new_empty(rows, size)
    _call("swiglu", gate_up_TF, out_TF, rows, size)
    return out_TF


def swiglu_backward_(gate_up_TF: Tensor, grad_TF: Tensor) -> tuple[Tensor, Tensor]:
    """(gradient of gate and up, the output once more), both written over the arguments."""
    _call("swiglu_backward", gate_up_TF, grad_TF, *grad_TF.shape)
    return gate_up_TF, grad_TF


def causal_softmax_(
    scores: Tensor, prefix_B: Tensor, length_B: Tensor, longest: int, scale: float, window: int
) -> Tensor:
    """softmax(scale * scores) over the keys that a query sees, in place."""
    blocks, queries, keys = scores.shape
    segments = len(prefix_B)
    _call(
        "causal_softmax", scores, prefix_B, length_B, blocks, blocks // segments, queries, longest, keys, window, scale
    )
    return scores


def causal_softmax_backward_(grad: Tensor, p: Tensor, scale: float) -> Tensor:
    """Gradient of the scores, in place."""
    keys = grad.shape[-1]
    _call("causal_softmax_backward", grad, p, grad.numel() // keys, keys, scale)
    return grad


def fold(x_THD: Tensor, place_BL: Tensor, heads: int) -> Tensor:
    """Tokens to segments."""
    (segments, longest), (_, all_heads, size) = place_BL.shape, x_THD.shape
    group = all_heads // heads
    if x_THD.stride()[1:] != (size, 1):
        x_THD = x_THD.contiguous()
    out = x_THD.new_empty(segments * heads, group * longest, size)
    _call("fold", x_THD, place_BL, out, segments, longest, heads, group, size, x_THD.stride(0))
    return out


def unfold_(out_THD: Tensor, x: Tensor, place_BL: Tensor, heads: int) -> None:
    """Nodes to tokens."""
    (segments, longest), (_, all_heads, size) = place_BL.shape, out_THD.shape
    _call("unfold", x, place_BL, out_THD, segments, longest, heads, all_heads // heads, size, out_THD.stride(0))


def unfold_add_(sum_TGD: Tensor, x: Tensor, place_BL: Tensor) -> None:
    """Nodes to tokens, added up."""
    _call("unfold_add", x, place_BL, sum_TGD, *place_BL.shape, *sum_TGD.shape[1:])


def online_softmax_(logits_CV: Tensor, top_C: Tensor, sum_C: Tensor, total_C: Tensor) -> tuple[Tensor, Tensor]:
    """(e^(logits - top), rescale), all in place."""
    rescale_C = torch.empty_like(top_C)
    _call("online_softmax", logits_CV, top_C, sum_C, total_C, rescale_C, *logits_CV.shape)
    return logits_CV, rescale_C


def _call(name: str, first: Tensor, *more: Tensor | int | float) -> None:
    """The kernel for the type of `first`."""
    pointers = (a.data_ptr() if isinstance(a, Tensor) else a for a in (first, *more))
    getattr(library(), f"{name}_{KINDS[first.dtype]}")(*pointers)
