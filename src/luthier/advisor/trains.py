"""What of a model trains under a recipe's adapters, told without its weights: from sizes where they say it, else from
the model built on no device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from luthier.errors import LuthierError
from luthier.models.adapters import Adapter
from luthier.models.adapters.base.freeze import Freeze
from luthier.models.adapters.base.full import Full
from luthier.models.adapters.kit.shape import Shape
from luthier.models.adapters.kit.targets import ALL_LINEAR
from luthier.models.adapters.peft.lora import Lora, LowRank
from luthier.models.adapters.peft.tuner import Layered

TRY = "train some steps: what a step takes is shown, and kept"
"""What is left to do where nothing is told beforehand."""
FUSED_KINDS = ("llama", "mistral", "qwen2", "qwen3")
"""Model kinds whose layers have fused blocks (`models/blocks/fused.py`)."""
FUSED_ADAPTERS = ("lora", "rslora", "pissa", "olora", "eva", "corda", "lora_ga", "gelora", "oft", "full", "freeze")
"""Ways to adapt that fused blocks compute."""


@dataclass(frozen=True)
class Trains:
    """What trains of a model."""

    added: int
    """Numbers beside the base, in fp32."""
    own: int
    """Numbers of the base."""
    first: int
    """The lowest block that gradients go through, counted from 0; the number of blocks where it is none."""
    ranks: int
    """Widths of the low-rank products of one block, together."""
    head: bool
    """The output head, or the embeddings that it is one with."""
    matrices: int
    """Of `own`, numbers of the blocks' matrices."""
    fused: bool
    """The blocks can be the fused ones."""
    lengths: bool = False
    """Lengths of the matrices' rows train beside their directions (DoRA), so outputs are kept twice more."""

    @property
    def numbers(self) -> int:
        """All that train."""
        return self.added + self.own


def trains(shape: Shape, adapters: Sequence[tuple[str, Adapter]], folder: Path | None = None) -> Trains:
    """What trains of a model of this shape under these adapters, in the order in which they are attached; `folder` has
    its configuration, for what sizes do not tell. Raises LuthierError where it cannot be known without the weights."""
    found = _by_sizes(shape, adapters)
    if found is not None:
        return found
    if folder is None:
        names = ", ".join(name for name, _ in adapters)
        raise LuthierError(f"what `adapt: {names}` trains is not told by the model's sizes alone", fix=TRY)
    return _built(folder, shape, adapters)


def _fuses(shape: Shape, adapters: Sequence[tuple[str, Adapter]]) -> bool:
    dropout = any(isinstance(adapter, LowRank) and adapter.dropout > 0 for _, adapter in adapters)
    plain = not dropout and not _lengths(adapters) and all(name in FUSED_ADAPTERS for name, _ in adapters)
    return shape.kind in FUSED_KINDS and plain


def _lengths(adapters: Sequence[tuple[str, Adapter]]) -> bool:
    return any(name == "dora" or (isinstance(adapter, Lora) and adapter.dora) for name, adapter in adapters)


def _by_sizes(shape: Shape, adapters: Sequence[tuple[str, Adapter]]) -> Trains | None:
    """What sizes alone tell; None where they do not."""
    fused, first, head = _fuses(shape, adapters), 0, True
    frozen_tables = False
    adding: tuple[str, Adapter] | None = None
    for name, adapter in adapters:
        if isinstance(adapter, Freeze):
            if adapter.pattern is not None or adapter.only is not None:
                return None
            first = adapter.frozen_blocks(shape.blocks)
            frozen_tables = first > 0 if adapter.embeddings is None else adapter.embeddings
            head = adapter.last is None and not (shape.tied and frozen_tables)
        elif isinstance(adapter, Layered):
            adding = (name, adapter)
        elif not isinstance(adapter, Full):
            return None
    if adding is None:
        tables = (not frozen_tables) * shape.table + (0 if shape.tied else head * shape.table)
        matrices = (shape.blocks - first) * shape.matrices
        own = (shape.blocks - first) * shape.block + shape.width + tables
        if not frozen_tables:
            first = 0
        return Trains(0, own, first, 0, head, matrices, fused)
    layered = adding[1]
    assert isinstance(layered, Layered)
    uneven = isinstance(layered, LowRank) and (layered.ranks or layered.save_modules)
    above = replace(shape, blocks=shape.blocks - first)
    if layered.targets != ALL_LINEAR or uneven or not above.blocks:
        return None
    count = layered.count(above)
    if count is None:
        return None
    layers = len(shape.linear()) // shape.blocks
    ranks = layers * layered.r if isinstance(layered, LowRank) else 0
    return Trains(count, 0, first, ranks, False, 0, fused, _lengths(adapters))


def _built(folder: Path, shape: Shape, adapters: Sequence[tuple[str, Adapter]]) -> Trains:
    """What trains of the model that the configuration describes, its weights without a place in memory."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from luthier.models.adapters.kit.attached import attach
    from luthier.models.adapters.kit.depth import blocks

    names = ", ".join(name for name, _ in adapters)
    if any(adapter.sample_rows for _, adapter in adapters):
        what = f"what `adapt: {names}` trains is decided by the rows, when the run begins"
        raise LuthierError(what, fix=TRY)
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    with torch.device("meta"):
        module: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
        own = {id(weight) for weight in module.parameters()}
        try:
            wrapped = attach(module, [adapter for _, adapter in adapters])
        except (RuntimeError, NotImplementedError, ValueError, TypeError) as error:
            what = f"what `adapt: {names}` trains is not told without the model's weights"
            raise LuthierError(what, fix=TRY) from error
    training = {id(weight): weight for weight in wrapped.parameters() if weight.requires_grad}
    base = [weight for key, weight in training.items() if key in own]
    added = [weight for key, weight in training.items() if key not in own]
    layers = blocks(module)
    parts = [{id(weight) for weight in layer.parameters()} & training.keys() for layer in layers]
    tables = {id(weight) for weight in module.get_input_embeddings().parameters()} & training.keys()
    outside = [key for key in training if not any(key in part for part in parts)]
    first = next((number for number, part in enumerate(parts) if part), len(layers))
    output = module.get_output_embeddings()
    head = output is not None and any(id(weight) in training for weight in output.parameters())
    if tables or (outside and any(id(weight) in outside for weight in added)):
        first = 0
    down = [w.shape[0] for n, w in layers[-1].named_parameters() if w.requires_grad and "lora_A" in n]
    inside = set().union(*parts)
    matrices = sum(weight.numel() for weight in base if id(weight) in inside and weight.ndim > 1)
    return Trains(
        sum(weight.numel() for weight in added), sum(weight.numel() for weight in base), first, sum(down), head,
        matrices, _fuses(shape, adapters), _lengths(adapters),
    )  # fmt: skip
