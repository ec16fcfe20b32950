"""The outputs of frozen blocks, kept on disk in the first epoch: later epochs begin above them.

What enters the lowest block that trains depends on a row's tokens alone, as long as nothing below trains or is drawn
at random. So it is stored row by row under the hash of the row's tokens, wherever these lie in a micro-batch: packed,
padded or sharing a prefix with others. A micro-batch whose rows are all there skips the blocks below; any other is
computed as usual and stored. Values are stored as computed, so that an epoch that starts from them equals one that
does not to rounding, and a resumed run equals an uninterrupted one to the bit.

Shape suffixes: T = tokens of a micro-batch (padding too), L = tokens of a row, D = hidden size.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from luthier.errors import LuthierError
from luthier.forward.batches import Batch
from luthier.forward.forward import Forward
from luthier.models import dropout
from luthier.models.adapters.kit.attached import bare
from luthier.models.adapters.kit.depth import blocks, embeddings
from luthier.recipe.schema import Recipe
from luthier.train.roles.backbone_states import States
from luthier.train.telemetry.log import Log
from luthier.types import StepSource, TokenStore

FOLDER = "backbone"
"""In the run folder, until the run has ended."""
GIB = 2**30


class Backbone:
    """Called with a micro-batch, gives the block inside which the model's forward pass begins above the backbone."""

    def __init__(self, model: Any, depth: int, states: States) -> None:
        self.layers, self.depth, self.states = blocks(model), depth, states
        self.computed, self.served, self.seconds, self.reading = 0, 0, 0.0, 0.0
        self._began = 0.0
        self._paths: dict[bytes, NDArray[np.int64]] | None = None
        self._hooks = [
            self.layers[0].register_forward_pre_hook(self._begin),
            self.layers[depth - 1].register_forward_hook(self._keep),
        ]

    def close(self) -> None:
        """Take the hooks off the model."""
        for hook in self._hooks:
            hook.remove()

    @contextmanager
    def __call__(self, batch: Batch) -> Iterator[None]:
        """Inside the block one forward pass over `batch` takes what is kept, or is kept."""
        paths = _keys(batch)
        if all(key in self.states for key in paths):
            began = time.perf_counter()
            hidden_TD = self._read(paths, batch)
            self.reading += time.perf_counter() - began
            self.served += hidden_TD.shape[0]
            with self._skipping(hidden_TD.view(*batch.shape, -1)):
                yield
            return
        self._paths = paths
        try:
            yield
        finally:
            self._paths = None

    @property
    def saved(self) -> float | None:
        """Seconds that the later epochs did not need, by what tokens took to compute; None if none was computed now."""
        return self.served * self.seconds / self.computed - self.reading if self.computed else None

    def _read(self, paths: dict[bytes, NDArray[np.int64]], batch: Batch) -> Tensor:
        size = batch.shape[0] * batch.shape[1]
        hidden_TD = torch.zeros(size, self.states.width, dtype=self.states.dtype)  # zeros: padding and filler
        for key, place in paths.items():
            hidden_TD[torch.from_numpy(place)] = self.states.read(key)
        return hidden_TD.to(batch.ids_T.device)

    @contextmanager
    def _skipping(self, hidden: Tensor) -> Iterator[None]:
        """The frozen blocks are passed by; the last one of them gives `hidden`."""
        own = list(self.layers[: self.depth])
        for number, layer in enumerate(own):
            self.layers[number] = _Passed(layer, hidden)
        try:
            yield
        finally:
            for number, layer in enumerate(own):
                self.layers[number] = layer

    # while the backbone is computed
    def _begin(self, *_: Any) -> None:
        if self._paths is not None:
            self._began = self._clock()

    def _keep(self, _layer: Any, _args: Any, hidden: Any) -> None:
        if self._paths is None:
            return
        if not isinstance(hidden, Tensor):
            raise LuthierError(
                "the outputs of this model's blocks cannot be kept",
                where="adapt.freeze.cache_backbone",
                fix="leave it out",
            )
        hidden_TD = hidden.detach().reshape(-1, hidden.shape[-1])
        self.seconds += self._clock() - self._began
        self.computed += hidden_TD.shape[0]
        for key, place in self._paths.items():
            if key not in self.states:
                self.states.add(key, hidden_TD[torch.from_numpy(place).to(hidden_TD.device)])

    def _clock(self) -> float:
        if next(self.layers[0].parameters()).is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()


class _Passed(nn.Module):
    """Stands in a block's place and gives what the backbone gave, whatever it is called with."""

    def __init__(self, layer: nn.Module, hidden: Tensor) -> None:
        super().__init__()
        object.__setattr__(self, "original", layer)  # not a submodule: this one has no parameters
        object.__setattr__(self, "hidden", hidden)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["original"], name)  # e.g. attention_type, which the model's loop reads

    def forward(self, *_: Any, **__: Any) -> Tensor:
        hidden: Tensor = self.__dict__["hidden"]
        return hidden


def _keys(batch: Batch) -> dict[bytes, NDArray[np.int64]]:
    """Where the tokens of each different row lie, under the hash of what the model reads there."""
    ids_N = (ids for example in batch.examples for ids in example.identity_ids)
    return {
        blake2b(ids.astype("<i8").tobytes(), digest_size=16).digest(): place
        for ids, place in zip(ids_N, batch.places, strict=True)
    }


@contextmanager
def kept(
    policy: Any, forward: Forward, source: StepSource, validation: TokenStore | None, recipe: Recipe, log: Log
) -> Iterator[None]:
    """Inside the block the frozen blocks' outputs are kept, if an adapter asks for it and rows come again.

    Raises LuthierError where later epochs would not be the same, and where the disk cannot hold what is to be kept.
    The screen is told, and an event written of what was saved.
    """
    if not any(adapter.keeps_backbone for adapter in policy.adapters):
        yield
        return
    depth = frozen_depth(policy.module)
    refuse_noise(policy.module, depth, recipe.train.neftune)
    every = source.every()
    if every is None or source.epoch(source.total - 1) <= 1:
        log.screen.say("backbone: not kept, for the run sees each row only once")
        yield
        return
    model, known = bare(policy.module), [each for each in (every, validation) if each is not None]
    width, dtype = model.config.get_text_config().hidden_size, next(blocks(model)[0].parameters()).dtype
    limit = sum(len(examples[i]) for examples in known for i in range(len(examples)))
    identity = f"{policy.digest} {depth} {width} {dtype}"
    states = States(log.run.folder / FOLDER, width, dtype, limit, identity)
    states.require_space()
    log.screen.say(
        f"backbone: the outputs of the lowest {depth} of {len(blocks(model))} blocks are kept in the first epoch "
        f"(at most {states.most / GIB:.2f} GiB in {states.folder}, given back at the end)"
    )
    backbone = forward.backbone = Backbone(model, depth, states)
    try:
        yield
        tell(backbone, log)
        states.remove()
    finally:
        forward.backbone = nullcontext
        backbone.close()
        states.close()


def pass_by(policy: Any, log: Log) -> None:
    """Say that nothing is kept, where it was asked for: each micro-batch may be computed by another process."""
    if any(adapter.keeps_backbone for adapter in policy.adapters):
        log.screen.say("backbone: not kept, for micro-batches go to several processes or may (train.parts)")


def tell(backbone: Backbone, log: Log) -> None:
    """Say what was saved."""
    size, saved = backbone.states.nbytes, backbone.saved
    counts = {"computed": backbone.computed, "served": backbone.served, "bytes": size}
    log.event("backbone", blocks=backbone.depth, **counts, seconds_saved=None if saved is None else round(saved, 3))
    gain = "" if saved is None else f", which saved about {saved:.1f} s"
    if saved is not None and saved < 0:
        gain = f", and reading them took {-saved:.1f} s longer than computing them: leave cache_backbone out here"
    log.screen.say(
        f"backbone: {backbone.served:,} tokens began above the frozen blocks"
        + gain
        + f" ({size / GIB:.2f} GiB on disk)"
    )


def frozen_depth(module: Any) -> int:
    """How many blocks lie below everything that trains. Raises LuthierError, with the reason, when there are none."""
    model = bare(module)
    inside = {id(weight) for weight in model.parameters()}
    layers, tables = blocks(model), {id(weight) for each in embeddings(model) for weight in each.parameters()}
    within = {id(weight) for weight in layers.parameters()}
    ends = [part for part in model.modules() if "norm" in type(part).__name__.lower()]
    head = model.get_output_embeddings()
    above = {id(weight) for part in [*ends, *([head] if head is not None else [])] for weight in part.parameters()}
    for name, weight in module.named_parameters():
        if weight.requires_grad and id(weight) not in within:
            if id(weight) in tables:
                raise _inexact("the embeddings train", "freeze them too (they are, unless `embeddings: false`)")
            if id(weight) not in inside or id(weight) not in above:
                raise _inexact(f"{name} trains below the blocks", "leave cache_backbone out")
    for depth, layer in enumerate(layers):
        if any(weight.requires_grad for weight in layer.parameters()):
            if depth:
                return depth
            raise _inexact("the lowest block trains: there is no frozen backbone", "freeze blocks with `bottom`")
    return len(layers)


def refuse_noise(module: Any, depth: int, neftune: float | None) -> None:
    """Raises LuthierError where the backbone's outputs differ from one pass to the next."""
    if neftune:
        raise _inexact("NEFTune adds other noise to the embeddings each time", "leave train.neftune out")
    model = bare(module)
    above = {id(part) for layer in blocks(model)[depth:] for part in layer.modules()}
    names = {id(part): name for name, part in model.named_modules()}
    for rate in dropout.of_base(module):
        if id(rate.module) not in above:
            raise _inexact(f"{names[id(rate.module)]} has a dropout of {rate.value}", "leave cache_backbone out")


def _inexact(why: str, fix: str) -> LuthierError:
    return LuthierError(
        f"the frozen blocks' outputs cannot be kept: {why}", where="adapt.freeze.cache_backbone", fix=fix
    )
