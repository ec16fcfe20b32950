"""`decode.c`: one step of decoding through all layers of a Llama-like model, in one call.

Its library is built apart from that of `cpu.py`, and without leave to reorder sums: what a token gives must not depend
on the tokens beside it, to the bit. C is told addresses and sizes and believes them; `luthier.models.decode` sees to it
that they are true. The records below are those of `decode.h`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from luthier.models.blocks.kernels import cpu

SOURCES = [Path(__file__).with_name("decode.c")]
HEADERS = [Path(__file__).with_name(name) for name in ("lanes.h", "products.h", "paged.h", "decode.h", "threads.h")]
FLAGS = [
    *("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC"),
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"),
]
WIDTH = 16
"""Inputs of matrices come in whole multiples of this."""
FP32, BF16, INT8, ROUNDED = range(4)
"""How a matrix lies; `ROUNDED`: in fp32, and counts as the nearest bf16."""
PARTS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""A layer's matrices, in their order."""


def _record(*fields: Any) -> np.dtype[Any]:
    """Whole numbers (a name), real ones (a name and "f8") or other records, eight bytes a field."""
    return np.dtype([(field, "i8") if isinstance(field, str) else field for field in fields])


MATRIX = _record("at", "bias", "scale", "kind", "out", "in")
LORA = _record("down", "up", "down_kind", "up_kind", "lines", "rank", ("scale", "f8"))
LAYER = _record(
    ("part", MATRIX, len(PARTS)), ("norm", "i8", 2), ("head_norm", "i8", 2), ("eps", "f8", 2), ("scale", "f8"), "window"
)
MODEL = _record(
    *("half", "hidden", "inner", "heads", "groups", "d", "depth", "vocabulary", "embedding", "norm"),
    *(("eps", "f8"), ("head", MATRIX), "layers", "cos", "sin"),
)
GROUP = _record("at", "first", "count")
STEP = _record(
    *("tokens", "wanted", "groups", "head_groups", "threads", "rank", "keys", "id", "position", "page_of", "page"),
    *("want", "member", "head_member", "group", "head_group", "logits", "space"),
)
RECORDS = (MATRIX, LORA, LAYER, MODEL, GROUP, STEP)


@cache
def library() -> ctypes.CDLL | None:
    """The compiled step, or None where there is no compiler that builds it."""
    loaded = cpu.built("decode", SOURCES, HEADERS, FLAGS)
    if loaded is None:
        return None
    loaded.decode_space.argtypes, loaded.decode_space.restype = [ctypes.c_void_p] * 2, ctypes.c_int64
    loaded.decode_step.argtypes, loaded.decode_step.restype = [ctypes.c_void_p] * 2, None
    loaded.decode_sizes.argtypes, loaded.decode_sizes.restype = [ctypes.c_void_p], None
    sizes = np.zeros(len(RECORDS), np.int64)
    loaded.decode_sizes(sizes.ctypes.data)
    if sizes.tolist() != [record.itemsize for record in RECORDS]:
        raise RuntimeError(f"decode.h lays its records out in {sizes.tolist()} bytes, decode.py in other sizes")
    return loaded


def kind(x: torch.Tensor, half: bool) -> int:
    """How a matrix lies for a model of bf16 (`half`) or of fp32."""
    return BF16 if x.dtype is torch.bfloat16 else ROUNDED if half else FP32


def records(rows: Sequence[tuple[Any, ...]], of: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """An array of records."""
    return np.array(rows, dtype=of)


def address(array: np.ndarray[Any, Any]) -> int:
    """Where an array lies."""
    place: int = array.__array_interface__["data"][0]
    return place


class Space:
    """The memory that steps work in: grows to the largest."""

    def __init__(self) -> None:
        self._block = np.empty(0, np.uint8)

    def run(
        self,
        model: np.ndarray[Any, Any],
        sizes: Sequence[int],
        arrays: Sequence[np.ndarray[Any, Any]],
        logits: torch.Tensor,
    ) -> None:
        """One step: a `MODEL`, and the sizes and arrays of a `STEP` in the order of its fields. All addresses in the
        model's records must be true, and all numbers in the arrays within what they count."""
        loaded = library()
        if loaded is None:
            raise RuntimeError("there is no compiled step of decoding here")
        step = np.array([*sizes, *map(address, arrays), logits.data_ptr(), 0])
        need = loaded.decode_space(address(model), address(step))
        if need > len(self._block):
            self._block = np.empty(need, np.uint8)
        step[-1] = address(self._block)
        loaded.decode_step(address(model), address(step))
