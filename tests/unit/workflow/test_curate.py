"""`luthier curate`: a recipe or files, to rows, a ledger and a log; what was asked for amiss is told."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from luthier.cli import app
from luthier.data import read
from luthier.data.curation import chunks
from luthier.data.reading.feeds import feed
from luthier.errors import LuthierError
from luthier.recipe import Source as Entry
from luthier.workflow import curation
from luthier.workflow.curation import Asked, curate


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    answers = ["one", "two words", "two words", "three of them", "and four of them"]
    rows = [{"prompt": "Count.", "completion": answer} for answer in answers]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def said(path: str) -> list[str]:
    return [row.responses[0].turns[0].text for row in read(path)]


def test_files_are_gone_through_the_steps_that_are_named(capsys: pytest.CaptureFixture[str]):
    curate(["a.jsonl", "steps=[exact, {length: {min: 4}}]"], Asked(Path("out/rows.jsonl"), show=1))
    assert said("out/rows.jsonl") == ["two words", "three of them", "and four of them"]
    assert {path.name for path in Path("out").iterdir()} == {
        "rows.jsonl",
        "rows.ledger.json",
        "rows.changes.jsonl.gz",
    }
    told = capsys.readouterr()
    assert "steps.1 length dropped 1: an answer is shorter than 4 characters (a.jsonl:1 3)" in told.out
    assert "a.jsonl: 5 rows (prompt_completion), 3 left" in told.err and "steps.0 exact" in told.err


def test_without_steps_rows_are_cleaned_and_what_is_said_twice_goes(here: Path):
    with (here / "a.jsonl").open("a") as file:
        file.write(json.dumps({"prompt": "Who?", "completion": "Ann\u200b: ann@example.com"}) + "\n")
    made = curate(["a.jsonl"], Asked(Path("b.jsonl")))
    assert said("b.jsonl") == ["one", "two words", "three of them", "and four of them", "Ann: ann@example.com"]
    assert [one.name for one in made.ledger.steps] == ["clean", "pii", "dedup"]
    assert made.ledger.steps[1].counts == {"email": 1}, "told, and left"


def test_a_recipe_that_says_nothing_of_a_model_will_do(here: Path):
    (here / "recipes").mkdir()
    (here / "recipes" / "r.yaml").write_text("data: {path: a.jsonl, steps: exact}\nsteps: [{sample: 2}]\nseed: 3\n")
    made = curate(["recipes/r.yaml"], Asked())
    assert len(made) == 2 and [one.at for one in made.ledger.steps] == ["data.0.steps.0", "steps.0"]
    assert len(curate(["recipes/r.yaml", "steps.0.sample.n=3", "train.lr=1"], Asked())) == 3
    assert curate(["recipes/r.yaml"], Asked(first=1)).ledger.rows_read == 1


def test_rows_that_a_recipe_is_scored_on_are_looked_for(here: Path):
    (here / "recipes").mkdir()
    question = "How many legs has a spider that lost two of its eight legs in a fight?"
    (here / "recipes" / "test.jsonl").write_text(json.dumps({"prompt": question, "completion": "Six."}) + "\n")
    with (here / "a.jsonl").open("a") as file:
        file.write(json.dumps({"prompt": question, "completion": "It has six."}) + "\n")
    (here / "recipes" / "r.yaml").write_text(
        "data: a.jsonl\nsteps: [{decontaminate: evaluate}]\nevaluate: {data: test.jsonl, scorers: [f1]}\n"
    )
    made = curate(["recipes/r.yaml"], Asked(Path("b.jsonl"), why="a.jsonl:6"))
    assert "It has six." not in said("b.jsonl") and len(made) == 5
    assert [(one.name, one.dropped) for one in made.ledger.steps] == [("decontaminate", 1)]


def test_the_ledger_accounts_for_every_row(here: Path):
    (here / "t.jsonl").write_text(
        json.dumps({"text": "One sentence. Two sentences. Three of them."}) + '\n{"text": 5}\n'
    )
    data = "data: [{path: t.jsonl, steps: [{chunk: 16}]}, a.jsonl]\nsteps: [exact, {length: {min: 4}}]\n"
    (here / "r.yaml").write_text(data)
    made = curate(["r.yaml"], Asked(Path("b.jsonl")))
    ledger = json.loads(Path("b.ledger.json").read_text())
    counts, written = ledger["rows"], len(Path("b.jsonl").read_text().splitlines())
    assert (counts["read"], counts["made"], counts["dropped"], counts["kept"]) == (7, 2, 3, 6)
    assert written == ledger["written"] == counts["kept"]
    assert [one["kept"] for one in ledger["sources"].values()] == [3, 3]
    assert made.ledger.rows_kept == 0, "where rows train, those that become examples are counted anew"


def test_what_was_left_out_in_reading_and_what_was_found_is_shown(here: Path, capsys: pytest.CaptureFixture[str]):
    talk = ["Tom: a question", "Lena: ann@example.com", "Tom: <Media omitted>", "Lena: so pretty", "Tom: ciao"]
    (here / "_chat.txt").write_text("\n".join(f"[31.12.25, 22:{n:02}:00] {line}" for n, line in enumerate(talk)))
    (here / "r.yaml").write_text(
        "data: {path: _chat.txt, format: {whatsapp: {me: Lena}}}\nsteps: [{pii: report}]\nallow_drop: 1\n"
    )
    made = curate(["r.yaml"], Asked())
    told = capsys.readouterr().err.replace("\n", " ")
    assert made.ledger.notes and all(note in told for note in made.ledger.notes)
    assert "(1×, first _chat.txt:" in told, "how often, and where first"
    assert "1× email" in told


def test_what_is_told_of_a_near_duplicate_and_of_one_row(here: Path, capsys: pytest.CaptureFixture[str]):
    curate(["a.jsonl", "steps=[dedup]"], Asked(why="a.jsonl:3", first=3))
    assert "nearly the same as another row (= a.jsonl:2, likeness 1)" in capsys.readouterr().out
    curate(["a.jsonl", "steps=[dedup]"], Asked(Path("b.jsonl"), first=1))
    told = capsys.readouterr().err
    assert "a.jsonl: 1 row (" in told and "1 row: b.jsonl;" in told


def test_without_a_terminal_a_line_now_and_then_tells_how_far_it_is(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(curation, "EVERY", 0.001)
    monkeypatch.setattr(chunks, "PIECE", 60)
    many = [{"prompt": "Count.", "completion": f"{n} " * 20} for n in range(200)]
    (here / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in many))
    made = curate(["b.jsonl"], Asked())
    told = re.findall(r"^(\d+) s: (\d+) of (\d+) pieces of rows gone through$", capsys.readouterr().err, re.MULTILINE)
    done = [int(count) for _, count, total in told if total == str(len(made.stages[0].told["shards"]))]
    assert len(done) > 1 and done == sorted(done)


def test_what_a_killed_pass_begins_anew_is_small(here: Path):
    row = json.dumps({"prompt": "Count.", "completion": "word " * 200}) + "\n"
    (here / "big.jsonl").write_text(row * (9 * 2**20 // len(row)))
    pieces = chunks.chunks(feed(Entry(path="big.jsonl")), 0)
    assert len(pieces) == 3 and all(piece.rows.weight <= 4 * 2**20 for piece in pieces)


def test_the_life_of_a_row(capsys: pytest.CaptureFixture[str]):
    curate(["a.jsonl", "steps=[exact]"], Asked(why="a.jsonl:3"))
    assert "steps.0 exact: left out: the same row as an earlier one (= a.jsonl:2)" in capsys.readouterr().out
    curate(["a.jsonl"], Asked(why="a.jsonl:4"))
    assert 'result: {"messages"' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "asked", "fault"),
    [
        (["steps=[exact]"], Asked(), "there are no rows"),
        (["a.jsonl", "steps=[exakt]"], Asked(), "steps.0: unknown step 'exakt'.*did you mean 'exact'"),
        (["a.jsonl", "steps=[{exact: {by: nothing}}]"], Asked(), "steps.0: step 'exact', key 'by'"),
        (["a.jsonl", "steps=[]"], Asked(), "there are no steps"),
        (["a.jsonl", "step=[]"], Asked(), "unknown key 'step'.*did you mean 'steps'"),
        (["b.jsonl"], Asked(), "b.jsonl: no such file"),
        (["a.jsonl"], Asked(Path("rows.csv")), "--out rows.csv: .*ends with .jsonl"),
        (["a.jsonl"], Asked(Path("a.jsonl")), "the rows are read from this file"),
        (["a.jsonl"], Asked(why="a.jsonl"), "--why: 'a.jsonl' is no place of a row"),
        (["a.jsonl"], Asked(why="a.jsonl:77"), "a.jsonl:77: no row came from there"),
        (["a.jsonl", "steps=[{length: {min: 13}}]"], Asked(), r"'length' drops 60% of 5 rows"),
        (["a.jsonl", "steps=[{select: {by: f2, top: 1}}]"], Asked(), "unknown scorer 'f2'"),
        (["a.jsonl", "steps=[{select: {by: length}}]"], Asked(), "give keep, top, min or max"),
        (["a.jsonl", "steps=[{dedup: {near: 0.8, exact: true}}]"], Asked(), "step 'dedup': give one of near"),
        (
            ["a.jsonl", "steps=[{length: {min: 100, max: 10}}]"],
            Asked(),
            "step 'length': min .100. is more than max .10.",
        ),
        (["a.jsonl", "steps=[{select: {by: length, keep: 0.5, top: 3}}]"], Asked(), "keep .0.5. and top .3. both say"),
        (["a.jsonl", "steps=[{select: {by: length, min: 10, max: 5}}]"], Asked(), "min .10. is more than max .5."),
        (["a.jsonl", "steps=[{select: {by: length, min: 5000}}]"], Asked(), "steps.0: .*drops 100% of 5 rows"),
        (
            ["a.jsonl", "steps=[{select: {by: [length, {column: reward}], top: 1}}]"],
            Asked(),
            'steps.0 select: none of 5 rows can be measured by {"column": "reward"}.*number: prompt, completion',
        ),
        (["a.jsonl", "steps=[{decontaminate: evaluate}]"], Asked(), "steps.0 decontaminate: .*has no `evaluate:`"),
        (["r.yaml"], Asked(), "r.yaml:2: unknown key 'step'"),
    ],
)
def test_what_is_amiss_is_told(here: Path, given: list[str], asked: Asked, fault: str):
    (here / "r.yaml").write_text("data: a.jsonl\nstep: [exact]\n")
    with pytest.raises(LuthierError, match=f"(?s){fault}"):
        curate(given, asked)


@pytest.mark.parametrize(
    ("asked", "fault"),
    [
        (Asked(Path("a.jsonl")), "--out a.jsonl: the rows are read from this file"),
        (Asked(Path("sub/../a.jsonl")), "the rows are read from this file"),
        (Asked(Path("test.jsonl")), "the rows are read from this file"),
        (Asked(Path("/proc/x.jsonl")), "/proc/x.jsonl: cannot write the rows"),
        (Asked(Path("a.jsonl/b/c.jsonl")), "cannot write the rows"),
        (Asked(why="pii.jsonl"), "--why: 'pii.jsonl' is no place of a row"),
    ],
)
def test_what_could_not_be_written_or_told_is_refused_before_a_row_is_read(here: Path, asked: Asked, fault: str):
    (here / "sub").mkdir()
    (here / "test.jsonl").write_text((here / "a.jsonl").read_text())
    (here / "r.yaml").write_text("data: a.jsonl\nsteps: [exact]\nevaluate: {data: test.jsonl}\n")
    with pytest.raises(LuthierError, match=fault):
        curate(["r.yaml"], asked)
    assert not (here / "cache").exists(), "no pass was begun"
    assert {path.name for path in here.iterdir()} == {"a.jsonl", "r.yaml", "sub", "test.jsonl"}


def test_a_scorer_selects(here: Path):
    (here / "t.jsonl").write_text(
        "".join(json.dumps({"prompt": "2+2?", "completion": c, "answer": "4"}) + "\n" for c in ("5", "4", "four"))
    )
    made = curate(["t.jsonl", "steps=[{select: {by: exact_match, min: 0.5}}]", "allow_drop=1"], Asked())
    assert [row.responses[0].turns[0].text for row in made.examples()] == ["4"]


def test_from_the_command_line():
    def run(*given: str) -> Any:
        return CliRunner().invoke(app, ["curate", *given])

    assert run("a.jsonl", "--out", "rows.jsonl", "--try", "3", "--processes", "1").exit_code == 0
    assert said("rows.jsonl") == ["one", "two words"]
    found = run("a.jsonl", "steps=[{length: {max: 3}}]")
    assert found.exit_code == 1
