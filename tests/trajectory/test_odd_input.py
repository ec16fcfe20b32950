"""What people really do: half emojis, semicolons, ~, a folder of their own as the target, a second try."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from bench import Bench, write_rows

from luthier.cli import main
from luthier.run import Run

CHAT = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


def test_rows_that_cannot_be_text_are_dropped_and_counted(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    with write_rows(bench.folder / "rows.jsonl").open("a") as file:
        file.write('{"prompt": "cut within an emoji \\ud83d", "completion": "b"}\n')
    assert bench.here("data", "train.max_lost=0.5") == 0
    err = capfd.readouterr().err
    assert "half a character" in err
    assert "rows.jsonl:13" in err


@pytest.mark.parametrize("tool", [{"type": "function", "function": "f"}, {"name": 5}, {"function": {"name": None}}])
def test_a_tool_without_a_name_is_a_bad_row(
    bench: Bench, capfd: pytest.CaptureFixture[str], tool: dict[str, object]
) -> None:
    (bench.folder / "rows.jsonl").write_text(json.dumps({**CHAT, "tools": [tool]}) + "\n" + json.dumps(CHAT) + "\n")
    assert bench.here("data", "train.max_lost=0.5") == 0
    assert "a tool has no 'name' (rows.jsonl:1)" in capfd.readouterr().err


def test_a_table_with_semicolons_names_its_separator(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    (bench.folder / "rows.csv").write_text("prompt;completion\na;b\n")
    assert bench.here("data", data="rows.csv") == 1
    assert "rows.csv:1: the header is one column, 'prompt;completion': its separator seems to be ';'" in (
        capfd.readouterr().err
    )


def test_a_run_that_could_not_start_can_be_mended(bench: Bench) -> None:
    with (bench.folder / "rows.jsonl").open("a") as file:
        file.write(json.dumps({"prompt": "long", "completion": "x" * 150}) + "\n")
    assert bench.here("train", "train.steps=1") == 1
    assert bench.here("train", "train.steps=1", "train.max_tokens=256") == 0
    assert bench.here("train", "train.steps=1", "train.max_tokens=255") == 1


def test_an_export_replaces_exports_only(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    assert bench.here("train", "train.steps=1") == 0
    mine = bench.folder / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("mine")
    for folder in ("mine", ".", "run"):
        assert bench.inside(main, "export", "run", "--folder", folder) == 1
        assert "is not empty and holds no earlier export" in capfd.readouterr().err
    assert bench.inside(main, "export", "run", "--folder", "rows.jsonl") == 1
    assert "there is a file of that name" in capfd.readouterr().err
    assert (mine / "thesis.txt").read_text() == "mine"
    assert (bench.folder / "rows.jsonl").is_file()
    for _ in range(2):
        assert bench.inside(main, "export", "run", "--folder", "new") == 0


def test_the_home_folder_is_meant_by_its_sign(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    write_rows(home / "rows.jsonl")
    monkeypatch.setenv("HOME", str(home))
    task = {"data": "~/rows.jsonl", "limit": 2, "max_new_tokens": 2, "max_overlap": 1}
    assert bench.here("train", "train.steps=1", data="~/rows.jsonl", output="~/run", evaluate=task) == 0
    lock = yaml.safe_load((home / "run" / "recipe.lock.yaml").read_text())
    assert lock["data"][0]["path"] == str(home / "rows.jsonl")
    assert not (bench.folder / "~").exists()


def test_rows_that_are_not_scored_are_named(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    with write_rows(bench.folder / "held.jsonl", 2).open("a") as file:
        file.write(json.dumps({"prompt": "count", "completion": ""}) + "\n")
    scorers = ["f1", {"exact_match": {"regex": "[/]x"}}]  # which looks like markup
    task = {"data": "held.jsonl", "max_new_tokens": 2, "scorers": scorers, "max_overlap": 1}
    assert bench.here("train", "train.steps=1", evaluate=task) == 0
    out, err = capfd.readouterr()
    assert "held-out: 1 of 3 rows are not scored: 'completion' is empty" in err
    assert "held.jsonl:3)" in err
    assert "[/]x" in out
    run = Run(bench.run)
    assert run.read_json(run.summary_path)["scores"]["held-out"]["rows"] == 2


def test_lost_rows_are_shown_before_they_are_too_many(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    rows = [*[CHAT] * 3, {"messages": []}]
    (bench.folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert bench.here("data", "--show", "1") == 1
    out, err = capfd.readouterr()
    assert "⟦b" in out, "the first row, with what trains"
    assert "25.0% of 4 rows are lost, train.max_lost allows" in err
