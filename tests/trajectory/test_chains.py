"""Runs trained on earlier runs, as a user chains them, through the command line."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from bench import Bench
from transformers import AutoModelForCausalLM, AutoTokenizer

from luthier.cli import main
from luthier.run import Run

ANSWERS = {"name": "answers", "data": "rows.jsonl", "scorers": ["exact_match"], "max_new_tokens": 6}


def everything(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and time of every file of a folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


@pytest.fixture
def chained(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr("sys.stdin", io.StringIO())  # a chat that nobody talks in
    pairs = [
        {"prompt": f"count {n}", "chosen": "a" * (n % 5 + 1) + "bc", "rejected": "x" * (n % 4 + 1) + "yz"}
        for n in range(12)
    ]
    (bench.folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    (bench.folder / "elsewhere").mkdir()
    return bench


def elsewhere(bench: Bench, *arguments: str) -> int:
    """The command line in another directory."""
    folder = bench.folder
    bench.folder = folder / "elsewhere"
    try:
        return bench.inside(main, *arguments)
    finally:
        bench.folder = folder


def test_preferences_on_preferences_on_answers(chained: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    def steps(run: str) -> list[dict[str, float]]:
        return list(Run(chained.folder / run).events("step"))

    def model(name: str) -> dict[str, dict[str, str]]:
        return {"model": {"name": name, "dtype": "fp32"}}

    assert chained.here("train", output="sft", export="merged") == 0
    before = everything(chained.folder / "sft")
    pairs = {"data": "pairs.jsonl", "objective": "dpo"}
    assert chained.here("train", output="dpo1", **model("sft"), **pairs) == 0
    assert steps("dpo1")[0]["loss"] == pytest.approx(0.6931, abs=1e-3), "the reference is the first run, not its base"
    again = {"evaluate": ANSWERS, **model("dpo1"), **pairs}
    assert chained.here("train", output="dpo2", **again) == 0
    assert steps("dpo2")[0]["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert everything(chained.folder / "sft") == before, "an earlier run was written to"

    # from another directory, whole and by plain transformers
    for verb in ("evaluate", "export", "chat"):
        assert elsewhere(chained, verb, str(chained.folder / "dpo2"), *(["--both"] if verb == "chat" else [])) == 0
    merged = chained.folder / "dpo2/merged"
    plain = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)
    ids = AutoTokenizer.from_pretrained(merged)("count 3", return_tensors="pt")["input_ids"]
    from luthier.models import open_run

    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_CACHE", str(chained.cache))
        ours = open_run(Run(chained.folder / "dpo2")).module(ids).logits
        assert torch.allclose(plain(ids).logits, ours, atol=1e-4)

    # without the first runs: from the cache; without that too: said
    shutil.rmtree(chained.folder / "dpo1")
    assert elsewhere(chained, "evaluate", str(chained.folder / "dpo2")) == 0
    assert chained.here("train", output="dpo2", **again) == 0, "it is finished, and no other recipe's"
    shutil.rmtree(chained.cache)
    capsys.readouterr()
    assert elsewhere(chained, "evaluate", str(chained.folder / "dpo2")) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "the base model that was trained on cannot be opened" in told and "bring it back" in told
    assert str(chained.folder / "dpo1") in told


def test_slashless_folders_of_model_and_reference_are_stored_absolute(chained: Bench) -> None:
    shutil.copytree(chained.content["model"]["name"], chained.folder / "mymodel")
    named = {
        "model": {"name": "mymodel", "dtype": "fp32"},
        "reference": {"model": {"name": "mymodel", "dtype": "fp32"}},
        "objective": "dpo",
        "data": "pairs.jsonl",
        "evaluate": {"name": "pairs", "data": "pairs.jsonl", "scorers": "preference_accuracy", "max_overlap": 1},
    }
    assert chained.here("train", **named) == 0
    lock = yaml.safe_load((chained.run / "recipe.lock.yaml").read_text())
    assert lock["model"]["name"] == lock["reference"]["model"]["name"] == str(chained.folder / "mymodel")
    origin = json.loads((chained.run / "adapter/luthier.json").read_text())
    assert origin["model"]["name"] == str(chained.folder / "mymodel")
    shutil.copytree(chained.folder / "mymodel", chained.folder / "elsewhere/mymodel")  # not the one that is meant
    (chained.folder / "elsewhere/mymodel/config.json").unlink()
    for verb in ("evaluate", "export", "chat"):
        assert elsewhere(chained, verb, str(chained.run)) == 0
    assert elsewhere(chained, "train", str(chained.run / "recipe.lock.yaml"), f"output={chained.run}") == 0
    (chained.folder / "elsewhere/next.yaml").write_text(
        yaml.safe_dump({**chained.content, "model": str(chained.run), "data": str(chained.folder / "rows.jsonl")})
    )
    assert elsewhere(chained, "train", "next.yaml") == 0


def test_a_moved_project_still_talks_exports_and_is_trained_on(chained: Bench, tmp_path: Path) -> None:
    shutil.copytree(chained.content["model"]["name"], chained.folder / "models/tiny")
    assert chained.here("train", output="runs/sft", model="models/tiny") == 0
    assert chained.here("train", output="runs/dpo", model="runs/sft", objective="dpo", data="pairs.jsonl") == 0
    shutil.rmtree(chained.cache)
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in list(chained.folder.iterdir()):
        if path != moved:
            path.rename(moved / path.name)
    chained.folder = moved
    assert chained.inside(main, "chat", "runs/dpo") == 0
    assert chained.inside(main, "export", "runs/dpo") == 0
    assert chained.here("train", output="runs/third", model="runs/dpo") == 0


def test_a_reward_run_is_trained_further_with_its_head(chained: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    held = {"name": "pairs", "data": "pairs.jsonl", "scorers": "preference_accuracy", "max_overlap": 1}
    trained = {"objective": "reward", "data": "pairs.jsonl", "evaluate": held}
    assert chained.here("train", "train.epochs=4", output="rm1", **trained) == 0
    capsys.readouterr()
    assert chained.here("train", output="rm2", model={"name": "rm1", "dtype": "fp32"}, **trained) == 0
    assert "goes on with the scalar head that objective reward trained" in " ".join(capsys.readouterr().err.split())

    def accuracy(run: str) -> dict[str, float]:
        found = json.loads((chained.folder / run / "summary.json").read_text())["scores"]["pairs"]["scores"]
        return {name: one["value"] for name, one in found[0]["systems"].items()}

    assert accuracy("rm2")["base"] == accuracy("rm1")["tuned"] > 0.9
    first = next(Run(chained.folder / "rm2").events("step"))
    assert first["loss"] < 0.6, "log 2 = 0.693 is a head that begins anew"
    assert chained.here("train", output="sft", model="rm2") == 0
    assert "is left out" in " ".join(capsys.readouterr().err.split())
    assert not (chained.folder / "sft/adapter/head.json").exists()


def test_a_killed_run_goes_on_only_on_the_weights_it_began_with(
    chained: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    assert chained.here("train", output="sft") == 0
    long = {"model": {"name": "sft", "dtype": "fp32"}, "data": "pairs.jsonl", "objective": "dpo"}
    keys = ("train.epochs=60", "train.save_every=1")
    chained.killed("train", *keys, **long)
    shutil.move(chained.folder / "sft", chained.folder / "first")
    assert chained.here("train", "seed=1", output="sft") == 0
    capsys.readouterr()
    assert chained.here("train", *keys, **long) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "this run folder holds a run of other weights of the base model" in told and "go back" in told
    shutil.rmtree(chained.folder / "sft")
    assert chained.here("train", *keys, **long) == 1
    assert "no folder here" in " ".join(capsys.readouterr().err.split())
    shutil.move(chained.folder / "first", chained.folder / "sft")
    assert chained.here("train", *keys, **long) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "recipe.yaml", "output=file"), "file: cannot make the run folder or write in it: there is a file"),
        (("train", "recipe.yaml", "output=file/run"), "there is a file of that name → set another `output:`"),
        (("export", "run", "export=merged"), "export=merged: what to write is named by `--to`"),
        (("export", "run", "dtype=fp99"), "dtype=fp99: exporter 'merged', key 'dtype': must be 'auto', 'bf16'"),
        (("export", "run", "dtyp=fp32"), "dtyp=fp32: exporter 'merged' has no key 'dtyp' → did you mean"),
        (("export", "run", "--to", "gguf"), "--to gguf: unknown exporter 'gguf' → "),
        (("export", "run", "fp32"), "fp32: a key of the exporter is written key=value"),
        (("export", "run", "x-merged"), "where to write is named by --folder x-merged"),
        (("export", "--merge", "run:1", "run:1", "--folder", "file"), "--folder: file is a file → name a new folder"),
        (("export", "run", "--folder", "file"), "file: there is a file of that name"),
        (("chat", "file"), "a model is a folder or a GGUF file, and this is another file"),
        (("chat", "runs/none"), "is no folder here"),
    ],
)
def test_a_wrong_place_or_key_is_one_message(
    chained: Bench, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    (chained.folder / "file").write_text("mine")
    (chained.folder / "recipe.yaml").write_text(yaml.safe_dump(chained.content))
    chained.run.mkdir()
    (chained.run / "recipe.lock.yaml").write_text(yaml.safe_dump(chained.content))
    assert chained.inside(main, *arguments) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert message in told and " → " in told and told.count("error:") == 1
    assert (chained.folder / "file").read_text() == "mine"
