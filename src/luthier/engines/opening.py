"""How engines are opened, and the settings of the one inside this process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from luthier.types import Engine

if TYPE_CHECKING:
    from luthier.engines.local.ticket import Settings
    from luthier.models import Policy


@dataclass(frozen=True)
class Opening(ABC):
    """What every engine's plug-in derives from: its fields are settings."""

    elsewhere: ClassVar[bool] = False
    """Has it weights of its own? Then it is opened on a model's files (`models.OnDisk`), not on one in memory, and the
    `stream` of its engine takes `turns`, too: what the prompt says, for an endpoint that renders messages itself."""
    mixes: ClassVar[bool] = False
    """Can it draw from a mixture of two models?"""
    scores: ClassVar[bool] = True
    """Can it tell how likely a given text is?"""

    def ready(self, *, base: bool) -> None:
        """Raise LuthierError for what would be refused when it is opened, as far as it is known before: long work may
        come first. `base`: is the model before training to answer too?"""
        return

    def identity(self) -> dict[str, Any]:
        """Those of its settings that answers hang on: what is begun under others is not gone on with."""
        return {}

    def following(self, model: Any, stop_ids: Collection[int], by: Literal["luthier", "vllm"] | None) -> Engine:
        """An engine with weights of its own that takes adapters while it runs; `by`: whose way of loading an endpoint
        has, None where it has to take none."""
        return self.open(model, stop_ids)

    def mixture(self, model: Any, stop_ids: Collection[int], share: float) -> Engine:
        """An engine that draws each token from a geometric mixture of the model and, with this share, the model without
        its adapter, where it `mixes`."""
        raise TypeError(f"{type(self).__name__} draws from no mixture of two models")

    @abstractmethod
    def open(self, model: Any, stop_ids: Collection[int]) -> Engine:
        """An engine that answers as the model; `stop_ids` end a sequence."""


@dataclass(frozen=True)
class Local(Opening):
    """Decoding inside this process, with the very weights that train."""

    mixes: ClassVar[bool] = True
    rows: Annotated[int, Field(gt=0)] = 64
    """The most answers under way at a time."""
    tokens: Annotated[int, Field(gt=0)] = 32_768
    """The most tokens that they may hold; beyond, the youngest is put back and read again later."""
    weights: Literal["own", "bf16", "int8"] = "bf16"
    """How a compiled step on the CPU reads the base. own: as it lies in memory. bf16: of an fp32 model, matrices that
    are frozen and hold only numbers that bf16 holds, as such: the same numbers in half the bytes. int8: all, rounded to
    255 steps a row: a quarter of the bytes, and other numbers."""

    def identity(self) -> dict[str, Any]:
        """Rounded weights give other answers."""
        return {"weights": self.weights} if self.weights == "int8" else {}

    def open(self, model: Policy, stop_ids: Collection[int]) -> Engine:
        """An engine that holds the policy's model; `stop_ids` end a sequence."""
        from luthier.engines.local import LocalEngine

        return LocalEngine(
            model.module, model.tokenizer, stop_ids, rows=self.rows, tokens=self.tokens, weights=self.weights
        )

    def mixture(self, model: Policy, stop_ids: Collection[int], share: float) -> Engine:
        """As `Opening.mixture`. Raises LuthierError for an adapter of virtual tokens, when it is first asked."""
        from luthier.engines.local.mixed import MixedEngine

        sizes: Settings = {"rows": self.rows, "tokens": self.tokens, "weights": self.weights}
        return MixedEngine(model.module, model.tokenizer, stop_ids, model.adapter_off, share, **sizes)
