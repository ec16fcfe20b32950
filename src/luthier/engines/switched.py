"""An engine over a model in memory that answers with its adapter off: as the model was before training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import numpy as np
from numpy.typing import NDArray

from luthier.types import Completion, Encoded, Engine, Request, Sampling


class AdapterOff:
    """An engine that works on a model with its adapter off."""

    def __init__(self, engine: Engine, off: Callable[[], AbstractContextManager[None]]) -> None:
        self.engine, self._off, self.context = engine, off, engine.context

    def run(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """As `Engine.run`; the adapter is off from the first completion to the last."""
        return self._all(self.engine.run(requests))

    def _all(self, completions: Iterator[Completion]) -> Iterator[Completion]:
        with self._off():
            yield from completions

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Completion]:
        """As `Engine.generate`."""
        with self._off():
            return self.engine.generate(prompts, sampling)

    def stream(self, prompt: Sequence[int], sampling: Sampling) -> Iterator[str]:
        """As `Engine.stream`."""
        with self._off():
            yield from self.engine.stream(prompt, sampling)

    def logprobs(self, rows: Sequence[Encoded], adapter: str | None = None) -> list[NDArray[np.float32]]:
        """As `Engine.logprobs`."""
        with self._off():
            return self.engine.logprobs(rows, adapter)

    def load_adapter(self, name: str, folder: str) -> None:
        """As `Engine.load_adapter`."""
        self.engine.load_adapter(name, folder)

    def drop_adapter(self, name: str) -> None:
        """As `Engine.drop_adapter`."""
        self.engine.drop_adapter(name)

    def sync(self, version: int) -> None:
        """As `Engine.sync`."""
        self.engine.sync(version)
