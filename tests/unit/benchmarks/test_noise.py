"""The experiment on spoilt rows: what is planted, what counts as left of it, and what is held against what."""

from __future__ import annotations

import sys
from collections import Counter
from math import log
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).resolve().parents[3] / "benchmarks"))
sys.path.append(str(Path(__file__).resolve().parents[3] / "benchmarks" / "curating"))

import arms
import noise
import spoiling
import told

from luthier.data.cleaning import Cleaning, Repetition

STORIES = ["Tom had a ball. It was red. He threw it far away. His dog ran after it. They were happy."]


def asked(number: int) -> dict[str, Any]:
    """A row, unlike all others."""
    answer = f"The answer to question {number} is that {number} birds sat on {number} trees and sang."
    return {"messages": [{"role": "user", "content": f"What is {number}?"}, {"role": "assistant", "content": answer}]}


def pool(count: int = 200) -> list[spoiling.Row]:
    return spoiling.pool([asked(number) for number in range(count)], STORIES, count)


def test_as_many_of_each_kind_as_is_said_and_the_same_ones_again() -> None:
    rows = pool()
    wanted = {"page": 10, "garbled": 10, "loop": 10, "copy": 10, "off topic": 20, "swapped": 20, "": 120}
    assert Counter(row.kind for row in rows) == wanted
    assert rows == pool()
    with pytest.raises(ValueError, match="200 rows need 190 to be made of, and there are 3"):
        spoiling.pool([asked(number) for number in range(3)], STORIES, 200)


def test_what_is_planted_is_what_it_is_called() -> None:
    rows = pool()
    of_kind = {kind: [row for row in rows if row.kind == kind] for kind in ("", *spoiling.SHARES)}
    assert all(row.answer == row.meant for row in of_kind[""])
    assert all(sorted(row.answer) == sorted(row.meant) and row.answer != row.meant for row in of_kind["garbled"])
    assert all(row.meant in row.answer and row.answer.startswith("<span") for row in of_kind["page"])
    assert all(len(row.answer.split()) >= 30 and len(set(row.answer.split())) <= 8 for row in of_kind["loop"])
    assert all(row.answer.rstrip(".") in STORIES[0] for row in of_kind["off topic"])
    swapped = of_kind["swapped"]
    assert {row.answer for row in swapped} == {row.meant for row in swapped}
    assert all(row.answer != row.meant for row in swapped)
    for row in of_kind["copy"]:
        assert row.of is not None and rows[row.of].kind == ""
        assert rows[row.of].answer.lower().rstrip(".").split() == row.answer.lower().rstrip(".").split()


def test_mended_pages_and_copies_that_are_alone_are_not_left() -> None:
    rows = pool()
    everything = {place: row.answer for place, row in enumerate(rows)}
    assert spoiling.bad(rows, everything) == {
        "page": 10, "garbled": 10, "loop": 10, "copy": 10, "off topic": 20, "swapped": 20
    }  # fmt: skip
    page = next(place for place, row in enumerate(rows) if row.kind == "page")
    copy = next(place for place, row in enumerate(rows) if row.kind == "copy")
    mended = {**everything, page: rows[page].meant}
    del mended[rows[copy].of or 0]
    left = spoiling.bad(rows, mended)
    assert (left["page"], left["copy"], left["garbled"]) == (9, 9, 10)


def test_steps_that_need_no_model_find_what_is_meant_for_them() -> None:
    """Enough of it for the table to say something; how much, the table says."""
    rows = pool()
    loops = [row for row in rows if row.kind == "loop" and len(row.answer.split()) >= 40]
    assert loops and all(Repetition().reason(row.answer) for row in loops)
    pages = [row for row in rows if row.kind == "page"]
    assert any("<p>" not in Cleaning().clean(row.answer, context=row.prompt) for row in pages)


def run(held_out: list[float], value: float) -> dict[str, Any]:
    """What is read of a run."""
    score = {"tuned": {"value": value}, "base": {"value": 9.0}}
    cut = {"tuned": 3, "base": 4}
    rows = {"tuned": dict.fromkeys((arms.HELD_OUT, arms.OTHERS, arms.WORDS), held_out)}
    scores = dict.fromkeys((arms.HELD_OUT, arms.OTHERS, arms.WORDS), score)
    return {"tokens": 1000, "scores": scores, "cut": cut, "rows": rows}


def test_arms_are_held_against_each_other_row_by_row_over_seeds() -> None:
    found = {arms.ALL: [run([1.0, 2.0], 4.0), run([2.0, 3.0], 5.0)], arms.CURATED: [run([1.0, 2.0], 3.0)] * 2}
    told_of = told.difference(found, arms.HELD_OUT, arms.CURATED, arms.ALL)
    assert told_of == {"value": -0.5, "low": -0.5, "high": -0.5}
    one_seed = {**found, arms.CURATED: found[arms.CURATED][:1]}
    assert told.difference(one_seed, arms.HELD_OUT, arms.CURATED, arms.ALL)["value"] == 0.0
    lines = told.of_differences(found).splitlines()
    assert len(lines) == 3 and lines[2].startswith(f"| {arms.CURATED} − {arms.ALL} | -0.500")
    lines = told.of_runs(found).splitlines()
    assert lines[2] == "| before | – | 9.00 | 9.00 | 9.000 | 4 |"
    assert lines[3] == "| all rows | 1,000 | 4.50 (4.00, 5.00) | 4.50 (4.00, 5.00) | 4.500 (4.000, 5.000) | 3, 3 |"


def test_a_set_is_told_by_what_is_left_in_it() -> None:
    bad = dict.fromkeys(spoiling.SHARES, 0)
    line = told.of_sets([{"set": "clean", "rows": 20, "words": 7.4, "bad": {**bad, "loop": 5}}]).splitlines()[2]
    assert line == "| clean | 20 | 15 | 0 | 0 | 5 | 0 | 0 | 0 | 25% | 7 |"


def test_every_arm_has_a_recipe_that_loads_and_one_run_of_each_seed(tmp_path: Path) -> None:
    from luthier.recipe import load

    files = noise.Data(*(str(tmp_path / f"{name}.jsonl") for name in "puho"))
    for path in (files.pool, files.unspoilt, files.held_out, files.others):
        noise.runs.write(Path(path), [asked(1)])
    some = (*arms.ARMS, *arms.PARTS)
    made = list(noise.recipes(files, arms.Counts(9, 3), [0, 1], 4, some))
    assert [arm for arm, _ in made] == [*some * 2]
    assert len({recipe["output"] for _, recipe in made}) == 16
    path = tmp_path / "one.yaml"
    for arm, recipe in made:
        path.write_text(noise.yaml.safe_dump(recipe), encoding="utf-8")
        loaded = load(path).recipe
        assert loaded.train.steps == 4 and len(loaded.steps) == len(arms.steps(arm, arms.Counts(9, 3)))


def test_a_runs_rows_are_read_in_nats(tmp_path: Path) -> None:
    task = {"scores": [{"systems": {"tuned": {"value": 2.0}}}], "cut": {"tuned": 1}}
    names = (arms.HELD_OUT, arms.OTHERS, arms.WORDS)
    summary = {"tokens": 5, "seconds": 1.0, "scores": dict.fromkeys(names, task)}
    (tmp_path / "summary.json").write_text(noise.json.dumps(summary), encoding="utf-8")
    samples = [{"task": name, "systems": {"tuned": {"scores": {"x": 2.0}}}} for name in names]
    noise.runs.write(tmp_path / "samples.jsonl", samples)
    found = noise.read({"output": str(tmp_path)})
    assert found["rows"]["tuned"] == {arms.HELD_OUT: [log(2.0)], arms.OTHERS: [log(2.0)], arms.WORDS: [2.0]}
    assert found["cut"] == {"tuned": 1}


def test_rows_that_are_short_and_whole_are_taken() -> None:
    row = {"instruction": "Say it.", "input": "", "output": "one two three four five"}
    long = {**row, "output": "word " * 51}
    brief = {**row, "output": "one two"}
    assert [
        one["messages"][1]["content"] for one in noise.short([row, long, brief, {**row, "input": "<noinput>"}])
    ] == [row["output"]]
