"""Whole runs by the command line: from a recipe to a folder that others can load, and what a second call does."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import yaml
from bench import Bench

from luthier.cli import main
from luthier.run import Run
from luthier.scorers import SCORERS
from luthier.scorers.metric import Metric
from luthier.types import Example, Response

TASK = {
    "name": "counting",
    "data": "rows.jsonl",
    "limit": 4,
    "max_new_tokens": 8,
    "scorers": ["exact_match", "f1"],
    "max_overlap": 1,
}


def test_train_leaves_everything_behind(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    assert bench.here("train", evaluate=TASK, export="merged") == 0
    run = Run(bench.run)
    names = (
        "recipe.lock.yaml",
        "ledger.json",
        "events.jsonl",
        "summary.json",
        "samples.jsonl",
        "report.html",
        "loss.png",
    )
    for name in (*names, "adapter/adapter_config.json", "merged/model.safetensors", "merged/chat_template.jinja"):
        assert (bench.run / name).exists(), name
    out, err = capfd.readouterr()
    for shown in ("counting", "tuned", "run/adapter", "run/merged", "run/report.html", "luthier chat run"):
        assert shown in out
    assert "12 examples" in err
    summary = run.read_json(run.summary_path)
    assert summary["steps"] == 3
    assert [score["scorer"] for score in summary["scores"]["counting"]["scores"]] == ["exact_match", "f1"]
    assert set(summary["scores"]["counting"]["systems"]) == {"base", "tuned"}
    kinds = [event["kind"] for event in run.events()]
    assert kinds.count("step") == 3
    assert kinds.count("environment") == 1
    assert run.read_json(run.ledger_path)["rows"]["kept"] == 12


def test_the_merged_export_loads_elsewhere_with_the_same_logits(bench: Bench) -> None:
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert bench.here("train", export="merged") == 0
    merged = AutoModelForCausalLM.from_pretrained(bench.run / "merged")
    adapted = AutoPeftModelForCausalLM.from_pretrained(bench.run / "adapter")
    tokenizer = AutoTokenizer.from_pretrained(bench.run / "merged")
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "count 3"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )["input_ids"]
    with torch.no_grad():
        difference = (merged(ids).logits - adapted(ids).logits).abs().max()
        moved = (merged(ids).logits - adapted.get_base_model().from_pretrained(_base(bench))(ids).logits).abs().max()
    assert difference <= 1e-4
    assert moved > 1e-3


def _base(bench: Bench) -> str:
    return str(bench.content["model"]["name"])


def test_a_finished_run_is_not_run_again(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    assert bench.here("train") == 0
    before = {path: path.stat().st_mtime_ns for path in bench.run.rglob("*.safetensors")}
    events = (bench.run / "events.jsonl").read_bytes()
    capfd.readouterr()
    assert bench.here("train") == 0
    assert "finished" in capfd.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in bench.run.rglob("*.safetensors")} == before
    assert (bench.run / "events.jsonl").read_bytes() == events


def test_new_tasks_and_exports_are_done_without_training_again(bench: Bench) -> None:
    assert bench.here("train") == 0
    weights = (bench.run / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns
    assert bench.here("train", evaluate=TASK, export="merged") == 0
    assert (bench.run / "merged" / "config.json").exists()
    run = Run(bench.run)
    assert set(run.read_json(run.summary_path)["scores"]) == {"counting"}
    assert bench.here("train", evaluate={**TASK, "scorers": ["contains"]}, export="merged") == 0
    (score,) = run.read_json(run.summary_path)["scores"]["counting"]["scores"]
    assert score["scorer"] == "contains"
    assert (bench.run / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns == weights


@dataclass(frozen=True)
class Content(Metric):
    """Is always content, and remembers which of its kind was asked."""

    asked: ClassVar[list[Metric]] = []

    def check(self) -> None:
        self.asked.append(self)

    def __call__(self, example: Example, response: Response) -> float | None:
        self.asked.append(self)
        return 1.0


def test_what_was_checked_before_training_is_what_scores(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SCORERS, "_targets", {**SCORERS._targets, "content": Content})
    assert bench.here("train", evaluate={**TASK, "scorers": ["content"]}) == 0
    assert len(Content.asked) > 2 and all(one is Content.asked[0] for one in Content.asked)


def test_the_lock_trains_the_same_again(bench: Bench) -> None:
    assert bench.here("train", "train.lr=0.02") == 0
    lock = bench.run / "recipe.lock.yaml"
    elsewhere = bench.folder / "elsewhere"
    elsewhere.mkdir()
    bench.folder, home = elsewhere, bench.folder
    assert bench.inside(main, "train", str(lock), "output=again") == 0
    again = elsewhere / "again"
    name = "adapter/adapter_model.safetensors"
    assert (again / name).read_bytes() == (home / "run" / name).read_bytes()
    one, other = yaml.safe_load(lock.read_text()), yaml.safe_load((again / "recipe.lock.yaml").read_text())
    assert {**one, "output": ""} == {**other, "output": ""}


def test_evaluate_and_export_start_from_the_folder(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    assert bench.here("train") == 0
    capfd.readouterr()
    assert bench.inside(main, "evaluate", "run") == 1
    assert "has no tasks" in capfd.readouterr().err
    assert bench.inside(main, "evaluate", "run", "evaluate={data: rows.jsonl, limit: 3, max_new_tokens: 4}") == 0
    assert "tuned" in capfd.readouterr().out
    assert bench.inside(main, "evaluate", "run") == 0  # the lock keeps the task
    assert bench.inside(main, "evaluate", "run", "train.lr=1") == 1  # and nothing else may change
    capfd.readouterr()
    assert bench.inside(main, "export", "run", "--to", "merged", "--folder", "out/model", "dtype=bf16") == 0
    config = json.loads((bench.folder / "out/model/config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert bench.inside(main, "export", "run", "--to", "margarine") == 1
    assert "unknown exporter 'margarine'" in capfd.readouterr().err


def test_python_does_what_the_command_line_does(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import luthier
    from luthier.recipe import load

    assert bench.here("train") == 0
    monkeypatch.chdir(bench.folder)
    monkeypatch.setenv("LUTHIER_CACHE", str(bench.cache))
    recipe = load("recipe.yaml", ["output=python"]).recipe
    run = luthier.train(recipe)
    assert run.folder == Path("python")
    name = "adapter/adapter_model.safetensors"
    assert (run.folder / name).read_bytes() == (bench.run / name).read_bytes()
    assert luthier.train("recipe.yaml", ["output=python"]).folder == run.folder
    assert "finished" in capfd.readouterr().err
    assert luthier.export(run) == run.folder / "merged"


def test_a_killed_run_goes_on_and_ends_the_same(bench: Bench) -> None:
    settings = ("train.epochs=20", "train.save_every=5")
    assert bench.here("train", *settings, "output=whole") == 0
    bench.killed("train", *settings)
    assert not (bench.run / "adapter").exists()
    assert bench("train", *settings).returncode == 0
    name = "adapter/adapter_model.safetensors"
    assert (bench.run / name).read_bytes() == (bench.folder / "whole" / name).read_bytes()


def test_ctrl_c_says_how_to_go_on(bench: Bench) -> None:
    settings = ("train.epochs=400", "train.save_every=5")
    (bench.folder / "recipe.yaml").write_text(yaml.safe_dump(bench.content))
    environment = {**os.environ, "LUTHIER_CACHE": str(bench.cache), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "luthier", "train", "recipe.yaml", *settings]
    process = subprocess.Popen(
        command,
        cwd=bench.folder,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        # as from a terminal: a shell starts what it puts in the background deaf to Ctrl-C, and so are its children
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    while not any((bench.run / "checkpoints").glob("step-*")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.rstrip().endswith("stopped; run the same command to resume")
    assert "Traceback" not in err


def test_data_shows_the_ledger_and_the_tokens_that_train(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    assert bench.here("data", "--show", "2") == 0
    out, err = capfd.readouterr()
    assert "12 examples" in err
    assert "rows.jsonl:1" in out
    assert "rows.jsonl:2" in out
    assert "rows.jsonl:3" not in out
    assert not bench.run.exists()


def test_models_lists_what_is_known(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    assert bench.inside(main, "models") == 0
    out = capfd.readouterr().out
    assert "smollm2-135m-instruct" in out
    assert "Apache-2.0" in out


def test_chat_answers_a_pipe(bench: Bench) -> None:
    assert bench.here("train", data={"path": "rows.jsonl", "system": "Count."}) == 0
    done = bench.luthier("chat", "run", "--max-new-tokens", "4", input="count 1\n/both\ncount 2\n/exit\n")
    assert done.returncode == 0, done.stderr
    assert "base" in done.stdout
    assert "tuned" in done.stdout


def test_chat_wants_a_model_that_knows_turns(bench: Bench, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(_base(bench), plain)
    (plain / "chat_template.jinja").unlink()
    assert bench.inside(main, "chat", str(plain)) == 1
    said = capfd.readouterr().err
    assert "plain: this model has no chat template" in said and "chat_template.jinja" in said and "rows" not in said


def test_chat_refuses_to_compare_a_plain_model_and_a_model_it_does_not_know(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n"))
    assert bench.inside(main, "chat", _base(bench), "--max-new-tokens", "4", "--both") == 1
    assert "no adapter" in capfd.readouterr().err
    assert bench.inside(main, "chat", "smollm2-135m-instuct") == 1
    assert "smollm2-135m-instuct" in capfd.readouterr().err
