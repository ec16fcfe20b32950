"""What answers the requests of one adapter, or of none: the reader that reads its model fastest, and its scheduler."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from luthier.engines.local.alone import AloneReader
from luthier.engines.local.paged import PagedReader
from luthier.engines.local.scheduler import Scheduler
from luthier.engines.local.weights import Watch
from luthier.errors import LuthierError
from luthier.models.decode.compiled import CompiledReader
from luthier.models.decode.copies import Copies, Kind
from luthier.models.decode.step import Reader
from luthier.models.decode.weights import weights


@dataclass(eq=False)
class Lane:
    """What answers the requests of one adapter that needs the model to itself, or of none."""

    scheduler: Scheduler
    context: int | None
    watch: Watch = field(default_factory=Watch)


def reader(module: Any, kind: Kind) -> Reader:
    """What reads this model's tokens fastest."""
    compiled = CompiledReader.of(module, kind)
    if isinstance(compiled, CompiledReader):
        return compiled
    return AloneReader(module) if PagedReader.why_not(module) else PagedReader(module)


def renewed(reader: Reader, module: Any) -> bool:
    """Can this reader go on with the model as it is by now? (It may have been cast, an adapter merged or switched.)"""
    compiled = not isinstance(weights(module, Copies("own")), str)
    if compiled != isinstance(reader, CompiledReader):
        return False
    try:
        reader.refresh()
    except LuthierError:
        return False
    return True


@contextmanager
def inference(module: Any, reader: Reader | None = None) -> Iterator[None]:
    """No gradients, no dropout; afterwards the module is in the mode it was in.

    `reader`: what alone reads it meanwhile. The compiled one calls no module, and to switch thousands of them at each
    token would take a tenth of its time.
    """
    training = module.training and not isinstance(reader, CompiledReader)
    if training:
        module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        if training:
            module.train()
