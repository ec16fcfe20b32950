"""The processes of a run speak with one voice: real processes, over gloo."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import Together

from luthier.distributed import group as groups
from luthier.distributed.group import ALONE, Group, Lost
from luthier.distributed.placement import agree, digest
from luthier.errors import LuthierError, Told
from luthier.train.loop import rng


def test_alone_everything_is_its_own_answer() -> None:
    numbers = torch.tensor([1.0, 2.0])
    ALONE.add_up(numbers)
    assert numbers.tolist() == [1.0, 2.0]
    assert ALONE.first and not ALONE.several
    assert ALONE.agree(True) and not ALONE.agree(False)
    assert ALONE.gather("a") == ["a"] and ALONE.share(3) == 3
    assert ALONE.by_place({0: numbers, 1: numbers}, [2, 2], "cpu") == [numbers, numbers]
    with ALONE.first_goes(), pytest.raises(ValueError), ALONE.faults():
        raise ValueError


def test_without_a_launcher_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    assert not groups.of_environment().several


def test_the_cores_of_a_machine_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "cores", lambda: 8)
    assert groups.threads(Group(0, 6, here=3)) == 2
    assert groups.threads(Group(0, 16, here=16)) == 1


def test_after_training_there_are_as_many_threads_as_before_and_for_the_first_of_several_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(groups, "cores", lambda: 3)
    before = torch.get_num_threads()
    found = []
    try:
        for group in (ALONE, Group(0, 2, here=2), Group(1, 2, here=2)):
            torch.set_num_threads(2)
            with groups.threads_of_training(group):
                groups.use_threads(group, 1)
                assert torch.get_num_threads() == 1
            found.append(torch.get_num_threads())
    finally:
        torch.set_num_threads(before)
    assert found == [2, 3, 2]


def test_noise_is_seeded_by_run_step_and_part() -> None:
    seeds = {rng.derived(seed, step, part) for seed in range(4) for step in range(6) for part in range(-1, 5)}
    assert len(seeds) == 4 * 6 * 6
    assert rng.derived(3, 5, 1) == rng.derived(3, 5, 1)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_digest_tells_a_last_bit_a_type_and_a_shape() -> None:
    weight = torch.tensor([[1.0, 2.0]])
    changed = torch.tensor([[1.0, 2.0 + 2**-22]])
    found = {digest(each) for each in (weight, changed, weight.T, weight.to(torch.float64))}
    assert len(found) == 4
    assert digest(weight) == digest(weight.clone())


def speaking(folder: Path) -> None:
    group = groups.of_environment()
    rank = int(os.environ["RANK"])
    with group.first_goes():
        if group.first:
            time.sleep(0.2)
            (folder / "prepared").write_text("by the first")
        assert (folder / "prepared").exists()
    group.form()
    numbers = torch.tensor([1.0, float(rank)], dtype=torch.float64)
    group.add_up(numbers)
    assert numbers.tolist() == [2.0, 1.0]
    assert group.agree(rank == 1) is True
    assert group.agree(False) is False
    assert group.gather(f"of {rank}") == ["of 0", "of 1"]
    assert group.share("first" if rank == 0 else "second") == "first"
    mine = {rank: torch.full((rank + 1,), rank + 0.5, dtype=torch.float64)}
    assert [each.tolist() for each in group.by_place(mine, [1, 2], "cpu")] == [[0.5], [1.5, 1.5]]
    nan = {rank: torch.tensor([float("nan") if rank else 3.0], dtype=torch.float64)}
    first, second = group.by_place(nan, [1, 1], "cpu")
    assert first.item() == 3.0 and second.isnan()
    agree(group, {"a": torch.ones(3), "b": torch.ones(2)})
    with pytest.raises(LuthierError, match=r"weights that train of process 1 .* differ in b and 1 more"):
        agree(group, {"a": torch.ones(3), "b": torch.ones(2) + rank, "c": torch.ones(2) - rank})
    group.leave()
    (folder / f"done {rank}").touch()


def test_two_processes_agree(tmp_path: Path) -> None:
    together = Together(2, speaking, tmp_path, said=tmp_path / "said")
    assert together.join() == [0, 0], together.words()
    assert (tmp_path / "done 0").exists() and (tmp_path / "done 1").exists()


def losing(folder: Path) -> None:
    group = groups.of_environment()
    group.form()
    if os.environ["RANK"] == "1":
        os._exit(9)
    groups.GRACE = 0.2
    error: Any = None
    try:
        with group.faults():
            group.agree(True)
    except Lost as lost:
        error = lost
    assert error is not None and "another process of the run is gone" in str(error)


def telling(folder: Path) -> None:
    group = groups.of_environment()
    group.form()
    group.agree(True)
    try:
        with group.faults():
            raise LuthierError("both have it")
    except LuthierError as error:
        (folder / f"told by {os.environ['RANK']}").write_text(f"{error} {error.__notes__}")
    except Told:
        (folder / f"quiet {os.environ['RANK']}").touch()


def test_who_is_left_behind_notices_within_seconds(tmp_path: Path) -> None:
    began = time.monotonic()
    together = Together(2, losing, tmp_path, said=tmp_path / "said")
    assert together.join() == [0, 9], together.words()
    assert time.monotonic() - began < 30


def test_a_fault_of_all_is_told_by_one(tmp_path: Path) -> None:
    together = Together(2, telling, tmp_path, said=tmp_path / "said")
    assert together.join() == [0, 0], together.words()
    assert len(list(tmp_path.glob("told by *"))) == len(list(tmp_path.glob("quiet *"))) == 1
    assert "of 2, counted from 0" in next(tmp_path.glob("told by *")).read_text()
