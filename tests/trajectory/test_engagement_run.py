"""From a log of conversations to a reward model to better answers, through the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from bench import Bench

from luthier.cli import main

DAY = 86400


@pytest.fixture
def logged(bench: Bench) -> Bench:
    """Users go on talking after answers with an a in front, and leave after others; the last ones are still talking."""
    rng = np.random.default_rng(0)
    rows = []
    for n in range(80):
        time, said = float(rng.uniform(0, 4 * DAY)), []
        while True:
            liked = bool(rng.random() < 0.6)
            text = ("a" if liked else "x") + "".join(rng.choice(list("bcd"), 3))
            said += [
                {"role": "user", "content": f"count {rng.integers(9)}", "time": time},
                {"role": "assistant", "content": text, "time": time + 1},
            ]
            time += 60
            if not liked:
                break
        rows.append({"user": f"u{n % 40}", "conversation": n, "model": "ab"[n % 40 % 2], "messages": said})
    (bench.folder / "logs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (bench.folder / "tasks.jsonl").write_text("".join(json.dumps({"prompt": f"count {n}"}) + "\n" for n in range(4)))
    return bench


def scores(bench: Bench, run: str, task: str) -> dict[str, dict[str, float]]:
    found = json.loads((bench.folder / run / "summary.json").read_text())["scores"][task]["scores"]
    return {each["scorer"]: {name: one["value"] for name, one in each["systems"].items()} for each in found}


def test_what_users_did_next_becomes_a_reward(logged: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    keys = ("test=0.3", "context=1", "within=12")
    assert logged.inside(main, "engagement", "logs.jsonl", "--out", "engaged", *keys) == 0
    shown = capsys.readouterr()
    assert "Mean conversation length, in turns" in shown.out and "difference to the first" in shown.out
    assert "left out" in shown.err and "the log ends before it was watched for long enough" in shown.err
    told = json.loads((logged.folder / "engaged" / "ledger.json").read_text())
    assert told["train"]["good"] and told["test"]["bad"] and told["train"]["users"] + told["test"]["users"] <= 40

    held = {"name": "held-out users", "data": "engaged/test.jsonl", "scorers": "label_accuracy", "max_overlap": 1}
    trained = {"objective": "outcome_reward", "data": "engaged/train.jsonl", "output": "rm", "evaluate": held}
    assert logged.here("train", "train.epochs=2", **trained) == 0
    accuracy = scores(logged, "rm", "held-out users")["label_accuracy"]
    assert accuracy["base"] == 0.5 and accuracy["tuned"] > 0.9
    task = {
        "name": "answers", "data": "tasks.jsonl", "scorers": [{"reward_model": "rm"}],
        "max_new_tokens": 4, "temperature": 1.0, "best_of": 4, "by": {"reward_model": "rm"}, "max_overlap": 1,
    }  # fmt: skip
    assert logged.here("train", output="sft", evaluate=task) == 0
    rewards = scores(logged, "sft", "answers")
    assert rewards["reward_model (run=rm), best of 4"]["tuned"] >= rewards["reward_model (run=rm), first of 4"]["tuned"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["nowhere.jsonl"], "nowhere.jsonl"),
        (["turns=2"], "there is no log to read"),
        (["logs.jsonl", "turn=2"], "turns"),
        (["logs.jsonl", "baseline=c"], "the models are a, b"),
        (["rows.jsonl"], "a log of conversations needs user, conversation, messages"),
        (["logs.jsonl", "--out", "rows.jsonl"], "is a file"),
    ],
)
def test_what_cannot_be_is_told(
    logged: Bench, given: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert logged.inside(main, "engagement", *given) == 1
    assert message in " ".join(capsys.readouterr().err.split())
