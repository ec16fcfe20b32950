"""Noise that a model has of its own while it trains: dropout, dropped layers, the jitter of a router.

Transformers holds the rates in two ways: in modules for it (`nn.Dropout`, `DropPath`), and as numbers of the modules
that draw it themselves (`attention_dropout`, `layerdrop`, `router_jitter_noise`). Both are told by their names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from luthier.models.adapters.kit.attached import bare

NOISY = re.compile(r"drop|jitter")
OF_ATTENTION = re.compile(r"att\w*drop|att(n|ention)\.dropout")
"""Names of the rates at which attention drops probabilities, told from those of an attention's other dropout."""


@dataclass(frozen=True)
class Rate:
    """One rate above zero: `vars(module)[key]`."""

    module: Any
    key: str
    value: float


def of_base(module: Any) -> list[Rate]:
    """The rates of the base's own modules."""
    added = {id(part) for part in _added(module)}
    return [rate for part in bare(module).modules() if id(part) not in added for rate in _rates(part)]


def in_attention(module: nn.Module) -> bool:
    """Would the base drop some of its attention probabilities in the mode that it is in?"""
    return module.training and any(
        OF_ATTENTION.search(f"{name}.{rate.key}")
        for name, part in bare(module).named_modules()
        for rate in _rates(part)
    )


def of_adapters(module: Any) -> list[Rate]:
    """The rates of the modules that PEFT has added (ours have none)."""
    return [rate for part in _added(module) for rate in _rates(part)]


@contextmanager
def off(rates: list[Rate]) -> Iterator[None]:
    """Inside the block these rates are zero."""
    for rate in rates:
        setattr(rate.module, rate.key, 0.0)
    try:
        yield
    finally:
        for rate in rates:
            setattr(rate.module, rate.key, rate.value)


def _rates(part: nn.Module) -> list[Rate]:
    made_for_it = NOISY.search(type(part).__name__.lower()) is not None
    return [
        Rate(part, key, value)
        for key, value in vars(part).items()
        if isinstance(value, float) and value > 0 and (NOISY.search(key) or (made_for_it and key == "p"))
    ]


def _added(module: Any) -> Iterator[nn.Module]:
    """What is no part of the base: PEFT's layers but for the base's own inside, and its makers of virtual tokens."""
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer

    for layer in bare(module).modules():
        if isinstance(layer, BaseTunerLayer):
            for name, part in layer.named_children():  # type: ignore[attr-defined]
                if name != "base_layer":
                    yield from part.modules()
    if isinstance(module, PeftModel):
        yield from getattr(module, "prompt_encoder", nn.Module()).modules()
