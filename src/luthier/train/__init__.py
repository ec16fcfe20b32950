"""Training: one loop for every objective. Light to import: torch comes on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from luthier.registry import Registry

if TYPE_CHECKING:
    from luthier.train.fitting import Beside, fit
    from luthier.train.loop.checkpoint import latest
    from luthier.train.loop.progress import FitResult

OPTIMIZERS = Registry(
    "optimizer",
    {
        "adamw": "luthier.train.optim.optimizers:AdamW",
        "adamw_8bit": "luthier.train.optim.optimizers:AdamW8bit",
        "adamw_paged": "luthier.train.optim.optimizers:PagedAdamW",
        "adafactor": "luthier.train.optim.optimizers:Adafactor",
        "muon": "luthier.train.optim.optimizers:Muon",
    },
)
SCHEDULES = Registry(
    "schedule",
    {
        "cosine": "luthier.train.optim.schedule:Cosine",
        "linear": "luthier.train.optim.schedule:Linear",
        "constant": "luthier.train.optim.schedule:Constant",
        "wsd": "luthier.train.optim.schedule:WSD",
    },
)
TRACKERS = Registry(
    "tracker",
    {
        "tensorboard": "luthier.train.telemetry.trackers:TensorBoard",
        "wandb": "luthier.train.telemetry.trackers:Wandb",
        "mlflow": "luthier.train.telemetry.trackers:MLflow",
        "swanlab": "luthier.train.telemetry.trackers:SwanLab",
        "trackio": "luthier.train.telemetry.trackers:Trackio",
    },
)

__all__ = ["OPTIMIZERS", "SCHEDULES", "TRACKERS", "Beside", "FitResult", "fit", "latest"]

_HOMES = {"Beside": "fitting", "FitResult": "loop.progress", "fit": "fitting", "latest": "loop.checkpoint"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
