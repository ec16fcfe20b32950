"""From pairs to a reward model to better answers, through the command line."""

from __future__ import annotations

import json

import pytest
from bench import Bench

from luthier.cli import main
from luthier.run import Run


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def judged(bench: Bench) -> Bench:
    rows = [
        {"prompt": f"count {n}", "chosen": "a" * (n % 5 + 1) + "bc", "rejected": "x" * (n % 4 + 1) + "yz"}
        for n in range(32)
    ]
    write(bench.folder / "pairs.jsonl", rows[:20])
    write(bench.folder / "held.jsonl", rows[20:])
    write(bench.folder / "tasks.jsonl", [{"prompt": f"count {n}", "completion": "ab"} for n in range(4)])
    bench.content["evaluate"] = {"name": "pairs", "data": "held.jsonl", "scorers": "preference_accuracy"}
    return bench


def scores(bench: Bench, run: str, task: str) -> dict[str, dict[str, float]]:
    found = json.loads((bench.folder / run / "summary.json").read_text())["scores"][task]["scores"]
    return {each["scorer"]: {name: one["value"] for name, one in each["systems"].items()} for each in found}


def test_a_reward_model_ranks_held_out_pairs_and_picks_answers(judged: Bench, capsys: pytest.CaptureFixture[str]):
    trained = {"objective": "reward", "data": "pairs.jsonl", "output": "rm"}
    assert judged.here("train", "train.epochs=4", **trained) == 0
    accuracy = scores(judged, "rm", "pairs")["preference_accuracy"]
    assert accuracy["base"] == 0.5 and accuracy["tuned"] > 0.9
    last = [event for event in Run(judged.folder / "rm").events() if event["kind"] == "step"][-1]
    assert last["reward_better"] > last["reward_worse"] and "logp_better" not in last, "a head alone was read"

    task = {
        "name": "answers", "data": "tasks.jsonl", "scorers": ["exact_match"],
        "max_new_tokens": 6, "temperature": 1.0, "best_of": 4, "by": {"reward_model": "rm"},
    }  # fmt: skip
    assert judged.here("train", output="sft", evaluate=task) == 0
    found = scores(judged, "sft", "answers")
    assert set(found) == {
        "exact_match, best of 4",
        "exact_match, first of 4",
        "exact_match, gain of best over first",
        "exact_match, oracle's best of 4",
        "reward_model (run=rm), of the picks",
    }
    assert "oracle&#39;s best of 4" in (judged.folder / "sft" / "report.html").read_text()
    more = {**task, "scorers": [{"reward_model": "rm"}]}
    assert judged.here("train", output="sft", evaluate=more) == 0, "new scorers on a finished run score anew"
    rewards = scores(judged, "sft", "answers")
    assert rewards["reward_model (run=rm), best of 4"]["tuned"] >= rewards["reward_model (run=rm), first of 4"]["tuned"]
    capsys.readouterr()

    # rows to train on are chosen by it
    told = ["abc", "xyz", "aabc", "xxyz"]
    write(judged.folder / "all.jsonl", [{"prompt": "count 40", "completion": answer} for answer in told])
    choose = "steps=[{select: {by: {reward_model: rm}, keep: 0.5}}]"
    assert judged.inside(main, "curate", "all.jsonl", choose, "--out", "best.jsonl") == 0
    kept = [json.loads(line)["messages"] for line in (judged.folder / "best.jsonl").read_text().splitlines()]
    assert [messages[-1]["content"] for messages in kept] == ["abc", "aabc"]
    capsys.readouterr()

    # a run without a head, and rewards of an objective that gives none: said before anything is trained
    wrong = {"name": "wrong", "data": "tasks.jsonl", "scorers": {"reward_model": "sft"}}
    assert judged.here("train", output="other", evaluate=wrong) == 1
    assert "was trained with objective sft and has no scalar head" in capsys.readouterr().err
    assert judged.here("train", output="other") == 1
    assert "objective 'sft' gives no rewards" in " ".join(capsys.readouterr().err.split())
    assert not (judged.folder / "other" / "events.jsonl").exists()


def test_a_process_reward_model_cuts_answers_as_its_rows_were_cut(bench: Bench):
    rows = [
        {"prompt": f"count {n}", "completions": ["a\nb\n\n", "c\nd\n\n", "e"], "labels": [1, 0, 1]} for n in range(8)
    ]
    write(bench.folder / "steps.jsonl", rows)
    assert bench.here("train", objective="process_reward", data="steps.jsonl", output="prm") == 0
    head = json.loads((bench.folder / "prm" / "adapter" / "head.json").read_text())
    assert head["separator"] == "\n\n", "a newline within a step does not end it"
    ledger = json.loads((bench.folder / "prm" / "ledger.json").read_text())
    assert ledger["preferences"]["wrong_steps"] == 8 and ledger["step_joints"] == {"\n\n": 16}


@pytest.mark.parametrize(("objective", "base"), [("dpo", 0.5), ("simpo", None)])
def test_implicit_rewards_before_and_after(judged: Bench, objective: str, base: float | None):
    trained = {"objective": objective, "data": "pairs.jsonl", "output": objective}
    assert judged.here("train", "train.epochs=4", **trained) == 0
    accuracy = scores(judged, objective, "pairs")["preference_accuracy"]
    assert accuracy["tuned"] > 0.9 and (base is None or accuracy["base"] == base)
