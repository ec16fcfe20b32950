"""Verbs on runs, texts and recipes as they should not be: words, not tracebacks, and before the work, not after it."""

from __future__ import annotations

import errno
import io
import json
import shutil
import sys
from pathlib import Path

import pytest
from bench import save_tiny_model, write_rows
from reward_runs import policy as reward_policy
from reward_runs import write_run

from luthier import models, verbs
from luthier.errors import LuthierError
from luthier.models import load
from luthier.recipe import Model, Plugin, Recipe, Source, Task, loads, lock
from luthier.run import Run
from luthier.scorers import SCORERS
from luthier.types import Example, Response, Turn
from luthier.workflow.faults import words


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was scored once, beside its model and its task's rows."""
    folder = tmp_path_factory.mktemp("whole")
    model, rows = save_tiny_model(folder / "tiny"), write_rows(folder / "held.jsonl", 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_CACHE", str(folder / "cache"))
        made = load(Model(name=str(model), dtype="fp32"), [Plugin(name="lora")], device="cpu")
        run = Run(folder / "run")
        run.folder.mkdir()
        task = Task(data=(Source(path=str(rows)),), scorers=(Plugin(name="f1"),), max_new_tokens=2)
        recipe = Recipe(model=made.model, data=(Source(path=str(rows)),), evaluate=(task,), output=str(run.folder))
        run.recipe_path.write_text(lock(recipe))
        models.save(made, run)
        run.event("start", path="packed rows")
        run.event("step", step=1, epoch=1.0, loss=1.0)
        run.write_json(run.ledger_path, {"rows": {"read": 3}, "sources": {}, "dropped": {}})
        verbs.evaluate(run)
    return run.folder


@pytest.fixture
def run(whole: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.setenv("LUTHIER_CACHE", str(whole.parent / "cache"))
    shutil.copytree(whole, tmp_path / "run")
    return Run(tmp_path / "run")


# files that are not whole
@pytest.mark.parametrize("name", ["summary.json", "ledger.json", "samples.jsonl", "events.jsonl"])
def test_a_file_cut_in_the_middle_is_told_before_anything_is_scored(run, name, monkeypatch):
    path = run.folder / name
    content = path.read_bytes()
    cut = content[: len(content) // 2]
    path.write_bytes(cut if name != "events.jsonl" else b'{"kind": "sta\n' + content)
    monkeypatch.setattr("luthier.workflow.scoring.score", lambda *_: pytest.fail("scored before it was told"))
    with pytest.raises(LuthierError, match="is not whole") as error:
        verbs.evaluate(run.folder)
    assert str(path) in (error.value.where or "") and "remove" in (error.value.fix or "")


def test_events_whose_last_line_was_cut_off_are_read_without_it(run):
    with run.events_path.open("ab") as file:
        file.write(b'{"kind": "step", "st')
    verbs.evaluate(run.folder)
    assert run.report_path.is_file()


def test_a_summary_that_is_not_whole_is_told_before_an_export_is_written(run):
    run.summary_path.write_text('{"steps": 3, "sco')
    with pytest.raises(LuthierError, match="is not whole"):
        verbs.export(run.folder)
    assert not run.merged.exists()


def test_what_says_whose_the_weights_are_may_be_cut_too(run):
    (run.adapter / "luthier.json").write_text('{"model": {"na')
    for verb in (verbs.evaluate, verbs.chat):
        with pytest.raises(LuthierError, match="is not whole") as error:
            verb(run.folder)
        assert error.value.where == str(run.adapter / "luthier.json")


# the tasks that a run keeps
@pytest.mark.parametrize(
    "override",
    ["evaluate.0.data=missing.jsonl", "evaluate.0.scorers=[json_match]", "evaluate.0.scorers=[preference_accuracy]"],
)
def test_an_evaluation_that_cannot_be_leaves_the_runs_tasks_as_they_were(run, override):
    before = run.recipe_path.read_text()
    with pytest.raises(LuthierError):
        verbs.evaluate(run.folder, [override])
    assert run.recipe_path.read_text() == before
    verbs.evaluate(run.folder)


def test_a_scorer_is_named_by_what_is_particular_to_it_also_in_an_error(run):
    with pytest.raises(LuthierError, match="scorer 'json_match' can judge none"):
        verbs.evaluate(run.folder, ["evaluate.0.scorers=[json_match]"])


# a reward model that is not whole, or of another kind
def test_a_reward_model_that_is_not_whole_or_of_other_rows_is_told(run, tmp_path):
    import tiny

    model = save_tiny_model(tmp_path / "tiny")
    judge = write_run(tmp_path / "rm", reward_policy(model), model)
    (judge.adapter / "head.json").write_text('{"kind": "ro')
    with pytest.raises(LuthierError, match="is not whole") as error:
        verbs.evaluate(run.folder, [f"evaluate.0.scorers=[{{reward_model: {judge.folder}}}]"])
    assert error.value.where == str(judge.adapter / "head.json")
    tiny.folder(tmp_path / "words")  # whose tokenizer has no chat template
    other = write_run(tmp_path / "other", reward_policy(tmp_path / "words"), tmp_path / "words")
    asked = Example((Turn("user", "so?"),)), Response((Turn("assistant", "yes"),))
    with pytest.raises(LuthierError, match=r"the reward model cannot read the rows: .* has no chat template"):
        SCORERS.build("reward_model", {"run": str(other.folder)}).many([asked])


# chat
def test_bytes_that_are_no_text_do_not_end_a_conversation(run, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("caf\udce9\nhi\n"))
    with pytest.raises(LuthierError, match="lines without an answer: 1"):
        verbs.chat(run.folder, max_new_tokens=1)
    assert "this is not UTF-8 text" in capsys.readouterr().out


def test_there_may_be_no_input_at_all(run, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(LuthierError, match="no input to read"):
        verbs.chat(run.folder)


# recipes
@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("evaluate: {data: h, scorers: []}", "evaluate.0.scorers is empty"),
        ('evaluate: {data: "a\\0b"}', "evaluate.0.data.0.path holds a NUL character"),
        ("adapt: " + "[" * 1000, "nested too deeply"),
    ],
)
def test_what_no_recipe_may_hold_is_told(text, what):
    with pytest.raises(LuthierError, match=what):
        loads(f"model: m\ndata: d\noutput: o\n{text}\n")
    with pytest.raises(LuthierError, match=what):
        loads("model: m\ndata: d\noutput: o\n", [text.replace(": ", "=", 1)])


def test_overrides_may_come_in_any_order():
    text, given = "model: m\ndata: d\noutput: o\n", ["evaluate.scorers=f1", "evaluate.limit=2", "evaluate.data=h"]
    assert loads(text, given).recipe == loads(text, given[::-1]).recipe
    with pytest.raises(LuthierError, match=r"evaluate\.0\.data is missing"):
        loads(text, given[:2])


def test_a_run_folder_in_the_place_of_a_recipe_names_the_runs_recipe(run):
    with pytest.raises(LuthierError) as error:
        verbs.explain(run.folder)
    assert str(run.recipe_path) in (error.value.fix or "")


# the system's own faults
def test_of_a_move_the_place_is_told_that_it_was_to():
    moved = OSError(errno.EISDIR, "Is a directory", "run/.report.html.17", None, "run/report.html")
    assert words(moved).startswith("run/report.html: is a directory")


def test_what_the_report_is_made_of_is_json_that_others_read(run):
    for line in run.samples_path.read_text(encoding="utf-8").splitlines():
        assert json.loads(line)["task"] == "held-out"
