"""What the tests of our own adapters share: a tiny model, an adapter on it, some steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import tiny
import torch

from luthier.models.adapters import ADAPTERS, Adapter
from luthier.models.adapters.kit.attached import attach
from luthier.types import Encoded

IDS = torch.arange(3, 27).view(2, 12)


def on(module: Any, name: str, seed: int = 0, sample: Any = (), **keys: Any) -> tuple[Any, Adapter]:
    """(the module with the adapter on it, the adapter)"""
    adapter = ADAPTERS.build(name, keys)
    torch.manual_seed(seed)
    return attach(module, [adapter], sample), adapter


def logits(module: Any, ids: torch.Tensor = IDS, **inputs: Any) -> torch.Tensor:
    with torch.no_grad():
        return module(input_ids=ids, **inputs).logits.clone()


def step(module: Any, count: int = 3, lr: float = 0.05) -> None:
    """Some steps of Adam on everything that trains."""
    optimizer = torch.optim.Adam([weight for weight in module.parameters() if weight.requires_grad], lr)
    for _ in range(count):
        optimizer.zero_grad()
        module(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()


def rows(*shapes: tuple[int, int]) -> list[Encoded]:
    """Rows of (prompt, answer) tokens, all different."""
    draw, found = np.random.default_rng(0), []
    for prompt, answer in shapes:
        ids = draw.integers(3, tiny.VOCABULARY, prompt + answer).astype(np.int32)
        weights = np.r_[np.zeros(prompt), np.ones(answer)].astype(np.float32)
        found.append(Encoded((ids,), (weights,)))
    return found
