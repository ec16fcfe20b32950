"""Killed and resumed = never killed: the same weights bit by bit and the same event log, wherever the kill strikes."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from luthier.objectives import OBJECTIVES
from luthier.recipe import Validate
from luthier.run import Run
from luthier.train import Beside, FitResult, fit
from luthier.train.loop import checkpoint

# forked from a server that has torch loaded already: a process costs milliseconds, not seconds
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tiny", "luthier.train.fitting"])
OF_THE_CLOCK = {"time", "tokens_per_s", "memory", "seconds", "peak_memory"}
Watch = Callable[[Mapping[str, Any]], None]


def train(folder: Path, watch: Watch | None = None, **settings: Any) -> tuple[FitResult, dict[str, torch.Tensor]]:
    """Eight steps with all that draws random numbers: order, dropout, noise; with evaluations and a best one.

    The weights are those the run ends with (of the best evaluation) and those of its last step.
    """
    options = {"epochs": 2, "save_every": 3, "neftune": 5.0, "micro_tokens": 64, **settings}
    recipe = tiny.recipe(folder, validate=Validate(share=0.1, every=2), **options)
    policy = tiny.Policy(tiny.lora(dropout=0.1))
    prepared = tiny.Prepared(tiny.Store(30), tiny.Store(6, seed=1))
    result = fit(policy, OBJECTIVES.build("sft"), prepared, recipe, Run(folder), beside=Beside(watch=watch))
    last = checkpoint.latest(Run(folder))
    assert last is not None and last.step == result.steps == 8
    return result, {**policy.snapshot(), **{f"last.{name}": weight for name, weight in last.weights().items()}}


def log(folder: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in event.items() if key not in OF_THE_CLOCK} for event in Run(folder).events()]


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def train_and_die(folder: Path, where: str, count: int) -> None:
    """Train until the `count`-th time that `where` happens, then die without warning."""
    seen = 0

    def now(place: str) -> None:
        nonlocal seen
        seen += place == where
        if seen == count:
            die()

    def before(place: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def dying(*args: Any, **keys: Any) -> Any:
            now(place)
            return call(*args, **keys)

        return dying

    # a kill between two system calls of a checkpoint: the functions it is written with die instead of working
    checkpoint.save_file = before("writing a file", checkpoint.save_file)
    checkpoint._sync = before("syncing", checkpoint._sync)
    checkpoint.prune = before("removing old ones", checkpoint.prune)
    Path.rename = before("renaming", Path.rename)
    train(folder, lambda event: now(event["kind"]))


@pytest.fixture(scope="module")
def never_killed(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]], Path]:
    folder = tmp_path_factory.mktemp("whole")
    _, weights = train(folder)
    return weights, log(folder), folder


@pytest.mark.parametrize(
    ("where", "count"),
    [
        pytest.param("step", 1, id="before the first checkpoint"),
        pytest.param("step", 4, id="between checkpoints"),
        pytest.param("evaluation", 2, id="after an evaluation"),
        pytest.param("checkpoint", 2, id="before a checkpoint is begun"),
        pytest.param("writing a file", 5, id="with weights written and the optimiser not"),
        pytest.param("syncing", 7, id="while a checkpoint is synced"),
        pytest.param("renaming", 1, id="before the first checkpoint takes its name"),
        pytest.param("renaming", 3, id="before a later one takes its name"),
        pytest.param("removing old ones", 2, id="before old ones are removed"),
        pytest.param("end", 1, id="at the very end"),
    ],
)
def test_killed_and_resumed_is_never_killed(where: str, count: int, never_killed: Any, tmp_path: Path) -> None:
    process = PROCESSES.Process(target=train_and_die, args=(tmp_path, where, count))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    _, weights = train(tmp_path)
    expected, events, folder = never_killed
    assert all(torch.equal(weights[name], weight) for name, weight in expected.items())
    assert log(tmp_path) == events
    assert checkpoints(tmp_path) == checkpoints(folder)


class Interrupted(Exception):
    pass


def interrupt_at(step: int) -> Watch:
    def watch(event: Mapping[str, Any]) -> None:
        if event["kind"] == "step" and event["step"] == step:
            raise Interrupted

    return watch


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor", "muon"])
def test_every_optimiser_resumes_exactly(optimizer: str, tmp_path: Path) -> None:
    _, expected = train(tmp_path / "whole", optimizer=optimizer)
    with pytest.raises(Interrupted):
        train(tmp_path / "cut", interrupt_at(5), optimizer=optimizer)
    result, weights = train(tmp_path / "cut", optimizer=optimizer)
    assert result.resumed_from in (3, 4)
    assert all(torch.equal(weights[name], weight) for name, weight in expected.items())
    assert log(tmp_path / "cut") == log(tmp_path / "whole")


def test_steps_without_an_event_are_not_forgotten(tmp_path: Path) -> None:
    train(tmp_path / "whole", log_every=4)
    with pytest.raises(Interrupted):
        train(tmp_path / "cut", interrupt_at(4), log_every=4)
    result, _ = train(tmp_path / "cut", log_every=4)
    assert result.resumed_from and result.resumed_from < 4
    assert log(tmp_path / "cut") == log(tmp_path / "whole")


def test_a_broken_newest_checkpoint_is_passed_over_and_the_run_ends_the_same(
    never_killed: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Interrupted):
        train(tmp_path, interrupt_at(5))
    newest = sorted((tmp_path / "checkpoints").iterdir())[-1]
    (newest / "optimizer.safetensors").write_bytes(b"not what was written")
    result, weights = train(tmp_path)
    expected, events, _ = never_killed
    assert result.resumed_from is not None and f"step-{result.resumed_from:08d}" < newest.name
    assert f"{newest.name} is broken" in capfd.readouterr().err
    assert all(torch.equal(weights[name], weight) for name, weight in expected.items())
    assert log(tmp_path) == events


def test_bf16_weights_resume_from_their_masters(tmp_path: Path) -> None:
    def weights(folder: Path, watch: Watch | None = None) -> dict[str, torch.Tensor]:
        policy = tiny.Policy(tiny.model(dtype=torch.bfloat16))
        prepared, recipe = tiny.Prepared(tiny.Store(24)), tiny.recipe(folder, epochs=2, save_every=2)
        fit(policy, OBJECTIVES.build("sft"), prepared, recipe, Run(folder), beside=Beside(watch=watch))
        return policy.snapshot()

    expected = weights(tmp_path / "whole")
    with pytest.raises(Interrupted):
        weights(tmp_path / "cut", interrupt_at(5))
    resumed = weights(tmp_path / "cut")
    assert all(torch.equal(resumed[name], weight) for name, weight in expected.items())
