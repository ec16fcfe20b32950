"""The page on rows: what it says is what the steps did; nothing that is to be hidden stands on it; any text shows."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from test_report import EVIL, Page
from typer.testing import CliRunner

from luthier.cli import app
from luthier.evaluate.rows.pictures import BINS, edges, histogram
from luthier.evaluate.rows.texts import difference, hidden
from luthier.evaluate.rows.topics import topics, words


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def write(*answers: str) -> None:
    rows = [{"prompt": "Tell me of a thing.", "completion": one} for one in answers]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def page(*given: str, out: str | None = None) -> Page:
    told = CliRunner().invoke(app, ["curate", *given, "--report", *([] if out is None else ["--out", out])])
    assert told.exit_code == 0, told.output
    return Page(Path("data.html" if out is None else out.replace(".jsonl", ".data.html")).read_text(encoding="utf-8"))


LONG = "The very same long story of a fox that jumps over some lazy dog in the garden behind the house"


def test_the_page_says_what_became_of_every_row():
    write(f"{LONG}.", f"{LONG}!", f"{LONG}.", "short", "", "It is  written to jane@example.com of course")
    found = page("rows.jsonl", "steps=[clean,pii,{dedup: 0.8},{select: {by: length, min: 10}}]", "allow_drop=1",
                 out="out.jsonl")  # fmt: skip
    text = found.text
    assert "read6" in text and "left2" in text and "left out4" in text
    assert "cannot be read: 'completion' is empty" in text and "rows.jsonl:5" in text
    assert "2 rows left out, of 1 family" in text and "3 rows" in text, "one family of three"
    assert "rows.jsonl:4 5" in text and "it measures too much or too little" in text
    assert "jane@example.com" not in Path("out.data.html").read_text() and "[EMAIL]" in text
    assert re.search(r"email ?1\b", text), "by kind"
    assert ("3 rows measured, 2 kept" not in text and "4 rows measured" not in text) or "kept" in text
    assert "lowest" in text and "highest" in text and "5, left out" in text
    assert not [value for name, value in found.attributes if name in ("src", "href") and not value.startswith("#")]


def test_values_that_are_to_be_hidden_stand_nowhere_though_no_step_hides_them():
    write("Call +1 415 555 2671 or write to jane@example.com  now", "Call +1 415 555 2671 or write to jane@example.com")
    page("rows.jsonl", "steps=[clean,{dedup: 0.8}]", "allow_drop=1")
    whole = Path("data.html").read_text()
    assert "jane@" not in whole and "555 2671" not in whole and "[EMAIL]" in whole


def test_any_text_shows_and_none_becomes_a_tag():
    write(*[f"{EVIL} {n} \u202e \u200b 中文也要显示" for n in range(12)])
    found = page("rows.jsonl", "steps=[clean,{select: {by: length, top: 6}}]", "allow_drop=1")
    assert found.tags.count("script") == 1, "its own"
    assert "中文也要显示" in found.text and "<script>alert(1)</script>" in found.text and "\u202e" not in found.text


def test_of_no_rows_and_of_one_row_there_is_a_page_too():
    write("one answer")
    assert "Every row is still there" in page("rows.jsonl", "steps=[exact]").text
    text = page("rows.jsonl", "steps=[{length: {min: 99}}]", "allow_drop=1").text
    assert "left 0" in text and "there are no topics to see" in text


def test_a_recipe_without_steps_has_a_page(tmp_path: Path):
    from luthier.recipe import loads, resolve
    from luthier.workflow import curation

    write(*[f"an answer {n}" for n in range(9)])
    curation.report(resolve(loads("model: m\ndata: rows.jsonl\noutput: runs/some")).recipe)
    text = Page(Path("data.html").read_text()).text
    assert "read 9" in text and "left 9" in text and "No step has looked for duplicates" in text


def test_rows_about_one_thing_lie_together_and_words_name_them():
    about = [["foxes", "forest", "hunter"], ["loss", "gradient", "optimiser"], ["flour", "oven", "butter"]]
    said = [" ".join(np.random.default_rng(n).permutation(about[n % 3] * 2)) + f" w{n // 6}x" for n in range(60)]
    found = topics([*said, *["quartz mineral geology stone"] * 6, *["violin orchestra symphony concert"] * 6], 5)
    assert found is not None
    groups = [set(found.topic[:60][n::3].tolist()) for n in range(3)]
    assert all(len(group) == 1 for group in groups) and len(set.union(*groups)) == 3
    assert set(found.names[groups[0].pop()].split(" · ")[:3]) == {"foxes", "forest", "hunter"}
    assert words("There are Foxes 中文字 a B2") == ["foxes", "中文", "文字"]
    assert topics(["one", "two"]) is None


def test_bins_hold_every_value_and_drawn_changes_say_what_came_and_went():
    values = np.array([1.0, 2, 2, 1000])
    bounds = edges(values, logarithmic=True)
    assert np.histogram(values, bounds)[0].sum() == 4 and len(bounds) == BINS + 1
    assert histogram([("after", np.histogram(values, bounds)[0])], bounds, "x").count("<rect") == 3
    assert len(edges(np.array([3.0, 3.0]))) == BINS + 1, "all the same is no fault"
    made = difference({"before": "a  b <c>", "after": "a b <c>"})
    assert made == "a<del>··</del><ins>·</ins>b &lt;c&gt;"
    assert difference({"before": None, "after": "[EMAIL]"}) == "[EMAIL]"
    assert hidden("write to a.b@example.org") == "write to [EMAIL]"
