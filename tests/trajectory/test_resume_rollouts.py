"""A run that learns from what it says, killed anywhere and begun again, ends as one that was never killed: the same
weights to the bit, the same events, the same answers on disk."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from rollout_runs import Learner, prompts

from luthier.data import Ledger, Prompts
from luthier.run import Run
from luthier.train.loop import checkpoint
from luthier.train.optim.weights import Weights
from luthier.train.rollouts.journal import Journal
from luthier.train.rollouts.judging import Judging
from luthier.train.rollouts.records import Records

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tiny", "rollout_runs", "luthier.train.fitting"])
OF_THE_CLOCK = {
    "time", "tokens_per_s", "memory", "seconds", "peak_memory", "training_seconds", "speaking_seconds",
    "scoring_seconds", "reading_seconds", "made_per_s",
}  # fmt: skip
STEPS = 10
Watch = Callable[[Mapping[str, Any]], None]


def learn(folder: Path, watch: Watch | None = None) -> dict[str, torch.Tensor]:
    """Two updates of each rollout in minibatches, groups without contrast drawn again, a reference, checkpoints in the
    middle of a rollout; the weights at the end and those of the last checkpoint."""
    learner = Learner(
        folder,
        {"prompts": 4, "updates": 2, "dynamic": True, "n": 4},
        {"grpo": {"kl": 0.05}},
        data=Prompts(prompts(12), prompts(2, seed=3), Ledger()),
        module=tiny.lora(),
        steps=STEPS,
        save_every=3,
    )
    learner.fit(watch)
    last = checkpoint.latest(Run(folder))
    assert last is not None and last.step == STEPS
    return {**learner.policy.snapshot(), **{f"last.{name}": weight for name, weight in last.weights().items()}}


def log(folder: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in event.items() if key not in OF_THE_CLOCK} for event in Run(folder).events()]


def left(folder: Path) -> dict[str, str]:
    """What people find of the rollouts."""
    files = [*(folder / "rollouts").iterdir(), folder / "prompts.jsonl"]
    return {path.name: path.read_text() for path in sorted(files)}


def learn_and_die(folder: Path, where: str, count: int) -> None:
    """Learn until the `count`-th time that `where` happens, then die without warning."""
    seen = 0

    def now(place: str) -> None:
        nonlocal seen
        seen += place == where
        if seen == count:
            os.kill(os.getpid(), signal.SIGKILL)

    def before(owner: Any, name: str, place: str) -> None:
        call = getattr(owner, name)

        def dying(*args: Any, **keys: Any) -> Any:
            if where == "half a line" and place == "answering" and seen + 1 == count:
                args[0]._file.write(b'{"place": 0, "index": 0, "ids": [4')
                args[0]._file.flush()
                now("half a line")
            elif where == "half a line" and place == "answering":
                now("half a line")
            now(place)
            return call(*args, **keys)

        setattr(owner, name, dying)

    before(Journal, "answer", "answering")
    before(Journal, "judged", "scoring")
    before(Judging, "asked", "before scoring")
    before(Journal, "computed", "reading")
    before(Records, "write", "recording")
    before(Records, "rates", "writing rates")
    before(Weights, "step", "updating")
    before(checkpoint, "save_file", "writing a file")
    before(checkpoint, "prune", "removing old ones")
    before(Path, "rename", "renaming")
    learn(folder, lambda event: now(event["kind"]))


@pytest.fixture(scope="module")
def never_killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, torch.Tensor], Path]:
    folder = tmp_path_factory.mktemp("whole")
    return learn(folder), folder


def assert_same(weights: Mapping[str, torch.Tensor], folder: Path, never_killed: Any) -> None:
    expected, whole = never_killed
    assert all(torch.equal(weights[name], weight) for name, weight in expected.items())
    assert log(folder) == log(whole)
    assert left(folder) == left(whole)


@pytest.mark.parametrize(
    ("where", "count"),
    [
        pytest.param("answering", 5, id="in the first rollout"),
        pytest.param("answering", 40, id="in a later rollout"),
        pytest.param("half a line", 30, id="with half a line written"),
        pytest.param("before scoring", 3, id="before scoring"),
        pytest.param("scoring", 21, id="while scoring"),
        pytest.param("reading", 6, id="while the old log-probabilities are computed"),
        pytest.param("recording", 2, id="before a rollout is written for people"),
        pytest.param("rollout", 2, id="after a rollout"),
        pytest.param("updating", 5, id="in an update, before any checkpoint of its rollout"),
        pytest.param("updating", 8, id="in an update in the middle of a rollout"),
        pytest.param("writing a file", 4, id="while a checkpoint is written"),
        pytest.param("renaming", 2, id="before a checkpoint takes its name"),
        pytest.param("removing old ones", 3, id="before old checkpoints are removed"),
        pytest.param("end", 1, id="at the very end"),
    ],
)
def test_killed_and_begun_again_is_never_killed(where: str, count: int, never_killed: Any, tmp_path: Path) -> None:
    process = PROCESSES.Process(target=learn_and_die, args=(tmp_path, where, count))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    drawn = list((tmp_path / "rollouts").glob("open-*"))
    assert drawn or where == "end"
    assert_same(learn(tmp_path), tmp_path, never_killed)


def test_answers_that_are_on_disk_are_not_drawn_again(tmp_path: Path, never_killed: Any) -> None:
    process = PROCESSES.Process(target=learn_and_die, args=(tmp_path, "reading", 1))
    process.start()
    process.join()
    drawn: list[Any] = []
    answer = Journal.answer
    try:
        Journal.answer = lambda self, *args: (drawn.append(self.path.name), answer(self, *args))[1]  # type: ignore[method-assign]
        weights = learn(tmp_path)
    finally:
        Journal.answer = answer  # type: ignore[method-assign]
    assert drawn and "open-000001.jsonl" not in drawn
    assert_same(weights, tmp_path, never_killed)


@pytest.mark.slow
def test_fifty_random_kills_end_as_none(tmp_path: Path, never_killed: Any) -> None:
    draw, kills, begun = random.Random(0), 0, 0
    while kills < 50:
        folder = tmp_path / str(begun)
        begun += 1
        ended = False
        while not ended and kills < 50:
            process = PROCESSES.Process(target=learn, args=(folder,))
            process.start()
            end = time.monotonic() + draw.uniform(0.3, 4.0)
            while process.is_alive() and time.monotonic() < end:
                time.sleep(0.01)
            ended = not process.is_alive()
            if not ended:
                process.kill()
                kills += 1
            process.join()
        assert_same(learn(folder), folder, never_killed) if not ended else None
        if ended:
            assert log(folder) == log(never_killed[1]) and left(folder) == left(never_killed[1])
