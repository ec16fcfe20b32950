import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from luthier.errors import LuthierError
from luthier.run import Run
from luthier.train.loop import checkpoint, rng, tree
from luthier.train.loop.checkpoint import Content

CPU = torch.device("cpu")


def content(step: int, size: int = 4) -> Content:
    weights = {"a": torch.full((size,), float(step)), "b": torch.arange(6.0).view(2, 3).t()}
    optimizers = [{0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(size)}, 1: {"step": 2}}]
    return Content(step, weights, optimizers, rng.capture(CPU), {"step": step, "loss": 0.1 + 0.2})


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(tmp_path)
    run.event("start")
    return run


def names(run: Run) -> list[str]:
    return sorted(path.name for path in run.checkpoints.iterdir())


def test_what_is_saved_comes_back(run: Run) -> None:
    saved = content(7)
    checkpoint.save(run, saved)
    found = checkpoint.latest(run)
    assert found is not None and found.step == 7
    assert torch.equal(found.weights()["b"], saved.weights["b"])
    state = found.optimizers()
    assert state[0][1] == {"step": 2}
    assert torch.equal(state[0][0]["exp_avg"], torch.ones(4))
    assert found.state()["progress"] == {"step": 7, "loss": 0.1 + 0.2}
    assert found.state()["events_bytes"] == run.events_path.stat().st_size


def test_no_file_of_a_checkpoint_is_pickle(run: Run) -> None:
    folder = checkpoint.save(run, content(1))
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}


def test_random_states_come_back(run: Run) -> None:
    rng.seed_all(5)
    torch.randn(3), np.random.randn(3)  # an odd number of normals leaves one cached
    checkpoint.save(run, content(1))
    found = checkpoint.latest(run)
    drawn = torch.randn(4), np.random.randn(4), np.random.rand()
    assert found is not None
    rng.restore(found.rng(), CPU)
    again = torch.randn(4), np.random.randn(4), np.random.rand()
    assert torch.equal(drawn[0], again[0])
    assert drawn[1].tolist() == again[1].tolist() and drawn[2] == again[2]


def test_the_newest_and_the_best_are_kept(run: Run) -> None:
    for step in range(1, 6):
        checkpoint.save(run, content(step))
        checkpoint.prune(run, keep=2, best=2 if step >= 2 else None)
    assert names(run) == ["step-00000002", "step-00000004", "step-00000005"]


def cut(folder: Path) -> None:
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-3])


def flip(folder: Path) -> None:
    content = bytearray((folder / "optimizer.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "optimizer.safetensors").write_bytes(content)


def lose_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def lose_file(folder: Path) -> None:
    (folder / "rng.safetensors").unlink()


def garble_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"weights.safetensors": ')


def empty_state(folder: Path) -> None:
    (folder / "state.json").write_text("")


@pytest.mark.parametrize("damage", [cut, flip, lose_manifest, lose_file, garble_manifest, empty_state])
def test_the_newest_broken_one_is_passed_over_with_a_word(run: Run, damage) -> None:
    checkpoint.save(run, content(1))
    damage(checkpoint.save(run, content(2)))
    said: list[str] = []
    found = checkpoint.latest(run, said.append)
    assert found is not None and found.step == 1
    assert len(said) == 1 and "step-00000002 is broken" in said[0]


def test_none_whole_is_none(run: Run) -> None:
    assert checkpoint.latest(run) is None
    cut(checkpoint.save(run, content(1)))
    assert checkpoint.latest(run, lambda _: None) is None


def test_a_broken_best_one_is_an_error(run: Run) -> None:
    cut(checkpoint.save(run, content(1)))
    with pytest.raises(LuthierError, match=r"best evaluation cannot be read: weights\.safetensors has"):
        checkpoint.at(run, 1)


def test_another_format_is_an_error_and_nothing_is_removed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(run, content(1))
    monkeypatch.setattr(checkpoint, "VERSION", 2)
    with pytest.raises(LuthierError, match="has format 1, this version of luthier reads format 2"):
        checkpoint.latest(run)
    assert names(run) == ["step-00000001"]


def test_what_a_kill_left_behind_is_removed(run: Run) -> None:
    checkpoint.save(run, content(1))
    for name in (".writing-step-00000002", ".removing-step-00000000"):
        (run.checkpoints / name).mkdir()
        (run.checkpoints / name / "weights.safetensors").write_bytes(b"half")
    checkpoint.remove_leftovers(run)
    assert names(run) == ["step-00000001"]


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Writing beyond `size` bytes of a file fails, as beyond a quota. (Python ignores the signal that goes with it.)"""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_no_space_is_an_error_that_names_the_bytes_and_keeps_the_last_checkpoint(run: Run) -> None:
    checkpoint.save(run, content(1))
    large = content(2, size=100_000)
    with files_limited_to(200_000), pytest.raises(LuthierError) as caught:
        checkpoint.save(run, large)
    needed = 2 * 4 * 100_000
    stated = int(caught.value.what.split("it needs ")[1].split(" bytes")[0].replace(",", ""))
    assert needed <= stated < needed + 100_000
    assert "step-00000001" in str(caught.value.fix)
    assert names(run) == ["step-00000001"]
    found = checkpoint.latest(run)
    assert found is not None and found.step == 1


def test_too_little_free_space_is_seen_before_writing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(LuthierError, match="1,000 are free") as caught:
        checkpoint.save(run, content(1))
    assert "from the beginning" in str(caught.value.fix)
    assert names(run) == []


def test_saving_a_step_again_replaces_it(run: Run) -> None:
    checkpoint.save(run, content(3))
    checkpoint.save(run, content(3, size=9))
    found = checkpoint.latest(run)
    assert found is not None and len(found.weights()["a"]) == 9


def test_trees_come_back_as_they_were() -> None:
    shared = torch.arange(3)
    state = {"a": [1, (2.5, None)], 3: {"x": shared, "y": shared, "dtype": torch.int8}, "empty": {}, "t": (True, "s")}
    plain, tensors = tree.split(state, "top")
    assert len(tensors) == 1  # what is shared is kept once
    back = tree.join(json.loads(json.dumps(plain)), tensors)
    assert back["a"] == [1, (2.5, None)] and back["empty"] == {} and back["t"] == (True, "s")
    assert back[3]["dtype"] is torch.int8 and torch.equal(back[3]["y"], shared)


def test_what_json_and_safetensors_cannot_hold_is_refused() -> None:
    with pytest.raises(LuthierError, match="cannot keep a set"):
        tree.split({"a": {1, 2}}, "top")
