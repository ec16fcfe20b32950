"""One process = two = four: to the bit where `train.parts` pins the cut, else to rounding; whoever is killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import processes
import psutil
import pytest
import torch
import unchanged_runs
import yaml
from bench import Bench
from processes import Together, numbers, weights

from luthier.distributed.group import cores
from luthier.errors import LuthierError
from luthier.recipe import load

TRAIN = {"batch": 8, "steps": 3, "max_tokens": 128, "threads": 1, "lr": 1e-2, "warmup": 1, "micro_tokens": 120}
LORA = {"lora": {"r": 4}}
FAMILIES: dict[str, dict[str, Any]] = {
    "sft": {"data": "answers"},
    "noisy": {"data": "answers", "adapt": {"lora": {"r": 4, "dropout": 0.2}}, "train": {"neftune": 5.0}},
    "full": {"data": "answers", "adapt": "full"},
    "adalora": {"data": "answers", "adapt": {"adalora": {"r": 2}}},
    "sara": {"data": "answers", "adapt": {"sara": {"share": 0.2}}},
    "dpo": {"data": "pairs", "objective": "dpo", "validate": {"share": 0.3, "every": 1}},
    "dpo-full": {"data": "pairs", "objective": "dpo", "adapt": "full"},
    "kto": {"data": "labels", "objective": "kto", "validate": {"share": 0.3, "every": 2}},
    "bco": {"data": "labels", "objective": "bco"},
    "bco-ratio": {"data": "labels", "objective": {"bco": {"density_ratio": True}}},
    "reward": {"data": "pairs", "objective": "reward"},
    "process-reward": {"data": "steps", "objective": "process_reward"},
    "summed": {"data": "pairs", "objective": {"sum": {"dpo": {"beta": 0.2}, "sft": 0.3}}},
}
"""The recipes that are trained by one and by two processes."""
RARE = ("sara", "bco-ratio", "summed", "process-reward")
OFTEN = tuple(family for family in FAMILIES if family not in RARE)
BY_FOUR = ("noisy", "kto")
NOT_PINNED = tuple(family for family in FAMILIES if family != "noisy")  # which draws other noise
NOT_PINNED_OFTEN = ("sft", "full", "dpo", "kto", "bco")
LOSSES = ("loss", "first_loss", "last_loss", "best_loss", "evaluation_loss")


def recipe(folder: Path, model: Path, family: str, **train: Any) -> dict[str, Any]:
    own = FAMILIES[family]
    data = processes.rows(folder, own["data"], unchanged_runs.rows(own["data"], 24))
    basis = {"model": {"name": str(model), "dtype": "fp32"}, "adapt": LORA, "seed": 3}
    return {**basis, **own, "data": data, "train": {**TRAIN, **own.get("train", {}), **train}}


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """Folders 1, 2 and 4 with each family's run by so many processes, cut in 4 parts; and in 1 and 2 not pinned."""
    return trained(tmp_path_factory.mktemp("families"), tiny_model, OFTEN, NOT_PINNED_OFTEN)


def trained(folder: Path, model: Path, families: Sequence[str], not_pinned: Sequence[str]) -> Path:
    for count in (1, 2, 4):
        here = folder / str(count)
        here.mkdir()
        names = []
        for family in families:
            if count != 4 or family in BY_FOUR:
                processes.write(here, family, recipe(here, model, family, parts=4))
                names.append(family)
        for family in not_pinned if count != 4 else ():
            processes.write(here, f"{family}-free", recipe(here, model, family))
            names.append(f"{family}-free")
        if not names:
            continue
        group = Together(count, processes.runs, here, names, said=here / "said")
        assert set(group.join()) == {0}, group.words()[-3000:]
    return folder


@pytest.mark.slow
def test_two_processes_are_one_in_rarer_families_too(tmp_path: Path, tiny_model: Path) -> None:
    rarely = [family for family in NOT_PINNED if family not in NOT_PINNED_OFTEN]
    trained(tmp_path, tiny_model, RARE, rarely)
    for family in RARE:
        test_two_processes_are_one_to_the_bit_where_parts_are_pinned(family, tmp_path)
    for family in rarely:
        test_two_processes_are_one_to_rounding_where_nothing_is_pinned(family, tmp_path)


@pytest.mark.parametrize("family", OFTEN)
def test_two_processes_are_one_to_the_bit_where_parts_are_pinned(family: str, families: Path) -> None:
    one, two = families / "1" / family, families / "2" / family
    assert len(numbers(one)) >= 4
    assert numbers(two) == numbers(one)
    expected, found = weights(one), weights(two)
    assert expected.keys() == found.keys() and expected
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


@pytest.mark.parametrize("family", BY_FOUR)
def test_four_processes_are_one_to_the_bit(family: str, families: Path) -> None:
    one, four = families / "1" / family, families / "4" / family
    assert numbers(four) == numbers(one)
    expected, found = weights(one), weights(four)
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


@pytest.mark.parametrize("family", NOT_PINNED_OFTEN)
def test_two_processes_are_one_to_rounding_where_nothing_is_pinned(family: str, families: Path) -> None:
    one, two = numbers(families / "1" / f"{family}-free"), numbers(families / "2" / f"{family}-free")
    assert [event["kind"] for event in one] == [event["kind"] for event in two]
    tokens = "tokens", "shared"  # prefixes are shared inside a micro-batch, so the cut shows
    for a, b in zip(one, two, strict=True):
        for key in {key for key, value in a.items() if isinstance(value, int | float)} - {*tokens}:
            # losses and gradients to what fp32 rounds; rewards and margins are small differences of large likelihoods
            close = (
                {"rel": 1e-6, "abs": 0.0}
                if key in LOSSES
                else {"rel": 1e-5, "abs": 0.0 if key == "grad_norm" else 2e-6}
            )
            assert b[key] == pytest.approx(a[key], **close), (key, a["kind"])


def test_the_docs_name_what_is_tested_and_nothing_else() -> None:
    def names(key: str, default: str) -> str:
        given = [family.get(key, default) for family in FAMILIES.values()]
        return ", ".join(
            f"`{name}`" for name in sorted({one if isinstance(one, str) else next(iter(one)) for one in given})
        )

    page = " ".join((Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8").split())
    assert f"objectives {names('objective', 'sft')}; ways to adapt {names('adapt', 'lora')}. " in page


def test_the_processes_are_told_of_and_only_one_speaks(families: Path) -> None:
    said = [(families / "2" / f"said.{rank}").read_text() for rank in range(2)]
    assert "processes: 2, each with 1 thread" in said[0]
    assert "loss" in said[0] and said[1] == ""


# kills
STEPS = 8


def killed_and_resumed(folder: Path, draw: random.Random, content: dict[str, Any]) -> tuple[int, int]:
    """A run that loses a process at a random moment, then goes on with 1, 2 or 4; how many there were and are."""
    before, after = draw.choice((2, 4)), draw.choice((1, 2, 4))
    processes.write(folder, "cut", content)
    group = Together(before, processes.runs, folder, ["cut"], said=folder / "said-cut")
    events = folder / "cut" / "events.jsonl"
    wanted = draw.randrange(STEPS - 1)
    while group.processes[0].is_alive() and _steps(events) <= wanted:
        time.sleep(0.005)
    time.sleep(draw.random() * 0.05)
    assert all(process.is_alive() for process in group.processes), group.words()[-3000:]
    group.processes[draw.randrange(before)].kill()
    time.sleep(draw.random() * 0.1)
    group.kill()  # as the launcher does
    assert not (folder / "cut" / "adapter").exists()
    resumed = Together(after, processes.runs, folder, ["cut"], said=folder / "said-resumed")
    assert set(resumed.join()) == {0}, resumed.words()[-3000:]
    return before, after


def _steps(events: Path) -> int:
    return events.read_text().count('"kind": "step"') if events.exists() else 0


def _never_killed(folder: Path, model: Path) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    content = recipe(folder, model, "noisy", parts=4, steps=STEPS, save_every=1, batch=8)
    content["validate"] = {"share": 0.2, "every": 3}
    processes.write(folder, "whole", content)
    group = Together(1, processes.runs, folder, ["whole"], said=folder / "said-whole")
    assert group.join() == [0], group.words()[-3000:]
    return content, weights(folder / "whole"), numbers(folder / "whole")


def _kills(folder: Path, model: Path, seeds: range) -> None:
    content, expected, events = _never_killed(folder, model)
    for seed in seeds:
        counts = killed_and_resumed(folder, random.Random(seed), content)
        found = weights(folder / "cut")
        assert numbers(folder / "cut") == events, (seed, counts)
        assert all(torch.equal(found[name], weight) for name, weight in expected.items()), (seed, counts)
        subprocess.run(["rm", "-r", str(folder / "cut")], check=True)


def test_a_run_that_loses_a_process_goes_on_with_any_number_of_them_to_the_bit(
    tmp_path: Path, tiny_model: Path
) -> None:
    _kills(tmp_path, tiny_model, range(3))


@pytest.mark.slow
def test_fifty_kills_of_fifty_end_the_same(tmp_path: Path, tiny_model: Path) -> None:
    _kills(tmp_path, tiny_model, range(100, 150))


# by the launcher
def test_the_launcher_names_who_was_killed_and_the_run_goes_on(bench: Bench) -> None:
    content = {**bench.content, "train": {**bench.content["train"], "steps": 60, "save_every": 2, "parts": 2}}
    assert bench.here("train", "output=whole", **content) == 0
    environment = {**os.environ, "LUTHIER_CACHE": str(bench.cache), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "luthier", "train", "recipe.yaml", "--processes", "2"]
    started = subprocess.Popen(command, cwd=bench.folder, env=environment, stderr=subprocess.PIPE, text=True)
    while not any((bench.run / "checkpoints").glob("step-*")) and started.poll() is None:
        time.sleep(0.01)
    workers = {each.environ().get("RANK"): each for each in psutil.Process(started.pid).children()}
    began = time.monotonic()
    workers["1"].send_signal(signal.SIGKILL)
    _, said = started.communicate(timeout=60)
    assert started.returncode == 1
    assert time.monotonic() - began < 15
    assert said.count("error:") == 1 and "process 1 of the run was ended by SIGKILL" in said
    assert "Traceback" not in said
    resumed = bench("train", "--processes", "2", **content)
    assert resumed.returncode == 0, resumed.stderr
    assert "continuing after step" in resumed.stderr
    expected, found = weights(bench.folder / "whole"), weights(bench.run)
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


# from Python
def test_python_starts_them_too_and_goes_on_as_it_was(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import luthier

    monkeypatch.chdir(bench.folder)
    monkeypatch.setenv("LUTHIER_CACHE", str(bench.cache))
    monkeypatch.delenv("OMP_NUM_THREADS")
    (bench.folder / "recipe.yaml").write_text(
        yaml.safe_dump({**bench.content, "train": {**bench.content["train"], "steps": 1}})
    )
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    run = luthier.train(load("recipe.yaml").recipe, ["output=python"], processes=2)
    assert run.folder == Path("python") and (run.adapter / "adapter_model.safetensors").is_file()
    assert [event["processes"] for event in run.events() if event["kind"] == "start"] == [2]
    with pytest.raises(LuthierError, match="and one of its processes has said why"):
        luthier.train("recipe.yaml", ["output=python", "seed=1"], processes=2)
    assert capfd.readouterr().err.count("error: ") == 1
    with pytest.raises(LuthierError, match=r"unknown key 'train\.stepz'"):
        luthier.train("recipe.yaml", ["train.stepz=1"], processes=2)
    with pytest.raises(LuthierError, match="at least one process, not 0"):
        luthier.train("recipe.yaml", processes=0)
    assert before == {number: signal.getsignal(number) for number in before} and "OMP_NUM_THREADS" not in os.environ


def counting(folder: Path) -> None:
    """Write down how many threads a process has after its run."""
    try:
        processes.runs(folder, ["run"])
    finally:
        (folder / f"threads.{os.environ['RANK']}").write_text(str(torch.get_num_threads()))


def test_the_first_goes_on_with_all_cores(tmp_path: Path, tiny_model: Path) -> None:
    statuses, said = _ending(tmp_path, tiny_model, counting, steps=2)
    assert statuses == [0, 0], said
    assert [(tmp_path / f"threads.{rank}").read_text() for rank in range(2)] == [str(cores()), "1"]


# what goes wrong in one of them
def diverging(folder: Path, rank: int, step: int) -> None:
    """One process's weights are changed after a step."""
    from luthier.train.optim.weights import Weights

    stepped = Weights.step

    def other(self: Weights, now: int, *args: Any) -> None:
        stepped(self, now, *args)
        if now + 1 == step and os.environ["RANK"] == str(rank):
            self.update.stepped[3].data[0] += 1e-6

    Weights.step = other  # type: ignore[method-assign]
    processes.runs(folder, ["run"])


def failing(folder: Path, rank: int, step: int) -> None:
    """One process fails in a step."""
    from luthier.train.loop.losses import Losses

    sums, seen = Losses.sums, [0]

    def other(self: Losses, batch: Any) -> Any:
        seen[0] += 1
        if seen[0] == step and os.environ["RANK"] == str(rank):
            raise LuthierError("a fault that was planted", where="here", fix="take it out")
        return sums(self, batch)

    Losses.sums = other  # type: ignore[method-assign]
    processes.runs(folder, ["run"])


def short_of_memory(folder: Path, rank: int, most: int) -> None:
    """One process cannot hold micro-batches of more than so many tokens."""
    from luthier.forward.forward import Forward

    rows = Forward.rows

    def other(self: Forward, batch: Any, *args: Any) -> Any:
        if os.environ["RANK"] == str(rank) and batch.tokens > most:
            raise MemoryError
        return rows(self, batch, *args)

    Forward.rows = other  # type: ignore[method-assign]
    processes.runs(folder, ["run"])


def _ending(folder: Path, model: Path, target: Any, *args: Any, **train: Any) -> tuple[list[int | None], str]:
    processes.write(folder, "run", recipe(folder, model, "sft", **{"steps": 6, "save_every": 2, "parts": 4, **train}))
    group = Together(2, target, folder, *args, said=folder / "said")
    statuses = group.join(40)
    group.kill()
    return statuses, group.words()


def test_a_process_whose_weights_differ_is_caught_by_the_next_checkpoint_and_named(
    tmp_path: Path, tiny_model: Path
) -> None:
    statuses, said = _ending(tmp_path, tiny_model, diverging, 1, 3)
    assert statuses == [1, 1]
    assert said.count("error:") == 1, said
    assert "the weights that train of process 1 are not those of process 0" in said and "lora" in said
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == ["step-00000002"]


def test_a_fault_of_one_process_ends_all_and_is_told_once(tmp_path: Path, tiny_model: Path) -> None:
    statuses, said = _ending(tmp_path, tiny_model, failing, 1, 4)
    assert statuses == [1, 1]
    assert said.count("error:") == 1, said
    assert "a fault that was planted" in said and "process 1 of 2" in said and "Traceback" not in said


def test_what_is_wrong_for_all_is_told_once(tmp_path: Path, tiny_model: Path) -> None:
    statuses, said = _ending(tmp_path, tiny_model, processes.runs, ["run"], lr=1e38, clip=0.0)
    assert statuses == [1, 1]
    assert said.count("error:") == 1 and "is not finite" in said, said


def test_memory_that_one_process_lacks_makes_all_go_on_smaller(tmp_path: Path, tiny_model: Path) -> None:
    statuses, said = _ending(tmp_path, tiny_model, short_of_memory, 1, 60, micro_tokens=400, parts=None)
    assert statuses == [0, 0], said
    assert said.count("out of memory; going on with") >= 1
    whole, folder = numbers(tmp_path / "run"), tmp_path / "alone"
    folder.mkdir()
    processes.write(folder, "run", recipe(folder, tiny_model, "sft", steps=6, save_every=2))
    assert Together(1, processes.runs, folder, ["run"], said=folder / "said").join() == [0]
    losses = [[event["loss"] for event in each if event["kind"] == "step"] for each in (whole, numbers(folder / "run"))]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
