import sys
from pathlib import Path

import pytest

from luthier.errors import LuthierError
from luthier.run import Run
from luthier.train import TRACKERS
from luthier.train.telemetry.trackers import metrics
from luthier.types import Tracker

STEP = {"kind": "step", "time": 1.0, "step": 3, "epoch": 0.5, "loss": 2.5, "lr": 1e-3, "note": "x", "best": True}


def test_numbers_of_an_event() -> None:
    assert metrics(STEP) == {"train/epoch": 0.5, "train/loss": 2.5, "train/lr": 1e-3}
    assert metrics({"kind": "evaluation", "step": 3, "loss": 2.0}) == {"evaluation/loss": 2.0}
    assert metrics({"kind": "checkpoint", "step": 3}) == {}


def test_tensorboard_holds_the_curve(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = TRACKERS.build("tensorboard").open(Run(tmp_path), {"train.lr": 1e-3})
    assert isinstance(tracker, Tracker)
    tracker.log(STEP)
    tracker.log({**STEP, "step": 4, "loss": 2.25})
    tracker.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(point.step, point.value) for point in events.Scalars("train/loss")] == [(3, 2.5), (4, 2.25)]


@pytest.mark.parametrize("name", ["wandb", "mlflow", "swanlab", "trackio"])
def test_a_missing_package_names_the_command_that_installs_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(LuthierError, match=rf"pip install 'luthier\[{name}\]'"):
        TRACKERS.build(name).open(Run(tmp_path), {})


def test_mlflow_keeps_its_database_in_the_run_folder(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    tracker = TRACKERS.build("mlflow").open(Run(tmp_path), {"data[0].path": "x"})
    tracker.log(STEP)
    tracker.close()
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("luthier")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.data.metrics["train/loss"] == 2.5 and found.data.params["data.0.path"] == "x"


def test_wandb_offline_stays_on_this_machine(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    tracker = TRACKERS.build("wandb", {"mode": "offline"}).open(Run(tmp_path), {"train.lr": 1e-3})
    tracker.log(STEP)
    tracker.close()
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def test_swanlab_local_stays_on_this_machine(tmp_path: Path) -> None:
    pytest.importorskip("swanlab")
    tracker = TRACKERS.build("swanlab", {"mode": "offline"}).open(Run(tmp_path), {"train.lr": 1e-3})
    tracker.log(STEP)
    tracker.close()
    assert list((tmp_path / "swanlab").iterdir())


def test_trackio_stays_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    tracker = TRACKERS.build("trackio").open(Run(tmp_path), {"train.lr": 1e-3})
    tracker.log(STEP)
    tracker.close()
    assert list((tmp_path / "trackio").iterdir())
