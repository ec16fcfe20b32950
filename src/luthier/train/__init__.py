"""Training: one loop for every objective. Light to import: torch comes on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from luthier.registry import Registry

if TYPE_CHECKING:
    from luthier.train.checkpoint import latest
    from luthier.train.loop import fit
    from luthier.train.progress import FitResult

OPTIMIZERS = Registry(
    "optimizer",
    {
        "adamw": "luthier.train.optim:AdamW",
        "adamw_8bit": "luthier.train.optim:AdamW8bit",
        "adamw_paged": "luthier.train.optim:PagedAdamW",
        "adafactor": "luthier.train.optim:Adafactor",
        "muon": "luthier.train.optim:Muon",
    },
)
SCHEDULES = Registry(
    "schedule",
    {
        "cosine": "luthier.train.schedule:Cosine",
        "linear": "luthier.train.schedule:Linear",
        "constant": "luthier.train.schedule:Constant",
        "wsd": "luthier.train.schedule:WSD",
    },
)
TRACKERS = Registry(
    "tracker",
    {
        "tensorboard": "luthier.train.trackers:TensorBoard",
        "wandb": "luthier.train.trackers:Wandb",
        "mlflow": "luthier.train.trackers:MLflow",
        "swanlab": "luthier.train.trackers:SwanLab",
        "trackio": "luthier.train.trackers:Trackio",
    },
)

__all__ = ["OPTIMIZERS", "SCHEDULES", "TRACKERS", "FitResult", "fit", "latest"]

_HOMES = {"FitResult": "progress", "fit": "loop", "latest": "checkpoint"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
