"""The harness itself: what it reads, what it counts, what it divides by what."""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[3] / "benchmarks"))
sys.path.append(str(Path(__file__).resolve().parents[3] / "benchmarks" / "peers"))

import contenders
import contest
import held_out
import measure
import pairs
import report
import results
import table
import task
import torch
import workload


def row(number: int, text: str = "") -> dict[str, str]:
    return {"instruction": f"do {number}", "input": text, "output": f"done {number}"}


def test_workload_takes_rows_after_a_seeded_shuffle_and_holds_out_later_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(workload, "PEERS", tmp_path)
    data = tmp_path / "alpaca.json"
    data.write_text(json.dumps([row(number) for number in range(300)]))
    work = workload.prepare(32, 8, "some/model", str(data))
    train = Path(work.train).read_text().splitlines()
    held_out = Path(work.held_out).read_text().splitlines()
    assert (len(train), len(held_out)) == (32, 8)
    assert not set(train) & set(held_out)
    assert train[0] != json.dumps(workload.messages(row(0)))  # shuffled
    assert workload.prepare(32, 8, "some/model", str(data)) == work
    assert Path(work.train).read_text().splitlines() == train


def test_messages_put_the_input_on_a_line_of_its_own():
    assert workload.messages(row(1, "with this"))["messages"][0] == {"role": "user", "content": "do 1\nwith this"}
    assert workload.messages(row(1))["messages"][0]["content"] == "do 1"


def test_peak_memory_counts_the_children_of_the_process(tmp_path):
    """A parent that does nothing but wait for two children of 150 MB each.

    Measured from a process of its own: the kernel counts a new process's memory from that of the one that starts it,
    and pytest has grown large by now.
    """
    child = "import time; block = bytearray(150_000_000); time.sleep(1)"
    parent = f"import subprocess, sys; ps = [subprocess.Popen([sys.executable, '-c', {child!r}]) for _ in range(2)]; "
    parent += "[p.wait() for p in ps]; sys.exit(3)"
    script = (
        "import dataclasses, json, os, pathlib, sys; sys.path.insert(0, sys.argv[1]); from measure import measured; "
    )
    script += "folder = pathlib.Path(sys.argv[2]); "
    script += "taken = measured([sys.executable, '-c', sys.argv[3]], folder / 'log', os.environ, folder); "
    script += "print(json.dumps(dataclasses.asdict(taken)))"
    benchmarks = Path(measure.__file__).parent
    command = [sys.executable, "-c", script, str(benchmarks), str(tmp_path), parent]
    taken = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert taken["status"] == 3
    assert 300e6 < taken["peak_bytes"] < 500e6
    assert 1 <= taken["seconds"] < 30


def test_the_result_line_is_found_among_a_tools_output(tmp_path):
    log = tmp_path / "log"
    log.write_text('loading\n 50%|##  | 1/2 {"tool": "x", "seconds": 1.5}\nsaved\n')
    assert report.of_peer(log) == {"tool": "x", "seconds": 1.5}
    log.write_text("Traceback\n")
    with pytest.raises(ValueError, match="no result line"):
        report.of_peer(log)


def run(seconds: float, peak: float, **more: object) -> dict[str, object]:
    return {
        "seconds": seconds,
        "peak_gib": peak,
        "tokens_per_s": 100 / seconds,
        "to_first_step": 5.0,
        "held_out": {"loss": 1.5},
        "losses": [2.0, 1.0],
        "fed": 120,
        "scored": 60,
        "settings": "{}",
        "busy_before": 1.0,
        "gflops_before": 900.0,
        "sitting": "2026-01-02T03:04",
        "versions": {"torch": "2"},
        **more,
    }


def part(found: dict[str, list[dict[str, object]]], **more: object) -> dict[str, object]:
    return {
        "results": found,
        "ours": ["luthier", "luthier-unfused"],
        "bars": {},
        "repeat": 3,
        "workload": {"stage": "sft", "rows": 8, "left_out": 0},
        "train": {"tokens": 100, "scored": 50, "prompt": 50},
        "held_out_rows": 8,
        "base": {"loss": 2.0},
        **more,
    }


def lines_of(text: str) -> dict[str, list[str]]:
    return {line.split(" | ")[0].strip("| "): line.split(" | ") for line in text.splitlines()}


def test_ratios_are_against_the_best_peer_and_never_against_ourselves():
    found = {
        "luthier": [run(10, 2), run(30, 2), run(20, 2)],
        "luthier-unfused": [run(5, 1)],
        "peer-defaults": [run(100, 3)],
        "peer-best": [run(60, 4)],
    }
    lines = lines_of(table.markdown(part(found)))
    assert lines["luthier"][1:6] == ["20.0", "3.00", "5", "2.00", "1.50"]  # median 20 s against 60 s, 2 against 3 GiB
    assert lines["peer-best"][1:6] == ["60.0", "1.00", "2", "4.00", "0.75"]


def test_a_preference_table_says_which_bars_are_met_and_how_far_first_losses_are_from_log_2():
    judged = {"loss": 0.6875, "accuracy": 0.75, "margin": 0.0125}
    ours = run(20, 2, losses=[math.log(2), 0.6], held_out=judged, shared=0.26)
    peer = run(100, 3, losses=[math.log(2) + 0.001, 0.6], held_out=judged, sitting="2026-01-03T03:04")
    document = part(
        {"luthier": [ours], "peer-best": [peer]},
        bars={"seconds": 4.5, "peak_gib": 2.0},
        workload={"stage": "dpo", "rows": 44, "left_out": 4},
    )
    text = table.markdown(document, "pairs")
    assert "5.00× its own (bar 4.5: met)" in text
    assert "1.50× its own (bar 2: NOT met)" in text
    assert "within 1e-03 of log 2" in text
    assert "4 of the first 48 were left out" in text
    assert "sittings of 2026-01-02T03:04, 2026-01-03T03:04" in text
    lines = lines_of(text)
    assert lines["luthier"][8:11] == ["0.6875", "0.75", "+0.0125"]
    assert [lines[name][12] for name in ("luthier", "peer-best")] == ["26%", "–"]


def test_pair_scores_by_hand():
    """Two pairs at beta 0.5: negative log-probabilities fall by 2 and 0 (margin 1); rise by 1 and fall by 3 (-2)."""
    base = torch.tensor([10.0, 10.0, 10.0, 10.0], dtype=torch.double)
    tuned = torch.tensor([8.0, 10.0, 11.0, 7.0], dtype=torch.double)
    scores = held_out.pair_scores(tuned, base, 0.5)
    assert scores["margin"] == pytest.approx((1 - 2) / 2)
    assert scores["accuracy"] == 0.5
    assert scores["loss"] == pytest.approx((math.log1p(math.exp(-1)) + math.log1p(math.exp(2))) / 2)
    untuned = held_out.pair_scores(base, base, 0.5)
    assert untuned == pytest.approx({"loss": math.log(2), "accuracy": 0.5, "margin": 0.0})


def test_a_sharegpt_pair_becomes_messages():
    row = {
        "conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "q"}],
        "chosen": {"from": "gpt", "value": "good"},
        "rejected": {"from": "gpt", "value": "bad"},
    }
    assert pairs.from_sharegpt(row) == {
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}],
        "chosen": {"role": "assistant", "content": "good"},
        "rejected": {"role": "assistant", "content": "bad"},
    }


@pytest.mark.parametrize(("target", "examples"), [(1, 0), (14, 0), (16, 1), (24, 1), (26, 2)])
def test_examples_before_a_prompt_come_nearest_to_the_length_that_is_wanted(target, examples):
    """Each turn counts 5 tokens; the question is 10 alone, 20 behind one example, 30 behind two."""
    shots = iter({"question": f"q{number}", "answer": f"a{number}"} for number in range(9))
    row = {"messages": [pairs.turn("user", "x"), pairs.turn("user", "y")], "chosen": {}, "rejected": {}}
    long = pairs.with_examples(row, shots, lambda messages: 5 * len(messages), target)
    assert [turn["content"] for turn in long["messages"]] == [
        *(text for number in range(examples) for text in (f"q{number}", f"a{number}")),
        "x",
        "y",
    ]


WORK = workload.Workload("pairs", "m", "t", "h", 44, stage="dpo", max_tokens=1024, lr=5e-6, beta=0.1, left_out=4)


def test_a_pair_workload_makes_a_preference_recipe(tmp_path):
    recipe = contenders.luthier_recipe(WORK, tmp_path)
    assert recipe["objective"] == {"dpo": {"beta": 0.1}}
    assert (recipe["train"]["batch"], recipe["train"]["max_tokens"], recipe["train"]["lr"]) == (16, 1024, 5e-6)
    assert "objective" not in contenders.luthier_recipe(workload.Workload("sft", "m", "t", "h", 8), tmp_path)


def contest_with(tmp_path, monkeypatch, only: list[str], merge: bool, broken: tuple[str, ...] = ()) -> str:
    """One sitting of two contests. What trains and judges is replaced, what keeps account is not."""

    def measured(contender, work, nice):
        if contender.name in broken:
            raise RuntimeError(f"{contender.name} failed")
        said = run(float(len(contender.name)), 1.0, adapter=f"runs/{contender.name}")
        return {key: value for key, value in said.items() if key not in ("held_out", "sitting", "gflops_before")}

    def said(script, *arguments):
        if script == "hardware.py":
            known = {"cpu": "c", "cores": 2, "flags": [], "memory_gib": 1, "system": "s"}
            return {**known, "bf16_gflops": 900.0}
        scores = {name: {"loss": 0.5, "accuracy": 1.0, "margin": 0.1} for name in ("base", *arguments[1:])}
        return {"scores": scores, "train": {"tokens": 100, "scored": 50, "prompt": 50}, "held_out_rows": 8}

    (tmp_path / "work").mkdir(exist_ok=True)
    monkeypatch.setattr(contest, "PEERS", tmp_path)
    monkeypatch.setattr(contest, "run", measured)
    monkeypatch.setattr(results, "output_of", said)
    monkeypatch.setattr(contest, "WARM", "")
    one = [contenders.Contender(name, "luthier") for name in ("a", "bbbb")]
    two = [contenders.Contender("cc", "luthier")]
    given = argparse.Namespace(only=only, merge=merge, repeat=1, nice=0, results=tmp_path / "results")
    other = workload.Workload("long", "m", "t", "h", 48, stage="dpo", beta=0.1)
    held = [contest.Contest(WORK, tuple(one), ("a",)), contest.Contest(other, tuple(two), ("cc",))]
    contest.hold("preference", held, given)
    return next((tmp_path / "results").glob("*-preference.md")).read_text()


def test_a_broken_contender_is_repeated_and_merged(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="failed: bbbb"):
        contest_with(tmp_path, monkeypatch, ["a", "bbbb", "cc"], merge=False, broken=("bbbb",))
    assert list(results.latest("preference", tmp_path / "results")["contests"]["pairs"]["results"]) == ["a"]
    text = contest_with(tmp_path, monkeypatch, ["bbbb"], merge=True)
    found = results.latest("preference", tmp_path / "results")["contests"]
    assert {name: list(contest["results"]) for name, contest in found.items()} == {
        "pairs": ["a", "bbbb"],
        "long": ["cc"],
    }
    assert lines_of(text)["a"][2] == "4.00"  # 1 s against the merged rival's 4 s
    assert "## pairs" in text and "## long" in text


def test_results_of_another_workload_are_not_merged(tmp_path, monkeypatch):
    contest_with(tmp_path, monkeypatch, ["a", "bbbb", "cc"], merge=False)
    monkeypatch.setattr(sys.modules[__name__], "WORK", workload.Workload("pairs", "m", "t", "h", 8, stage="dpo"))
    with pytest.raises(SystemExit, match="another workload"):
        contest_with(tmp_path, monkeypatch, ["a"], merge=True)


@pytest.mark.parametrize(
    ("settings", "rows_at_once", "expected"), [({}, 8, (8, 2)), ({"per_device_train_batch_size": 4}, 8, (4, 4))]
)
def test_a_peer_reads_its_task_from_the_command_line(settings, rows_at_once, expected, tmp_path, monkeypatch):
    train = tmp_path / "rows.jsonl"
    train.write_text(json.dumps({"messages": []}) + "\n")
    workload.Workload("sft", "m", str(train), "h", 1, lr=3e-4, seed=5).write(tmp_path / "workload.json")
    settings = {"bf16": True, **settings}
    monkeypatch.setattr(sys, "argv", ["train.py", str(tmp_path / "workload.json"), "out", json.dumps(settings)])
    work, own, output = task.arguments()
    assert task.rows(work) == [{"messages": []}]
    given = task.training(work, output, own, rows_at_once)
    assert (given["per_device_train_batch_size"], given["gradient_accumulation_steps"]) == expected
    assert (given["learning_rate"], given["seed"], given["output_dir"], given["bf16"]) == (3e-4, 5, "out", True)


def test_results_do_not_say_where_this_machine_keeps_things(tmp_path):
    results.save("x", {"at": f"{results.ROOT}/.peers/a", "home": f"{Path.home()}/m"}, tmp_path)
    assert results.latest("x", tmp_path)["at"] == ".peers/a"
    assert results.latest("x", tmp_path)["home"] == "~/m"


def test_the_next_demo_pairs_are_held_out_and_rows_without_room_for_a_response_left_out(tmp_path, monkeypatch):
    class Words:
        """A tokenizer of words, as far as prompts need one."""

        def apply_chat_template(self, messages, **_):
            return " ".join(turn["content"] for turn in messages).split()

    monkeypatch.setattr(workload, "PEERS", tmp_path)
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda _: Words())
    said = [{"from": "gpt", "value": "good"}, {"from": "gpt", "value": "bad"}]
    prompts = ["w " * (1024 if number == 1 else 5) + f"row{number}" for number in range(60)]
    rows = [
        {"conversations": [{"from": "human", "value": text}], "chosen": said[0], "rejected": said[1]}
        for text in prompts
    ]
    data = tmp_path / "pairs.json"
    data.write_text(json.dumps(rows))
    work = pairs.demo(8, 4, "some/model", str(data))
    numbers = [
        [json.loads(line)["messages"][0]["content"].split("row")[1] for line in Path(path).read_text().splitlines()]
        for path in (work.train, work.held_out)
    ]
    assert numbers == [["0", "2", "3", "4", "5", "6", "7"], ["48", "49", "50", "51"]]
    assert (work.rows, work.left_out) == (7, 1)
