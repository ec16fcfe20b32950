"""What is changed in a model while packed passes are open on it: its attention's name, and layers that are fused.

Passes may be opened over one another and closed in any order; the last to close gives the model back as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from luthier.models.blocks import attention
from luthier.models.blocks.fused import Fusion, fuse, unfuse


@dataclass
class _Opened:
    own: str
    """The attention that the model had."""
    passes: int = 0


_models: WeakKeyDictionary[Any, _Opened] = WeakKeyDictionary()


def open_on(model: Any, *, fused: bool) -> Fusion | None:
    """Let a causal language model take packed passes; returns which of its layers are fused for this one, None where
    none is to be."""
    opened = _models.get(model)
    if opened is None:
        opened = _models[model] = _Opened(model.config._attn_implementation)
        model.set_attn_implementation(attention.before(opened.own))
    opened.passes += 1
    return fuse(model) if fused else None


def close_on(model: Any) -> None:
    """One packed pass less."""
    opened = _models[model]
    opened.passes -= 1
    if not opened.passes:
        unfuse(model)
        model.set_attn_implementation(opened.own)
        del _models[model]


@contextmanager
def paged(model: Any) -> Iterator[None]:
    """Around a pass whose attention goes to pages of keys and values: what is to attend travels as the layout does."""
    open_on(model, fused=False)
    try:
        with attention.unmasked():
            yield
    finally:
        close_on(model)
