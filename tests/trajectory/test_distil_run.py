"""`luthier train` on a teacher's likeliest tokens: kept once, found again, brought by the rows, refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from bench import Bench, save_tiny_model

from luthier import models
from luthier.engines import ENGINES
from luthier.run import Run
from luthier.serve.words.tokens import Told, for_chat
from luthier.types import Sampling

TRAIN = {"batch": 4, "max_tokens": 128, "threads": 1, "lr": 1e-2, "steps": 2}
KEYS: dict[str, Any] = {
    "objective": {"gkd": {"own": 0, "beta": 0}},
    "teacher": {"model": "run", "top": 8},
    "train": TRAIN,
}


@pytest.fixture
def taught(bench: Bench) -> Bench:
    """With a run that may teach."""
    assert bench.here("train", "train.steps=2") == 0
    return bench


def losses(bench: Bench, name: str) -> list[float]:
    return [event["loss"] for event in Run(bench.folder / name).events("step")]


def test_a_teacher_is_read_once_for_all_runs_on_the_same_rows(
    taught: Bench, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert taught.here("explain", **KEYS, output="a") == 0
    shown = " ".join(capfd.readouterr().out.split())
    assert "its 8 likeliest tokens at" in shown and "36 bytes each" in shown and "teacher.top" in shown
    assert taught.here("train", **KEYS, output="a") == 0
    first = capfd.readouterr().err
    assert "reading its 8 likeliest tokens at" in first and "its 8 likeliest tokens hold" in first and "nats" in first
    summary = Run(taught.folder / "a").read_json(Run(taught.folder / "a").summary_path)
    loaded: list[str] = []
    real = models.load
    monkeypatch.setattr(models, "load", lambda model, *a, **k: loaded.append(model.name) or real(model, *a, **k))
    assert taught.here("train", "train.lr=0.02", **KEYS, output="b") == 0
    again = capfd.readouterr().err
    assert "reading its" not in again and "its 8 likeliest tokens hold" in again
    assert not any(name.endswith("/run") for name in loaded)
    assert losses(taught, "b")[0] == losses(taught, "a")[0]
    assert Run(taught.folder / "b").read_json(Run(taught.folder / "b").summary_path)["teacher"] == summary["teacher"]
    assert taught.here("train", **{**KEYS, "teacher": "run"}, output="live") == 0
    assert losses(taught, "live")[0] >= losses(taught, "a")[0] - 1e-4


def test_rows_bring_what_a_teacher_said_and_say_the_same(taught: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    policy = models.open_run(Run(taught.run))
    ask, rows = policy.tokenizer, []
    engine = ENGINES.build("local", {}).open(policy, frozenset())
    with (taught.folder / "rows.jsonl").open() as file:
        for line in file:
            row = json.loads(line)
            prompt = f"<|im_start|>user\n{row['prompt']}<|im_end|>\n<|im_start|>assistant\n"
            own = ask(row["completion"], add_special_tokens=False)["input_ids"]
            # an endpoint tells of what it says itself: put the answer into its mouth token by token
            before, said = ask(prompt, add_special_tokens=False)["input_ids"], []
            for token in own:
                sampling = Sampling(max_new_tokens=1, top_logprobs=8)
                (done,) = engine.generate([before], sampling)
                top = done.top[0]
                said.append(Told(token, dict(top).get(token, -9.0), top))
                before = [*before, token]
            rows.append({**row, "logprobs": for_chat(ask, said)})
    (taught.folder / "told.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert taught.here("train", **{**KEYS, "data": "told.jsonl", "teacher": {"top": 8}}, output="a") == 0
    shown = capfd.readouterr().err
    assert "12 tokens of which nothing is told (ends of turns) are learnt as text" in shown
    assert losses(taught, "a")[-1] > 0
    assert taught.here("train", **{**KEYS, "teacher": {"top": 8}}, output="none") == 1
    assert "rows.jsonl:" in (told := capfd.readouterr().err) and "the row has no `logprobs`" in told


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"objective": "gkd"}, "here the model answers itself"),
        ({"teacher": {"kept": "fp32"}}, "nobody is named"),
        (
            {"teacher": {"model": "other", "top": 8}},
            "has another vocabulary than the model (259 tokens against 259",
        ),
        ({"objective": "sft"}, "has no teacher, but `teacher` names one"),
    ],
)
def test_what_cannot_be_is_told(
    bench: Bench, more: dict[str, Any], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = save_tiny_model(bench.folder / "other")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    teacher = {"teacher": {"model": "other", "top": 8}}
    assert bench.here("train", **{**KEYS, **teacher, **more}, output="x") == 1
    assert words in " ".join(capfd.readouterr().err.replace("│", " ").split())
