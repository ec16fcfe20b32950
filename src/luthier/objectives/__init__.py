"""Objectives: pure maths over ragged Rows. A method is one short class; the loop does everything else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.registry import Registry

OBJECTIVES = Registry(
    "objective",
    {
        "sft": "luthier.objectives.tokens:SFT",
        "pretrain": "luthier.objectives.tokens:Pretrain",
    },
)

__all__ = ["OBJECTIVES", "Rows"]

if TYPE_CHECKING:
    from luthier.objectives.rows import Rows


def __getattr__(name: str) -> Any:
    if name == "Rows":
        from luthier.objectives.rows import Rows

        return Rows
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
