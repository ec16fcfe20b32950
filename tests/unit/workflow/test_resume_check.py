"""What a run folder holds against what a recipe asks for."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.errors import LuthierError
from luthier.recipe import Recipe, loads, resolve
from luthier.run import Run
from luthier.workflow.registries import REGISTRIES
from luthier.workflow.resume_check import check

TEXT = "model: m\ndata: d.jsonl\noutput: o\nexport: merged\nevaluate: {name: t, data: h.jsonl}\n"


def recipe(*overrides: str) -> Recipe:
    return resolve(loads(TEXT, overrides), REGISTRIES).recipe


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "o").mkdir()
    return Run(tmp_path / "o")


def finish(run: Run) -> None:
    run.adapter.mkdir()
    run.merged.mkdir()
    run.write_json(run.summary_path, {"scores": {"t": {}}})
    run.report_path.touch()


def test_a_new_folder_has_all_to_do(run: Run) -> None:
    held = check(run, recipe())
    assert (held.trained, len(held.unexported), len(held.unscored), held.finished) == (False, 1, 1, False)
    assert resolve(loads(run.recipe_path.read_text()), REGISTRIES).recipe.train == recipe().train


def test_a_finished_folder_has_nothing_to_do(run: Run) -> None:
    check(run, recipe())
    finish(run)
    assert check(run, recipe()).finished


def test_scores_of_other_tasks_do_not_count(run: Run) -> None:
    check(run, recipe())
    finish(run)
    held = check(run, recipe("evaluate.0.limit=5"))
    assert [task.limit for task in held.unscored] == [5]
    assert not held.unexported
    held = check(run, recipe("evaluate.0.limit=5", "export.merged.dtype=fp32"))
    assert [plugin.args for plugin in held.unexported] == [{"dtype": "fp32", "drift": 0.05}]


def test_scores_without_weights_do_not_count(run: Run) -> None:
    check(run, recipe())
    run.merged.mkdir()
    run.write_json(run.summary_path, {"scores": {"t": {}}})
    held = check(run, recipe())
    assert (len(held.unexported), len(held.unscored)) == (1, 1)


def test_another_recipe_is_refused_with_the_keys_that_differ(run: Run) -> None:
    check(run, recipe())
    (run.checkpoints / "step-00000001").mkdir(parents=True)
    lock = run.recipe_path.read_text()
    with pytest.raises(LuthierError) as caught:
        check(run, recipe("train.lr=1e-3", "adapt.lora.r=4"))
    assert "train.lr (0.0002 there, 0.001 here)" in caught.value.what
    assert "adapt.0.lora.r (16 there, 4 here)" in caught.value.what
    assert run.recipe_path.read_text() == lock


def test_a_run_that_failed_before_its_first_checkpoint_may_be_changed(run: Run) -> None:
    check(run, recipe())
    check(run, recipe("train.max_tokens=2048"))
    assert loads(run.recipe_path.read_text()).recipe.train.max_tokens == 2048


def test_a_recipe_that_was_half_written_when_its_run_was_killed_binds_nobody(run: Run) -> None:
    (run.folder / f".{run.recipe_path.name}.12.34").write_text("model: tin")
    check(run, recipe())
    assert run.recipe_path.exists()


def test_files_that_are_no_run_are_left_alone(run: Run) -> None:
    (run.folder / "notes.txt").write_text("mine")
    with pytest.raises(LuthierError, match=r"not empty and holds no run \(notes.txt\)"):
        check(run, recipe())
    assert [path.name for path in run.folder.iterdir()] == ["notes.txt"]
