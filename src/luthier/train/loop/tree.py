"""Nested state (dicts, lists, tensors, numbers) as named tensors beside JSON, so that no checkpoint needs pickle."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from luthier.errors import LuthierError


def split(state: Any, prefix: str) -> tuple[Any, dict[str, Tensor]]:
    """What JSON can hold, and the tensors by name. Dictionary keys may be of any plain type; tuples stay tuples."""
    tensors: dict[str, Tensor] = {}
    names: dict[tuple[int, ...], str] = {}

    def visit(value: Any, name: str) -> Any:
        if isinstance(value, Tensor):
            # safetensors refuses tensors that share memory: one that several states share is written once
            same = (value.data_ptr(), value.storage_offset(), *value.shape, *value.stride())
            if value.numel() and same in names:
                return {"tensor": names[same]}
            names[same] = name
            tensors[name] = value.detach().contiguous()
            return {"tensor": name}
        if isinstance(value, dict):
            return {"dict": [[visit(key, name), visit(item, f"{name}.{key}")] for key, item in value.items()]}
        if isinstance(value, list | tuple):
            kind = "list" if isinstance(value, list) else "tuple"
            return {kind: [visit(item, f"{name}.{i}") for i, item in enumerate(value)]}
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, torch.dtype):
            return {"dtype": str(value).removeprefix("torch.")}
        raise LuthierError(
            f"cannot keep a {type(value).__name__} in a checkpoint (at {name})", fix="use another optimiser"
        )

    return visit(state, prefix), tensors


def join(plain: Any, tensors: dict[str, Tensor]) -> Any:
    """The state that `split` took apart."""
    if not isinstance(plain, dict):
        return plain
    (kind, content), *_ = plain.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dtype":
        return getattr(torch, content)
    if kind == "dict":
        return {join(key, tensors): join(item, tensors) for key, item in content}
    items = [join(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items
