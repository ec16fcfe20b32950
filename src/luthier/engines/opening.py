"""The settings of each engine, and how it is opened on a model."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from luthier.types import Engine

if TYPE_CHECKING:
    from luthier.models import Policy


@dataclass(frozen=True)
class Local:
    """Decoding inside this process, with the very weights that train."""

    rows: Annotated[int, Field(gt=0)] = 64
    """The most sequences decoded at a time."""
    tokens: Annotated[int, Field(gt=0)] = 32_768
    """The most tokens that they may hold together with their room to grow."""

    def open(self, policy: Policy, stop_ids: Collection[int]) -> Engine:
        """An engine that holds the policy's model; `stop_ids` end a sequence."""
        from luthier.engines.local import LocalEngine

        return LocalEngine(policy.module, policy.tokenizer, stop_ids, rows=self.rows, tokens=self.tokens)
