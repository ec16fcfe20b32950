"""Where a run's numbers go besides events.jsonl: five services behind one small seam, none of them on by default.

A tracker's spec is a frozen dataclass with its recipe keys and `open(run, config)`, which gives a `types.Tracker`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from luthier.errors import missing_extra
from luthier.run import Run
from luthier.types import Tracker

Config = Mapping[str, Any]
"""The recipe as dotted key → value."""
LOGGED = {"step": "train", "rollout": "rollout", "evaluation": "evaluation", "end": "end"}
"""Kinds of event that have numbers, and the heading they go under."""


class TrackerSpec(Protocol):
    """The contract of the tracker seam."""

    def open(self, run: Run, config: Config) -> Tracker:
        """Begin. Raises LuthierError when the service's package is not installed."""
        ...


@dataclass
class Sink:
    """A tracker made of two functions: one takes (numbers by name, step), one ends it."""

    write: Callable[[dict[str, float], int], Any]
    end: Callable[[], Any]

    def log(self, event: Mapping[str, Any]) -> None:
        """Pass on an event's numbers, if its kind has any."""
        numbers = metrics(event)
        if numbers:
            self.write(numbers, int(event["step"]))

    def close(self) -> None:
        self.end()


def metrics(event: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an event under names like train/loss; {} for kinds without."""
    heading = LOGGED.get(event["kind"])
    if heading is None:
        return {}
    return {
        f"{heading}/{key}": float(value)
        for key, value in event.items()
        if key not in ("time", "step") and isinstance(value, int | float) and not isinstance(value, bool)
    }


REPORTS_OFF = {
    "WANDB_ERROR_REPORTING": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
"""What the services report about themselves is off unless the environment says otherwise: only the numbers go out."""


def _import(module: str, extra: str) -> Any:
    for name, value in REPORTS_OFF.items():
        os.environ.setdefault(name, value)
    try:
        return import_module(module)
    except ImportError as error:
        raise missing_extra(extra, extra, f"the tracker {extra!r}") from error


@dataclass(frozen=True)
class TensorBoard:
    """TensorBoard's event files, in the run folder unless `folder` says otherwise."""

    folder: str | None = None

    def open(self, run: Run, config: Config) -> Tracker:
        library = _import("torch.utils.tensorboard", "tensorboard")
        writer = library.SummaryWriter(log_dir=self.folder or str(run.folder / "tensorboard"))
        writer.add_text("recipe", "\n".join(f"    {key}: {value}" for key, value in config.items()))

        def write(numbers: dict[str, float], step: int) -> None:
            for name, number in numbers.items():
                writer.add_scalar(name, number, step)

        return Sink(write, writer.close)


@dataclass(frozen=True)
class Wandb:
    """Weights & Biases. It uploads as its own settings say; `mode: offline` keeps all on this machine."""

    project: str = "luthier"
    name: str | None = None
    entity: str | None = None
    mode: str | None = None

    def open(self, run: Run, config: Config) -> Tracker:
        library = _import("wandb", "wandb")
        remote = library.init(
            project=self.project,
            name=self.name or run.folder.name,
            entity=self.entity,
            mode=self.mode,
            dir=str(run.folder),
            config=dict(config),
        )
        return Sink(lambda numbers, step: remote.log(numbers, step=step), remote.finish)


@dataclass(frozen=True)
class MLflow:
    """MLflow, in a database of the run folder unless `tracking_uri` names a server."""

    experiment: str = "luthier"
    name: str | None = None
    tracking_uri: str | None = None

    def open(self, run: Run, config: Config) -> Tracker:
        library = _import("mlflow", "mlflow")
        client = library.MlflowClient(self.tracking_uri or f"sqlite:///{run.folder.resolve() / 'mlflow.db'}")
        found = client.get_experiment_by_name(self.experiment)
        experiment = found.experiment_id if found else client.create_experiment(self.experiment)
        identity = client.create_run(experiment, run_name=self.name or run.folder.name).info.run_id
        for key, value in config.items():
            client.log_param(identity, key.replace("[", ".").replace("]", ""), value)

        def write(numbers: dict[str, float], step: int) -> None:
            for name, number in numbers.items():
                client.log_metric(identity, name, number, step=step)

        return Sink(write, lambda: client.set_terminated(identity))


@dataclass(frozen=True)
class SwanLab:
    """SwanLab. It uploads as its own settings say; `mode: local` or `offline` keeps all on this machine."""

    project: str = "luthier"
    name: str | None = None
    workspace: str | None = None
    mode: str | None = None

    def open(self, run: Run, config: Config) -> Tracker:
        library = _import("swanlab", "swanlab")
        library.init(
            project=self.project,
            experiment_name=self.name or run.folder.name,
            workspace=self.workspace,
            mode=self.mode,
            logdir=str(run.folder / "swanlab"),
            config=dict(config),
        )
        return Sink(lambda numbers, step: library.log(numbers, step=step), library.finish)


@dataclass(frozen=True)
class Trackio:
    """trackio, which keeps its database on this machine; `space` also shows it in a hub space."""

    project: str = "luthier"
    name: str | None = None
    space: str | None = None

    def open(self, run: Run, config: Config) -> Tracker:
        library = _import("trackio", "trackio")
        library.init(project=self.project, name=self.name or run.folder.name, space_id=self.space, config=dict(config))
        return Sink(lambda numbers, step: library.log(numbers, step=step), library.finish)
