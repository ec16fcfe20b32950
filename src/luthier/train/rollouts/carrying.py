"""Answers by an engine with weights of its own, and how it comes by those that train: its adapter is written to disk
under a name of its own and loaded there.

Which weights answer a rollout is decided by its number alone, and the adapters of all rollouts that a checkpoint may
still need stay on disk: a run that was killed goes on with the very ones.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from luthier import cache
from luthier.engines.openai.engine import RemoteEngine
from luthier.errors import LuthierError
from luthier.models import Policy
from luthier.models.saving import write_bare
from luthier.types import Completion, Encoded, Engine, Request, Sampling

LONGEST = 40
"""Characters of the run's own name in an adapter's: servers take short names."""


class Carrier:
    """The adapters of one run, in a folder that the engine sees."""

    def __init__(self, engine: Engine, policy: Policy, run: Path, folder: Path | None) -> None:
        self._engine, self._policy = engine, policy
        self._folder = (folder or run / "adapters").resolve()
        place = hashlib.blake2b(str(run.resolve()).encode(), digest_size=4).hexdigest()
        self._prefix = f"{re.sub(r'[^A-Za-z0-9.-]', '-', run.resolve().name)[:LONGEST].lstrip('.-') or 'run'}-{place}"
        self.name: str | None = None
        """What answers."""
        self._loaded: list[str] = []
        """By this process."""
        self._left: list[str] | None = None
        """Those that an earlier process may have left in a server; None: not looked for yet."""

    def use(self, version: int, now: int) -> None:
        """Have the weights answer that have `version` steps behind them; those of the model have `now`. Raises
        LuthierError where they are gone, and where the engine does not take them."""
        name = self._name(version)
        self._clear()
        if name not in self._loaded:
            place = self._folder / name
            if version == now:
                with cache.whole_folder(place, "the adapter for the engine") as temporary:
                    write_bare(self._policy, temporary)
            elif not place.is_dir():
                raise LuthierError(
                    f"the adapter of step {version}, whose answers are not all there, is gone",
                    where=str(place),
                    fix="remove the newest folder in checkpoints/ and run the same command again: the run goes on from "
                    "the one before it",
                )
            self._engine.load_adapter(name, str(place))
            self._loaded.append(name)
        self.name = name
        for other in [other for other in self._loaded if other != name]:
            self._engine.drop_adapter(other)
            self._loaded.remove(other)

    def prune(self, version: int) -> None:
        """No checkpoint needs adapters from before this version."""
        for place in self._places():
            if place.name < self._name(version) and place.name not in self._loaded:
                shutil.rmtree(place)

    def forget(self) -> None:
        """None is needed any more."""
        self._clear()
        for name in self._loaded:
            self._engine.drop_adapter(name)
        self._loaded, self.name = [], None
        for place in self._places():
            shutil.rmtree(place)

    def _clear(self) -> None:
        """Once: have a server forget what an earlier process loaded into it."""
        if self._left is None:
            self._left = [place.name for place in self._places()]
            for name in self._left if isinstance(self._engine, RemoteEngine) else ():
                self._engine.drop_adapter(name)

    def _name(self, version: int) -> str:
        return f"{self._prefix}-{version:06d}"

    def _places(self) -> list[Path]:
        return sorted(self._folder.glob(f"{self._prefix}-??????"))


class Elsewhere:
    """An engine with weights of its own, asked by the adapter that a carrier has loaded; without one, as it stands."""

    def __init__(self, engine: Engine, carrier: Carrier | None = None, tokens: int | None = None) -> None:
        """`tokens`: how many the model that trains has embeddings for."""
        self.engine, self.carrier, self.context = engine, carrier, engine.context
        self._tokens = tokens

    def run(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """As `Engine.run`; which adapter answers is decided when this is called. Raises LuthierError for a token that
        the model does not have."""
        name = None if self.carrier is None else self.carrier.name
        return map(self._readable, self.engine.run([replace(request, adapter=name) for request in requests]))

    def _readable(self, completion: Completion) -> Completion:
        odd = [token for token in completion.sampled if not 0 <= token < (self._tokens or token + 1)]
        if odd:
            raise LuthierError(
                f"the engine has drawn the token {odd[0]:,}, and the model that trains has {self._tokens:,}: it "
                "answers by another model",
                where="rollout.engine",
                fix="have it serve the model that trains, or name that one in its `model`",
            )
        return completion

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Completion]:
        """As `Engine.generate`, by the engine as it stands."""
        return self.engine.generate(prompts, sampling)

    def stream(self, prompt: Sequence[int], sampling: Sampling) -> Iterator[str]:
        """As `Engine.stream`, by the engine as it stands."""
        return self.engine.stream(prompt, sampling)

    def logprobs(self, rows: Sequence[Encoded], adapter: str | None = None) -> list[NDArray[np.float32]]:
        """As `Engine.logprobs`."""
        return self.engine.logprobs(rows, adapter)

    def load_adapter(self, name: str, folder: str) -> None:
        """As `Engine.load_adapter`."""
        self.engine.load_adapter(name, folder)

    def drop_adapter(self, name: str) -> None:
        """As `Engine.drop_adapter`."""
        self.engine.drop_adapter(name)

    def sync(self, version: int) -> None:
        """Its weights follow by `use` alone."""

    def use(self, version: int, now: int) -> None:
        """As `Carrier.use`."""
        if self.carrier is not None:
            self.carrier.use(version, now)
