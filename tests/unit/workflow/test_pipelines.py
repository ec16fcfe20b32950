"""`luthier run`: stages in their order, each once; what has changed is told; killed and run again it ends the same."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import tiny
from processes import FORKED
from tiny_tokenizers import CHATML, letters

from luthier import verbs
from luthier.data import Ledger
from luthier.data import read as read_rows
from luthier.errors import LuthierError
from luthier.recipe import Source
from luthier.workflow.pipeline import reading

LONG = "score.py:longer"
PIPELINE = """
output: {output}
stages:
  sft:
    recipe: sft.yaml
    train: {{steps: 2}}
  rounds:
    repeat: 2
    start: {{tuned: $sft}}
    stages:
      answers:
        kind: generate
        model: $tuned
        data: asked.jsonl
        n: 4
        temperature: 1.1
        max_new_tokens: 8
      kept:
        kind: select
        answers: $answers
        reward: [{{python: "{score}"}}]
      tuned:
        recipe: sft.yaml
        model: $sft
        data: $kept
  pairs:
    kind: select
    answers: $answers
    reward: [{{python: "{score}"}}]
    keep: pairs
  dpo:
    recipe: sft.yaml
    model: $tuned
    data: $pairs
    objective: dpo
"""
SMALL = """
output: {output}
stages:
  sft: {{recipe: sft.yaml}}
  answers: {{kind: generate, model: $sft, data: asked.jsonl, n: 4, temperature: 1.1, max_new_tokens: 8}}
  kept:
    kind: select
    answers: $answers
    reward: [{{python: "{score}"}}]
  tuned: {{recipe: sft.yaml, model: $sft, data: $kept}}
"""
SFT = """
model: {model}
data: rows.jsonl
adapt: {{lora: {{r: 2}}}}
train: {{steps: 3, batch: 2, save_every: 1, threads: 1, max_tokens: 200, lr: 0.01}}
output: elsewhere
"""
SCORE = "def longer(response):\n    return len(set(response)) + len(response) / 100\n"
NAMES = ["sft", *(f"rounds/{n}/{stage}" for n in (1, 2) for stage in ("answers", "kept", "tuned")), "pairs", "dpo"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "model"
    start, end = "<|im_start|>", "<|im_end|>"
    tokenizer = letters("<|endoftext|>", start, end, bos_token=start, eos_token=end, chat_template=CHATML)
    sizes: dict[str, Any] = {"vocab_size": len(tokenizer), "num_hidden_layers": 1, "max_position_embeddings": 256}
    module = tiny.model(0, **sizes, initializer_range=0.3, bos_token_id=1, eos_token_id=2)
    module.lm_head.weight.data[2] *= 3  # the end comes now and then
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def laid(folder: Path, model: Path, text: str = PIPELINE) -> Path:
    """A pipeline with all that it names, in a folder."""
    folder.mkdir(exist_ok=True)
    (folder / "sft.yaml").write_text(SFT.format(model=model))
    (folder / "score.py").write_text(SCORE)
    rows = [{"prompt": f"say {n}", "completion": f"{n} it is"} for n in range(4)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = [{"prompt": f"what is {n}?", "answer": str(n)} for n in range(5)]
    (folder / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    path = folder / "pipeline.yaml"
    path.write_text(text.format(output=folder / "out", score=f"{folder}/{LONG}"))
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def ends(folder: Path) -> dict[str, bytes]:
    """What a pipeline has made, answers sorted: they are written as they end."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name in ("adapter_model.safetensors", "rows.jsonl", "ledger.jsonl"):
            found[name] = path.read_bytes().replace(str(folder.parent).encode(), b"")
        elif path.name == "answers.jsonl":
            found[name] = b"\n".join(sorted(path.read_bytes().replace(str(folder.parent).encode(), b"").split(b"\n")))
    return found


@pytest.fixture(scope="module")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline that was done in one go."""
    return verbs.run(laid(tmp_path_factory.mktemp("whole"), model))


def test_each_stage_has_done_what_it_says(whole: Path) -> None:
    book = json.loads((whole / "pipeline.json").read_text())["stages"]
    assert list(book) == NAMES and {record["state"] for record in book.values()} == {"finished"}
    for round_ in ("1", "2"):
        folder = whole / "rounds" / round_
        answers, rows, ledger = (
            lines(folder / name) for name in ("answers/answers.jsonl", "kept/rows.jsonl", "kept/ledger.jsonl")
        )
        assert len(answers) == len(ledger) == 20 and len(rows) == sum(line["kept"] for line in ledger) == 5
        texts = {(row["source"], row["index"]): row["text"] for row in answers}
        for line in ledger:
            text = texts[line["source"], line["index"]]
            assert line["scores"]["python"] == line["reward"] == len(set(text)) + len(text) / 100
        kept = {texts[line["source"], line["index"]] for line in ledger if line["kept"]}
        assert {row["messages"][-1]["content"] for row in rows} == kept
        assert len(list((folder / "tuned").glob("adapter/*.safetensors"))) == 1
    assert texts != {
        (row["source"], row["index"]): row["text"] for row in lines(whole / "rounds/1/answers/answers.jsonl")
    }
    assert "model:\n  name: " + str(whole / "rounds/2/tuned") in (whole / "dpo/recipe.lock.yaml").read_text()
    assert re.search(r"steps: 2\b", (whole / "sft/recipe.lock.yaml").read_text()), "a stage's own keys come first"
    page = (whole / "report.html").read_text()
    assert f"{len(NAMES)} of {len(NAMES)} stages are finished" in page
    for link in re.findall(r'href="([^"]+)"', page):
        assert (whole / link).is_file()
    assert len(re.findall("href=", page)) == 4 + 2 + 3 * 3, "four runs, two files of answers, three selections"
    assert "rounds 2 of 2, kept" in page and "5 of 20 answers kept" in page


def test_the_second_round_speaks_with_what_the_first_has_trained(whole: Path) -> None:
    about = [json.loads((whole / f"rounds/{n}/answers/answers.jsonl.about.json").read_text()) for n in (1, 2)]
    assert about[0]["weights"] != about[1]["weights"]
    pairs = lines(whole / "pairs/rows.jsonl")
    rewards = {(line["source"], line["index"]): line for line in lines(whole / "pairs/ledger.jsonl")}
    assert len(rewards) == 20 and sum(line["kept"] for line in rewards.values()) == 2 * len(pairs) > 0
    examples = list(read_rows([Source(path=str(whole / "pairs/rows.jsonl"))], Ledger()))
    assert len(examples) == len(pairs)
    for example in examples:
        better, worse = (response.turns[0].text for response in example.responses)
        assert len(set(better)) + len(better) / 100 > len(set(worse)) + len(worse) / 100
        assert example.prompt[-1].text.startswith("what is")


def test_what_is_done_is_not_done_again(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()}
    verbs.run(whole.parent / "pipeline.yaml")
    told = capsys.readouterr().err
    assert told.count("is finished") == len(NAMES) and "stage 9 of 9: dpo (train) is finished" in told
    after = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()}
    assert {path.name for path in after if after[path] != before.get(path)} <= {"report.html", ".lock"}


def test_killed_anywhere_and_run_again_it_ends_the_same(model: Path, tmp_path: Path) -> None:
    unbroken = verbs.run(laid(tmp_path / "unbroken", model, SMALL))
    assert len(ends(unbroken)) == 2 + 1 + 2
    path = laid(tmp_path / "killed", model, SMALL)
    out = path.parent / "out"
    for wait in ("sft/checkpoints/step-*", "answers/*.jsonl", "kept/*", "tuned/checkpoints/step-*"):
        killed(path, out, wait)
    verbs.run(path)
    assert ends(out) == ends(unbroken)


def killed(path: Path, out: Path, wait: str) -> None:
    """The pipeline begun, or gone on with, in a process that is killed as soon as there is such a file."""
    process = FORKED.Process(target=verbs.run, args=(path,))
    process.start()
    end = time.monotonic() + 120
    while not list(out.glob(wait)) and time.monotonic() < end and process.is_alive():
        time.sleep(0.001)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL, f"it was killed on the way: {wait}"


def test_what_has_changed_is_told_and_done_anew_only_when_asked(model: Path, tmp_path: Path) -> None:
    path = laid(tmp_path / "p", model, SMALL)
    out = verbs.run(path)
    first = ends(out)

    def refused(match: str, *overrides: str) -> None:
        with pytest.raises(LuthierError, match=match) as error:
            verbs.run(path, overrides)
        assert "--again" in (error.value.fix or "") and ends(out) == first

    refused(
        r"'answers' is finished, .*temperature \(1.1 there, 0.9 here\)",
        "stages.answers.temperature=0.9",
    )
    refused(r"'sft' .*train.lr \(0.01 there, 0.02 here\)", "stages.sft.train.lr=0.02")
    (path.parent / "score.py").write_text(SCORE.replace("100", "90"))
    refused(r"'kept' .*score.py has another content")
    (path.parent / "score.py").write_text(SCORE)
    verbs.run(path)  # the same content again
    rows = out / "kept" / "rows.jsonl"
    kept = rows.read_text()
    rows.write_text(kept + kept)
    with pytest.raises(LuthierError, match=r"'kept' .*\$kept/rows.jsonl has another content \(which it made\)"):
        verbs.run(path)
    rows.unlink()
    with pytest.raises(LuthierError, match=r"'kept' .*\$kept/rows.jsonl is gone \(which it made\)"):
        verbs.run(path)
    times = {name: (out / name).stat().st_mtime_ns for name in ("sft/recipe.lock.yaml", "tuned/recipe.lock.yaml")}
    verbs.run(path, again=True)
    assert ends(out) == first
    assert (out / "sft/recipe.lock.yaml").stat().st_mtime_ns == times["sft/recipe.lock.yaml"], "it comes before"
    assert (out / "tuned/recipe.lock.yaml").stat().st_mtime_ns != times["tuned/recipe.lock.yaml"]
    verbs.run(path, ["stages.answers.temperature=0.9"], again=True)
    assert {name for name, made in ends(out).items() if made == first[name]} == {
        "sft/adapter/adapter_model.safetensors"
    }


def test_a_task_that_is_added_is_scored_and_nothing_else_is_done(model: Path, tmp_path: Path) -> None:
    text = "output: {output}\nstages:\n  sft: {{recipe: sft.yaml, train: {{steps: 1}}}}\n"
    path = laid(tmp_path / "p", model, text)
    before = ends(verbs.run(path))
    task = f"{{data: {path.parent / 'asked.jsonl'}, max_new_tokens: 2, max_overlap: 1}}"
    out = verbs.run(path, [f"stages.sft.evaluate={task}"])
    assert ends(out) == before and "scores" in json.loads((out / "sft/summary.json").read_text())
    assert "exact_match: base" in (out / "report.html").read_text()


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("stages: {{a: {{}}}}", "'output' is missing"),
        ("output: o\nstages: {{}}", "'stages' must be a mapping"),
        ("output: o\nstag: 1\nstages: {{a: {{}}}}", "no key 'stag'"),
        ("output: o\nstages:\n  a: {{kind: tune}}", "no kind of stage: 'tune'"),
        ("output: o\nstages:\n  a: {{recipe: sft.yaml, output: x}}", "a stage has its folder"),
        ("output: o\nstages:\n  a: {{recipe: sft.yaml, model: $b}}", "no earlier stage is called 'b'"),
        ("output: o\nstages:\n  a: {{recipe: sft.yaml, model: $a}}", "stands for nothing yet"),
        ("output: o\nstages:\n  a: {{recipe: sft.yaml, trian: {{}}}}", "unknown key 'trian'"),
        ("output: o\nstages:\n  a: {{recipe: none.yaml}}", "no such recipe"),
        ("output: o\nstages:\n  1a: {{recipe: sft.yaml}}", "'1a' is no name"),
        ("output: o\nstages:\n  r: {{repeat: 0, stages: {{a: {{recipe: sft.yaml}}}}}}", "from 1 to 1,000"),
        (
            "output: o\nstages:\n  r:\n    start: {{b: x}}\n    stages: {{a: {{recipe: sft.yaml}}}}",
            "names no stage of the",
        ),
        ("output: o\nstages:\n  a: {{kind: generate, data: asked.jsonl}}", "'model' is missing"),
        ("output: o\nstages:\n  a: {{kind: generate, model: m, data: asked.jsonl, n: 2}}", "temperature above 0"),
        ("output: o\nstages:\n  a: {{kind: select, answers: x, reward: [maths]}}", "which prompts were answered"),
        ("output: o\nstages:\n  a: {{kind: select, answers: x, data: d, reward: [math]}}", "unknown scorer 'math'"),
        (
            "output: o\nstages:\n  a: {{kind: select, answers: x, data: d, reward: maths, keep: above}}",
            "above is missing",
        ),
        ("output: o\nstages:\n  a: {{kind: select, answers: x, data: d, reward: maths, keep: bets}}", "best"),
        (
            "output: o\nstages:\n  a: {{kind: generate, model: m, data: asked.jsonl}}\n"
            "  b: {{recipe: sft.yaml, data: $a}}",
            "answers are no rows to learn from",
        ),
        (
            "output: o\nstages:\n  s: {{recipe: sft.yaml}}\n  a: {{kind: select, answers: $s, data: d, reward: maths}}",
            "which has answered nothing",
        ),
    ],
)
def test_what_is_wrong_is_told_before_anything_begins(text: str, match: str, model: Path, tmp_path: Path) -> None:
    path = laid(tmp_path / "p", model, text)
    with pytest.raises(LuthierError, match=match) as error:
        reading.read(path)
    assert error.value.fix and error.value.where


def test_overrides_reach_every_key(model: Path, tmp_path: Path) -> None:
    path = laid(tmp_path / "p", model)
    given = ["stages.rounds.repeat=1", "stages.sft.adapt.r=4", f"output={tmp_path / 'other'}", "stages.kept.most=2"]
    with pytest.raises(LuthierError, match=r"no stage's key: 'stages.kept.most'"):
        reading.read(path, given)
    found = reading.read(path, [*given[:3], "stages.rounds.stages.kept.most=2", "stages.rounds.start.tuned=$sft"])
    assert [stage.name for stage in found.stages] == [NAMES[0], *NAMES[1:4], *NAMES[7:]]
    by_name = {stage.name: stage for stage in found.stages}
    assert by_name["sft"].asked()["adapt.0.lora.r"] == 4 and by_name["rounds/1/kept"].asked()["most"] == 2
    assert by_name["dpo"].asked()["model.name"] == str(tmp_path / "other/rounds/1/tuned")
    assert by_name["rounds/1/answers"].asked()["model"] == str(tmp_path / "other/sft")


def test_a_folder_of_something_else_is_left_alone(model: Path, tmp_path: Path) -> None:
    path = laid(tmp_path / "p", model)
    (path.parent / "out").mkdir()
    (path.parent / "out" / "mine.txt").write_text("mine")
    with pytest.raises(LuthierError, match="holds no pipeline"):
        verbs.run(path)
    assert (path.parent / "out" / "mine.txt").read_text() == "mine"
