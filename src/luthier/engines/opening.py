"""The settings of the engine inside this process, and what engines elsewhere are told of a model."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from luthier.types import Engine

if TYPE_CHECKING:
    from luthier.models import Policy


@dataclass(frozen=True)
class OnDisk:
    """A model as its files: all that an engine with weights of its own is told of it."""

    tokenizer: Any
    folder: Path
    """Its weights, or those under its adapter."""
    adapter: Path | None = None
    """What a run has trained beside them, in PEFT's format."""
    is_base: bool = False
    """Is it what a run began with, scored beside what it has trained?"""


@dataclass(frozen=True)
class Local:
    """Decoding inside this process, with the very weights that train."""

    elsewhere: ClassVar[bool] = False
    """Has it weights of its own? Then it is opened on a model's files (`OnDisk`), not on the model in memory."""

    rows: Annotated[int, Field(gt=0)] = 64
    """The most sequences decoded at a time."""
    tokens: Annotated[int, Field(gt=0)] = 32_768
    """The most tokens that they may hold together with their room to grow."""

    def open(self, policy: Policy, stop_ids: Collection[int]) -> Engine:
        """An engine that holds the policy's model; `stop_ids` end a sequence."""
        from luthier.engines.local import LocalEngine

        return LocalEngine(policy.module, policy.tokenizer, stop_ids, rows=self.rows, tokens=self.tokens)
