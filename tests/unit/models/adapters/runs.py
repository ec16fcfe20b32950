"""Tiny training runs of any adapters, seen step by step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tiny
import torch

from luthier.models.adapters import build
from luthier.models.adapters.kit.attached import attach
from luthier.objectives import OBJECTIVES
from luthier.recipe import Plugin
from luthier.run import Run
from luthier.train import Beside, fit

Weights = dict[str, torch.Tensor]


class Interrupted(Exception):
    pass


def plugin(name: str, **args: Any) -> Plugin:
    return Plugin(name=name, args=args)


def model(layers: int = 4, hidden: int = 32, *, tied: bool = False, dtype: torch.dtype = torch.float32) -> Any:
    sizes = {"num_hidden_layers": layers, "hidden_size": hidden, "intermediate_size": hidden + 16}
    return tiny.model(2, dtype, **sizes, tie_word_embeddings=tied)


def policy(*adapt: Plugin, module: Any = None) -> tiny.Policy:
    adapters = build(adapt)
    return tiny.Policy(attach(module if module is not None else model(), adapters), adapters=adapters)


def state(trained: tiny.Policy) -> Weights:
    """Every tensor of the model, without the fused layers' doubles."""
    return {name: tensor.detach().clone() for name, tensor in trained.module.state_dict().items()}


def train(
    trained: tiny.Policy,
    folder: Path,
    seen: Callable[[int, Weights], None] | None = None,
    *,
    die: int = -1,
    **keys: Any,
) -> None:
    """`seen` is given every step's number (from 0) and the weights after it; the run dies at step `die`."""

    def watch(event: Mapping[str, Any]) -> None:
        if event["kind"] == "step":
            if seen is not None:
                seen(event["step"] - 1, state(trained))
            if event["step"] == die:
                raise Interrupted

    settings = {"steps": 8, "log_every": 1, "schedule": "constant", "warmup": 0, "weight_decay": 0.0, **keys}
    recipe = tiny.recipe(folder, **settings)
    prepared = tiny.Prepared(tiny.Store(24))
    fit(trained, OBJECTIVES.build("sft"), prepared, recipe, Run(folder), beside=Beside(watch=watch))


def changed(before: Weights, after: Weights) -> set[str]:
    return {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
