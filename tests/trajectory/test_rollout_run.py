"""`luthier train` with a recipe that learns from what the model says: trained, gone on with, looked at, refused with
a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bench import Bench
from serving import serving

from luthier.run import Run

FAR = {"openai": {"url": "http://127.0.0.1:1", "model": "x"}}
KEYS: dict[str, Any] = {
    "data": "questions.jsonl",
    "objective": "grpo",
    "rollout": {"n": 4, "max_new_tokens": 8},
    "reward": [{"contains": {"casefold": False}}, {"f1": {"weight": 0.1}}],
    "train": {"batch": 2, "max_tokens": 128, "threads": 1, "lr": 1e-2, "steps": 3},
}


@pytest.fixture
def questions(bench: Bench) -> Bench:
    rows = [{"prompt": f"say {letter}", "answer": letter} for letter in "abcdefgh"]
    (bench.folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return bench


def test_a_recipe_of_a_few_keys_trains_scores_and_shows_what_was_said(
    questions: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    task = {"data": "questions.jsonl", "scorers": ["contains"], "limit": 2, "max_new_tokens": 8, "max_overlap": 1}
    assert questions.here("train", **KEYS, validate={"share": 0.2, "every": 3}, evaluate=task) == 0
    shown = capfd.readouterr()
    assert "8 prompts" in shown.err or "7 prompts" in shown.err or "6 prompts" in shown.err
    assert "reward" in shown.err and "silent" in shown.err and "trained" in shown.err
    assert "hopeless" in shown.out and "answers     run/rollouts" in shown.out.replace(str(questions.folder) + "/", "")
    run = Run(questions.run)
    assert len(list(run.events("rollout"))) == 3 and run.adapter.is_dir()
    assert [event["step"] for event in run.events("evaluation")] == [3]
    lines = [json.loads(line) for line in (run.rollouts / "step-000003.jsonl").read_text().splitlines()]
    assert len(lines) == 8 and lines[0]["parts"].keys() == {"contains", "f1"}
    assert "What was said" in run.report_path.read_text()
    assert questions.here("train", **KEYS, validate={"share": 0.2, "every": 3}, evaluate=task) == 0
    assert "this run is finished" in capfd.readouterr().err
    from luthier.cli import main

    assert questions.inside(main, "samples", "run", "--step", "2", "--worst", "--count", "1") == 0
    said = capfd.readouterr().out
    assert "step-000002: 8 answers" in said and "say " in said and "contains" in said
    assert questions.inside(main, "samples", "run", "--step", "0") == 2
    assert questions.inside(main, "data", "recipe.yaml", "--show", "1") == 0
    assert "to compare with" in capfd.readouterr().out


def test_a_killed_run_goes_on_by_the_same_command(questions: Bench) -> None:
    questions.killed("train", **KEYS)
    assert questions.here("train", **KEYS) == 0
    assert questions.here("train", "output=whole", **KEYS) == 0
    whole = questions.folder / "whole"
    for name in ("adapter/adapter_model.safetensors", "prompts.jsonl", "rollouts/step-000003.jsonl"):
        assert (questions.run / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.parametrize(
    ("objective", "more"),
    [
        ("ppo", {}),
        ({"vapo": {"warm": 1}}, {}),
        ("rloo", {}),
        ("online_dpo", {}),
        ("xpo", {}),
        ("nash_md", {}),
        ({"gkd": {"own": 0.5}}, {"teacher": "run", "reward": []}),
        ("reverse_kd", {"reward": [], "reference": "run"}),
        ({"sum": {"grpo": 1.0, "gkd": 0.1}}, {"teacher": "run"}),
    ],
    ids=str,
)
def test_every_method_trains_by_the_same_keys(questions: Bench, objective: Any, more: dict[str, Any]) -> None:
    if "run" in more.values():  # an earlier run teaches
        assert questions.here("train", "train.steps=1") == 0
    keys = {**KEYS, "objective": objective, **more, "output": "learnt"}
    assert questions.here("train", **{**keys, "train": {**KEYS["train"], "steps": 2}}) == 0
    run = Run(questions.folder / "learnt")
    assert [event["step"] for event in run.events("step")] == [1, 2] and list(run.events("rollout"))
    assert (run.adapter / "head-value.safetensors").is_file() == (objective == "ppo" or "vapo" in objective)
    assert ("teacher" in run.read_json(run.summary_path)) == ("teacher" in more)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"reward": ["perplexity"]}, "judges no answer that a model draws"),
        ({"reward": ["contains", "step_accuracy"]}, "'step_accuracy' judges no answer that a model draws"),
        ({"rollout": {"max_new_tokens": 128}}, "an answer of 128 tokens leaves no prompt room in 128"),
        ({"objective": "reinforce", "rollout": {"max_new_tokens": 8, "updates": 3}}, "set rollout.updates=1, or clip"),
        ({"objective": {"sum": {"reinforce": 1, "ppo": 1}}, "rollout": {"updates": 2, "max_new_tokens": 8}}, "clip"),
        ({"objective": "dapo", "reference": "tiny"}, "'dapo' has no reference, but `reference.model` names one"),
        ({"adapt": "eva"}, "is measured on rows with answers first"),
        ({"objective": "xpo", "reference": "tiny"}, "only where it is the model with its adapter off"),
        (
            {"objective": "nash_md", "rollout": {"max_new_tokens": 8, "engine": FAR, "follow": {"folder": "there"}}},
            "which the engine 'openai' does not do",
        ),
        ({"adapt": {"lora": {"dropout": 0.1}}}, "has a dropout of 0.1"),
        ({"objective": "sft"}, "learns from the rows as they are"),
        ({"reward": []}, "learns from what answers are worth"),
        ({"objective": "gkd"}, "learns from a teacher, and none is named"),
        ({"teacher": "tiny"}, "has no teacher, but `teacher` names one"),
        ({"objective": "xpo", "adapt": "full"}, "only where it is the model with its adapter off"),
        ({"objective": "xpo", "rollout": {"n": 3, "max_new_tokens": 8}}, "set rollout.n=4"),
        ({"objective": "nash_md", "adapt": "full"}, "the reference helps to draw rivals"),
        (
            {"objective": "nash_md", "rollout": {"n": 3, "max_new_tokens": 8}},
            "drawn by the rival that they are held against",
        ),
    ],
)
def test_what_cannot_be_is_told_by_explain(
    questions: Bench, capfd: pytest.CaptureFixture[str], more: dict[str, Any], words: str
) -> None:
    for verb in ("explain", "train"):
        assert questions.here(verb, **{**KEYS, **more}) == 1
        shown = capfd.readouterr().err
        assert words in " ".join(shown.split()) and "Traceback" not in shown
    assert not questions.run.exists()


def test_an_engine_that_cannot_be_reached_is_told_before_a_step(
    questions: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    assert questions.here("train", **{**KEYS, "rollout": {"max_new_tokens": 8, "engine": FAR}}) == 1
    assert "the endpoint cannot be reached" in " ".join(capfd.readouterr().err.split())
    assert not list((questions.run / "checkpoints").glob("step-*"))


def test_several_updates_go_with_whatever_is_clipped(questions: Bench) -> None:
    for objective in ("rloo", "grpo", {"reinforce": {"clip_high": 0.2}}, "online_dpo", {"vapo": {"clip_low": "none"}}):
        assert questions.here("explain", "rollout.updates=3", **{**KEYS, "objective": objective}) == 0


def test_prompts_that_leave_no_room_are_told_before_a_step(questions: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    keys = {**KEYS, "data": "rows.jsonl", "rollout": {"max_new_tokens": 120}}
    assert questions.here("train", **keys) == 1
    assert "leave no room for an answer of 120 tokens" in " ".join(capfd.readouterr().err.split())
    assert not list((questions.run / "checkpoints").glob("step-*"))


def test_a_share_that_holds_no_prompt_out_is_told(questions: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    (questions.folder / "questions.jsonl").write_text(json.dumps({"prompt": "say a", "answer": "a"}) + "\n")
    assert questions.here("train", **{**KEYS, "validate": {"share": 0.01, "patience": 1}}) == 1
    assert "validate.share holds out no row: all prompts are equal" in " ".join(capfd.readouterr().err.split())
    assert questions.here("train", **KEYS, validate={"share": 0.01}) == 0
    assert "warning: validate.share holds out no row" in capfd.readouterr().err


def test_several_processes_are_refused_before_there_are_any(
    questions: Bench, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def launch(*_: Any) -> None:
        raise AssertionError("processes were started")

    monkeypatch.setattr("luthier.distributed.launch.launch", launch)
    assert questions.here("train", "--processes", "2", **KEYS) == 1
    assert "--processes: the objective 'grpo' learns from what the model says" in capfd.readouterr().err
    from luthier import verbs
    from luthier.errors import LuthierError

    monkeypatch.chdir(questions.folder)
    with pytest.raises(LuthierError, match="drawn by one process"):
        verbs.train("recipe.yaml", processes=2)


def test_held_out_rows_that_cannot_be_judged_are_told_at_the_start(
    questions: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": "say a", "answer": "a"}, {"prompt": "say b"}]
    (questions.folder / "apart.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert questions.here("train", **KEYS, validate={"data": "apart.jsonl"}) == 1
    assert "apart.jsonl:2: 1 of 2 rows of validate.data have no `answer`" in " ".join(capfd.readouterr().err.split())
    assert questions.here("data", **KEYS, validate={"data": "apart.jsonl"}) == 1
    capfd.readouterr()
    task = {"data": "apart.jsonl", "scorers": ["contains"], "max_new_tokens": 2, "max_overlap": 1}
    assert questions.here("train", "train.steps=1", **KEYS, evaluate=task) == 0
    told = " ".join(capfd.readouterr().err.split())
    assert told.index("1 of 2 rows will not be judged by contains") < told.index("path:")
    assert "apart.jsonl:2)" in told


def test_a_run_without_rollouts_has_nothing_to_show(questions: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    assert questions.here("train", "train.steps=1") == 0
    from luthier.cli import main

    assert questions.inside(main, "samples", "run") == 1
    assert "keeps nothing of what its model said" in capfd.readouterr().err


def test_a_server_answers_by_the_weights_that_train(questions: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    model, shared = questions.content["model"]["name"], questions.folder / "shared"
    shared.mkdir()
    monkeypatch.setenv("SERVER_KEY", "the-admin-key")
    with serving([model], shared, ("admin the-admin-key",)) as server:
        asked = {"url": f"{server.url}/v1", "model": Path(model).name, "key_env": "SERVER_KEY"}
        rollout = {"n": 4, "max_new_tokens": 8, "engine": {"openai": asked}, "follow": {"folder": str(shared)}}
        for objective, ahead in (("grpo", 1), ("xpo", 0)):
            output = f"{objective}-{ahead}"
            keys = {**KEYS, "rollout": {**rollout, "ahead": ahead}, "objective": objective, "output": output}
            keys["train"] = {**KEYS["train"], "steps": 2}
            assert questions.here("train", **keys, validate={"share": 0.2, "every": 2}) == 0
            run = Run(questions.folder / output)
            assert len(list(run.events("rollout"))) == 2 == len(list(run.events("step"))) and run.adapter.is_dir()
            assert len(list(run.events("evaluation"))) == 1 and not list(shared.iterdir())
            assert all(step["mismatch"] < 1e-4 for step in list(run.events("step"))[:ahead])
