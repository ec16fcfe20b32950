"""Steps in a recipe: what trains, what the ledger says, what is done anew and what is not."""

import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import chat_templates as ct
import numpy as np
import pytest
from curated import curated, said, write
from pydantic import TypeAdapter

from luthier.data import Ledger, Template, prepare, prompts, read
from luthier.data.curation import chunks, output, passing
from luthier.data.curation.chain import curate
from luthier.data.curation.feeds import placed
from luthier.data.curation.stages import Settings
from luthier.data.curation.stored.scores import Scores
from luthier.data.reading.feeds import feed
from luthier.data.steps import STEPS, Columns, Dropped, Outcome, Reread, RowStep, SetStep, Verdicts
from luthier.data.steps.tools import Tools
from luthier.errors import LuthierError
from luthier.recipe import Plugin, Recipe
from luthier.recipe import Source as Entry
from luthier.types import Example, Source


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def rows(path: Path, *answers: str) -> str:
    lines = [json.dumps({"prompt": f"What is {n}?", "completion": answer}) for n, answer in enumerate(answers)]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


def recipe(data: Any, **more: Any) -> Recipe:
    made: Recipe = TypeAdapter(Recipe).validate_python({"model": "m", "data": data, "output": "o", **more})
    return made


TEMPLATE = Template(ct.tokenizer(ct.CHATML))


def test_what_steps_leave_trains_and_the_ledger_says_what_became_of_the_rest(tmp_path: Path):
    path = rows(tmp_path / "a.jsonl", "short", "long enough", "long enough", "", "also long enough")
    steps = [{"length": {"min": 6}}, {"exact": "answer"}]
    made = prepare(recipe(path, steps=steps, train={"max_lost": 0.2}), TEMPLATE)
    assert [int(made.train.source(i).row) for i in range(len(made.train))] == [2, 5]
    ledger = made.ledger
    assert (ledger.rows_read, ledger.rows_kept, ledger.rows_dropped, ledger.asked) == (5, 2, 3, 2)
    assert ledger.lost == 0.2, "a row without an answer is lost; the others were asked to go"
    assert [(one.at, one.seen, one.dropped) for one in ledger.steps] == [("steps.0", 4, 1), ("steps.1", 3, 1)]
    assert ledger.steps[0].reasons["an answer is shorter than 6 characters"].rows == [f"{path}:1 5"]
    assert ledger.steps[1].reasons["the same answer as an earlier one"].rows == [f"{path}:3 = {path}:2"]
    assert Ledger.from_json(json.loads(json.dumps(ledger.to_json()))).to_json() == ledger.to_json()


def test_sources_have_steps_of_their_own_before_those_of_all(tmp_path: Path):
    a, b = rows(tmp_path / "a.jsonl", "one", "two", "three"), rows(tmp_path / "b.jsonl", "one", "four", "five!")
    data = [{"path": a, "steps": {"length": {"max": 3}}}, {"path": b, "weight": 1}]
    given = recipe(data, steps=[{"exact": "answer"}, {"length": {"min": 4}}], allow_drop=1)
    made = prepare(given, TEMPLATE)
    assert [str(made.train.source(i)) for i in range(len(made.train))] == [f"{b}:2", f"{b}:3"]
    assert [(one.at, one.seen, one.dropped) for one in made.ledger.steps] == [
        ("data.0.steps.0", 3, 1),
        ("steps.0", 5, 1),
        ("steps.1", 4, 2),
    ]
    tallies = made.ledger.sources
    assert (tallies[a].read, tallies[a].kept, tallies[a].dropped) == (3, 0, 3)
    assert (tallies[b].read, tallies[b].kept, tallies[b].dropped, tallies[b].used) == (3, 2, 1, 2)


def test_validation_rows_and_prompts_and_rows_to_score_go_through_the_steps_of_their_source(tmp_path: Path):
    path = rows(tmp_path / "a.jsonl", "one", "two more")
    entry = {"path": path, "steps": [{"length": {"min": 4}}]}
    made = prepare(recipe(path, validate={"data": entry}), TEMPLATE)
    assert made.validation is not None and len(made.validation) == 1 and len(made.train) == 2
    assert made.ledger.validation is not None and made.ledger.validation.steps[0].at == "validate.data.0.steps.0"
    spoken = prompts(recipe(entry, objective="grpo", reward="f1", rollout={"prompts": 1}), TEMPLATE)
    assert [prompt.where for prompt in spoken.train] == [f"{path}:2"]
    assert len(list(read([TypeAdapter(Entry).validate_python(entry)]))) == 1


def test_made_rows_are_counted_and_know_what_they_were_made_from(tmp_path: Path):
    (tmp_path / "t.jsonl").write_text(json.dumps({"text": "One sentence. Two sentences. Three of them."}))
    made = curated([str(tmp_path / "t.jsonl")], {"chunk": 16})
    found = list(made.examples())
    assert "".join(one.responses[0].turns[0].text for one in found) == "One sentence. Two sentences. Three of them."
    assert [one.meta["made"]["part"] for one in found] == [0, 1, 2]
    assert {one.meta["made"]["from"] for one in found} == {f"{tmp_path / 't.jsonl'}:1"}
    (tally,) = made.ledger.steps
    assert (tally.seen, tally.made, tally.passed) == (1, 2, 3)
    prepared = prepare(recipe(str(tmp_path / "t.jsonl"), steps={"chunk": 16}), TEMPLATE)
    assert (prepared.ledger.rows_read, prepared.ledger.rows_made, prepared.ledger.rows_kept) == (1, 2, 3)


def test_a_step_that_drops_most_rows_stops_the_run_and_says_why(tmp_path: Path):
    path = rows(tmp_path / "a.jsonl", "one", "two", "three, which is long")
    with pytest.raises(
        LuthierError, match=r"steps.0: .*'length' drops 67% of 3 rows, and allow_drop is 50%.*2×"
    ) as told:
        curated([path], {"length": {"min": 6}}, allow_drop=0.5)
    assert "allow_drop=1" in str(told.value)
    assert len(curated([path], {"length": {"min": 6}}, allow_drop=0.7)) == 1
    assert len(curated([path], {"sample": 1}, allow_drop=0.0)) == 1, "it was told how many to keep"


@dataclass(frozen=True)
class Shout(RowStep):
    """Writes answers in capitals; fails on what it does not like."""

    version = 3

    def apply(self, example: Example, tools: Tools) -> Outcome:
        turn = example.responses[0].turns[0]
        if turn.text == "bad":
            raise ZeroDivisionError("no such thing")
        if turn.text == "go":
            return Dropped("it says go", "go")
        if turn.text == turn.text.upper():
            return example
        response = replace(example.responses[0], turns=(replace(turn, text=turn.text.upper()),))
        return replace(example, responses=(response,))


@dataclass(frozen=True)
class Counting(SetStep):
    """Counts what it measures."""

    decides = ("least",)
    least: int = 0
    measured: ClassVar[list[str]] = []
    decided: ClassVar[list[int]] = []

    def measure(self, batch: Sequence[Example], tools: Tools) -> Columns:
        self.measured.extend(str(example.source) for example in batch)
        return {"length": np.array([len(example.responses[0].turns[0].text) for example in batch])}

    def decide(self, columns: Columns, rows: Reread, seed: int) -> Verdicts:
        self.decided.append(self.least)
        lengths = columns["length"]
        assert [len(rows[i].responses[0].turns[0].text) for i in range(len(rows))] == lengths.tolist()
        return Verdicts(lengths >= self.least, ("too short",), value=lengths.astype(float), told={0: "the first"})


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(STEPS, "_targets", {**STEPS._targets, "shout": Shout, "counting": Counting})
    Counting.measured.clear()
    Counting.decided.clear()


@pytest.mark.usefixtures("own")
def test_a_step_that_fails_names_the_row(tmp_path: Path):
    path = rows(tmp_path / "a.jsonl", "good", "bad")
    with pytest.raises(
        LuthierError, match=rf"{path}:2: the step 'shout' failed on this row: ZeroDivisionError: no such"
    ):
        curated([path], "shout")


@pytest.mark.usefixtures("own")
def test_changes_are_counted_shown_and_logged(tmp_path: Path):
    made = curated([rows(tmp_path / "a.jsonl", "tea", "go", "TEA")], "shout")
    (tally,) = made.ledger.steps
    assert (tally.seen, tally.changed, tally.dropped) == (3, 1, 1)
    assert [(one["before"], one["after"]) for one in tally.samples] == [("tea", "TEA")]
    assert [example.responses[0].turns[0].text for example in made.examples()] == ["TEA", "TEA"]


@pytest.mark.usefixtures("own")
def test_a_threshold_measures_nothing_and_new_rows_measure_themselves(tmp_path: Path):
    path = rows(tmp_path / "a.jsonl", "one", "three", "fourth")
    assert len(curated([path], {"counting": 4})) == 2
    assert len(Counting.measured) == 3
    assert len(curated([path], {"counting": 6})) == 1
    assert len(curated([path], {"counting": 4})) == 2
    assert len(Counting.measured) == 3 and Counting.decided == [4, 6], "what was decided once stands, too"
    again = rows(tmp_path / "b.jsonl", "one", "three", "fourth", "of another length")
    assert len(curated([again], {"counting": 4})) == 3
    assert Counting.measured[3:] == [f"{again}:4"]
    rows(tmp_path / "a.jsonl", "fourth", "two", "three")  # other rows in the same file: the prompts count, too
    curated([path], {"counting": 4})
    assert Counting.measured[4:] == [f"{path}:1", f"{path}:2", f"{path}:3"]


@pytest.mark.usefixtures("own")
def test_a_threshold_of_a_source_and_its_share_of_the_mix_read_nothing_anew(tmp_path: Path, cache: Path):
    path = rows(tmp_path / "a.jsonl", "one", "three", "fourth")
    for least, weight in ((4, 1), (6, 1), (6, 2)):
        source = {"path": path, "weight": weight, "steps": {"counting": least}}
        prepare(recipe(source, allow_drop=1), TEMPLATE)
    assert len(Counting.measured) == 3 and Counting.decided == [4, 6]
    assert len(list((cache / "curated").iterdir())) == 1
    with pytest.raises(LuthierError, match=r"none of 3 rows is left: data.0.steps.0 counting drops 3"):
        prepare(recipe({"path": path, "steps": {"counting": 9}}, allow_drop=1), TEMPLATE)


@pytest.mark.usefixtures("own")
def test_set_steps_in_a_row_see_what_the_one_before_left(tmp_path: Path):
    path = rows(tmp_path / "a.jsonl", "a", "bbbb", "bbbb", "cccccc", "d" * 8)
    made = curated(
        [path], {"counting": 2}, {"exact": "answer"}, {"counting": 5}, "shout", {"select": {"by": "length", "top": 1}}
    )
    assert [example.responses[0].turns[0].text for example in made.examples()] == ["D" * 8]
    assert [(one.name, one.seen, one.dropped) for one in made.ledger.steps] == [
        ("counting", 5, 1),
        ("exact", 4, 1),
        ("counting", 3, 1),
        ("shout", 2, 0),
        ("select", 2, 1),
    ]
    assert len(made.stages) == 2, "those that follow one another are measured in one pass"
    details = [entry.rows for one in made.ledger.steps for entry in one.reasons.values()]
    assert details == [
        [f"{path}:1 1, the first"],
        [f"{path}:3 = {path}:2"],
        [f"{path}:2 4, the first"],
        [f"{path}:4 6"],
    ]


def test_where_a_row_went(tmp_path: Path):
    path = rows(tmp_path / "a.jsonl", "one", "", "a longer one", "a longer one")
    made = curated([path], {"length": {"min": 4}}, {"exact": "answer"})
    lives = {line: output.life(made, Source(path, line)) for line in (1, 2, 3, 4)}
    assert [(event["step"], event["dropped"]) for event in lives[1]] == [
        ("steps.0 length", "an answer is shorter than 4 characters")
    ]
    assert lives[2] == [{"source": f"{path}:2", "step": "reading", "dropped": "'completion' is empty", "detail": ""}]
    assert "a longer one" in lives[3][0]["kept"]
    assert lives[4][0]["detail"] == f"= {path}:3"
    assert output.life(made, Source("a.jsonl", 3)) == [{**lives[3][0], "source": "a.jsonl:3"}]
    with pytest.raises(LuthierError, match="no row came from there"):
        output.life(made, Source(path, 9))


def test_rows_of_several_shapes_are_written_in_one_that_is_read_again(tmp_path: Path):
    made = curated(write(tmp_path / "rows"), {"length": {"min": 1}})
    out = tmp_path / "out" / "rows.jsonl"
    assert output.write(made, out) == len(made)
    again = list(read(str(tmp_path / "out")))  # ledger and log beside it are no rows
    assert [replace(one, source=None) for one in again] == [
        replace(one, source=None, meta=_without_made(one)) for one in made.examples()
    ]
    ledger = json.loads(output.ledger_of(out).read_text())
    assert ledger["written"] == len(again) and ledger["steps"][0]["name"] == "length"
    with pytest.raises(LuthierError, match="the rows are read from this file"):
        output.write(curated([str(out)], "exact"), out)
    with pytest.raises(LuthierError, match="no such file"):
        output.must_be_rows(tmp_path / "rows.csv")


def _without_made(example: Example) -> dict[str, Any]:
    return {key: value for key, value in example.meta.items() if key != "made"}


def test_a_file_in_pieces_is_read_as_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lines = [{"prompt": "p", "completions": ["a", "b"], "labels": [1, 0]} for _ in range(20)]
    lines[15]["labels"] = [1, -1]  # a label below 0: then 0 is neutral, in every piece
    path = tmp_path / "steps.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in lines))
    whole = [row.responses for row in read(str(path))]
    monkeypatch.setattr(chunks, "PIECE", 100)
    made = curated([str(path)], {"length": {"min": 1}})
    assert len(made.stages[0].told["shards"]) > 5
    assert [row.responses for row in made.examples()] == whole
    lines[17] = {"text": "something else"}
    path.write_text("".join(json.dumps(row) + "\n" for row in lines))
    with pytest.raises(LuthierError, match=rf"{path}:18: mixed shapes in one file"):
        curated([str(path)], {"length": {"min": 1}})
    lines[17] = {"prompt": "p", "completions": 4, "labels": [1]}
    path.write_text("".join(json.dumps(row) + "\n" for row in lines))
    assert curated([str(path)], {"length": {"min": 1}}).ledger.main_reasons()[0][1].rows == [f"{path}:18"]


def test_a_limit_holds_for_the_whole_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(chunks, "PIECE", 60)
    path = rows(tmp_path / "a.jsonl", *"abcdefghij")
    steps = placed([Plugin(name="length", args={"min": 1})], "steps")
    made = curate([feed(Entry(path=path, limit=4))], [()], steps, Settings())
    assert len(made) == 4


def test_a_streamed_source_has_steps_only_up_to_a_limit():
    with pytest.raises(Exception, match="a streamed one may have none"):
        recipe({"path": "x", "streaming": True, "steps": "exact"})
    assert recipe({"path": "x", "streaming": True, "steps": "exact", "limit": 10}).data[0].steps[0].name == "exact"


def test_chance_hangs_on_row_seed_and_purpose_alone(tmp_path: Path):
    path = rows(tmp_path / "a.jsonl", *(f"answer {n}" for n in range(400)))
    drawn = said(curated([path], {"sample": 100}))
    assert len(drawn) == 100 and drawn != said(curated([path], {"sample": 100}, seed=1))
    assert set(said(curated([path], {"sample": 50}))) < set(drawn), "fewer are some of the more"
    lines = Path(path).read_text().splitlines()
    (tmp_path / "b.jsonl").write_text("\n".join(lines[::-1]))
    assert {row for _, row in said(curated([str(tmp_path / "b.jsonl")], {"sample": 100}))} == {row for _, row in drawn}
    one, other = read(path), read(path)
    assert [Tools(7).chance(row, "x").random() for row in one] == [Tools(7).chance(row, "x").random() for row in other]
    first = next(iter(read(path)))
    assert len({Tools(s).chance(first, p).random() for s in range(5) for p in "ab"}) == 10


def test_of_rows_that_measure_the_same_it_does_not_hang_on_the_place_which_stay(tmp_path: Path):
    path = rows(tmp_path / "a.jsonl", *(f"answer {n:03}" for n in range(40)))
    (tmp_path / "b.jsonl").write_text("\n".join(Path(path).read_text().splitlines()[::-1]))
    for best in ("high", "low"):
        step = {"select": {"by": "length", "top": 10, "best": best}}
        kept = said(curated([path], step))
        assert len(kept) == 10 and kept != said(curated([path], step, seed=1))
        assert {row for _, row in said(curated([str(tmp_path / "b.jsonl")], step))} == {row for _, row in kept}


def test_scores_are_kept_by_row_and_joined(tmp_path: Path):
    scores = Scores(tmp_path)
    keys = np.arange(60, dtype=np.uint64).reshape(30, 2)
    for start in range(0, 30, 2):  # more segments than are kept apart
        scores.add(keys[start : start + 3], {"a": np.arange(start, start + 3)[: len(keys[start : start + 3])] * 1.5})
    assert len(list(tmp_path.glob("[0-9]*"))) <= 9
    known, columns = Scores(tmp_path).look_up(np.concatenate([keys[::-1], [[999, 1]]]).astype(np.uint64))
    assert known.tolist() == [True] * 30 + [False]
    assert columns["a"][:-1].tolist() == [n * 1.5 for n in range(30)][::-1]


def test_memory_does_not_grow_with_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(chunks, "SHARD", 512)
    monkeypatch.setattr(passing, "SHARD", 512)
    monkeypatch.setattr(chunks, "PIECE", 200_000)

    def peak(count: int) -> int:
        path = rows(tmp_path / f"{count}.jsonl", *(f"{n} " * 200 for n in range(count)))
        tracemalloc.start()
        made = curated([path], {"length": {"min": 1}}, "exact", {"select": {"by": "length", "keep": 0.9}})
        for _ in made.examples():
            pass
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(10)
    assert peak(4000) < peak(1000) + 4_000_000, "a row is a thousand characters and more: three million more in all"


KILLED = """
import sys, time
from luthier.data.curation import chunks, passing, workers
from curated import curated
chunks.PIECE, work = 2000, passing.work
def slow(task, tools):
    work(task, tools)
    print(task.index, flush=True)
    time.sleep(0.05)
workers.work = slow
curated([sys.argv[1]], {"length": {"min": 1}}, "exact", {"sample": 20})
print("done", flush=True)
"""


def test_killed_it_goes_on_where_it_was(tmp_path: Path):
    path = rows(tmp_path / "a.jsonl", *(f"answer {n}" for n in range(1000)))
    paths = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    command = [sys.executable, "-c", KILLED, path]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths})
    assert process.stdout is not None
    first = [process.stdout.readline().strip() for _ in range(5)]
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read().split()
    process.wait()
    assert first == [str(n) for n in range(5)] and "done" not in rest
    time.sleep(0.1)
    whole = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}, check=True)
    again = whole.stdout.split()
    assert again[-1] == "done" and not set(first) & set(again)
