"""What holds for every registered step of curation, whatever it does to rows."""

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from curated import KEYS, ROWS, SPELLER, VARIANTS, curated, plugin, said, tools, write

from luthier.data import read
from luthier.data.curation import chunks, passing, workers
from luthier.data.curation.chain import Curated
from luthier.data.curation.stored import changes
from luthier.data.steps import STEPS, Dropped, MakeStep, Noted, RowStep, SetStep, Step
from luthier.data.steps.tools import Tools
from luthier.types import Example

NAMES = [*STEPS.names(), *VARIANTS]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def step(name: str) -> Step:
    return STEPS.build(plugin(name), KEYS.get(name, {})).ready(tools())


@pytest.fixture
def rows(tmp_path: Path) -> list[Example]:
    return list(read(write(tmp_path / "rows")))


def counts(made: Curated) -> list[dict[str, Any]]:
    """What the ledger says of each step, but how long it took."""
    return [{**one.to_json(), "seconds": 0, "wall": 0} for one in made.ledger.steps]


def test_it_says_what_it_is(name: str):
    cls = STEPS.get(plugin(name))
    assert issubclass(cls, RowStep) != issubclass(cls, SetStep)
    assert cls.__doc__ and cls.version >= 1
    json.dumps(STEPS.build(plugin(name), KEYS.get(name, {})).identity())
    if issubclass(cls, SetStep):
        assert set(cls.decides) <= set(cls.__dataclass_fields__)


def test_no_rows_give_none(name: str, tmp_path: Path):
    made = curated(write(tmp_path / "rows"), {"length": {"min": 10**6}}, {"length": {"max": 1}}, "exact", name)
    passed = [one for one in said(made) if "42" not in one[1]]  # a task has no answer that is too short
    assert not passed
    assert made.ledger.steps[-1].seen <= 1


def test_one_row(name: str, tmp_path: Path):
    for kind in ROWS:
        path = tmp_path / f"{kind}.jsonl"
        path.write_text(json.dumps(ROWS[kind][0]), encoding="utf-8")
        tally = curated([str(path)], name).ledger.steps[-1]
        assert tally.seen == 1


def test_every_row_is_accounted_for_and_stays_in_its_place(name: str, tmp_path: Path):
    made = curated(write(tmp_path / "rows", times=3), name)
    (tally,), found = made.ledger.steps, said(made)
    read_rows = sum(3 * len(rows) for rows in ROWS.values())
    assert tally.seen == read_rows == made.ledger.rows_read
    assert tally.seen + tally.made == len(found) + tally.dropped == len(made) + tally.dropped
    assert tally.dropped == sum(one.count for one in tally.reasons.values()) == made.ledger.rows_dropped
    assert made.ledger.rows_made == tally.made
    places = [
        (list(ROWS).index(Path(where.rpartition(":")[0]).stem), int(where.rpartition(":")[2])) for where, _ in found
    ]
    assert places == sorted(places)
    assert made.ledger.lost == 0


def test_done_twice_it_does_nothing_more(name: str, step: Step, tmp_path: Path):
    if not step.idempotent:
        pytest.skip("it does not say that it is idempotent")
    paths = write(tmp_path / "rows", times=2)
    again = curated(paths, name, name)
    if isinstance(step, RowStep):
        assert said(curated(paths, name)) == said(again)
        assert again.ledger.steps[1].changed == again.ledger.steps[1].dropped == again.ledger.steps[1].made == 0
    elif not step.drops_much:
        assert again.ledger.steps[1].dropped == 0


def test_any_number_of_processes_gives_the_same(
    name: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(chunks, "PIECE", 400)
    paths = write(tmp_path / "rows", times=4)
    alone = curated(paths, name)
    cache.rename(tmp_path / "first")
    monkeypatch.setattr(workers, "ALONE", -1)
    together = curated(paths, name, processes=2)
    assert len(list(together.stages[0].changes())) > 8
    assert [row for _, row in said(together)] == [row for one in [tmp_path / "first"] for row in _rows(one, alone)]
    assert counts(together) == counts(alone)
    assert together.key == alone.key


def _rows(folder: Path, made: Curated) -> list[str]:
    """The rows of what was curated before its cache was put elsewhere."""
    moved = [
        replace(one, rows=replace(one.rows, stem=_moved(folder, one.rows.stem), mask=_moved(folder, one.rows.mask)))
        for one in made.chunks
    ]
    return [row for _, row in said(replace(made, chunks=moved))]


def _moved(folder: Path, path: str | None) -> str | None:
    return None if path is None else path.replace("/cache/", f"/{folder.name}/")


def test_stopped_in_the_middle_it_goes_on_where_it_was(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(chunks, "PIECE", 400)
    paths, worked = write(tmp_path / "rows", times=4), []
    work = passing.work

    def counted(task: passing.Task, tools: Tools) -> None:
        work(task, tools)
        worked.append(task.index)
        if len(worked) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(workers, "work", counted)
    with pytest.raises(KeyboardInterrupt):
        curated(paths, name)
    made = curated(paths, name)
    assert sorted(worked) == list(range(len(worked)))
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(workers, "work", work)
    whole = curated(paths, name)
    assert said(whole) == said(made) and counts(whole) == counts(made)


def test_what_it_does_with_a_row_hangs_on_the_row_alone(step: Step, rows: list[Example]):
    if isinstance(step, MakeStep) and step.whole:
        pytest.skip("it says that it looks at the others, too")
    if isinstance(step, RowStep):
        assert list(step.apply_all(rows[::-1], tools()))[::-1] == [step.apply(row, tools()) for row in rows]
        return
    assert isinstance(step, SetStep)
    together = step.measure(rows, tools())
    alone = [step.measure([row], tools()) for row in rows]
    for name, column in together.items():
        assert len(column) == len(rows)
        np.testing.assert_array_equal(column, np.concatenate([one[name] for one in alone]))
        assert column.dtype == alone[0][name].dtype != object


def test_what_it_changes_can_be_undone(step: Step, rows: list[Example]):
    if not isinstance(step, RowStep):
        pytest.skip("it changes no row")
    for row in rows:
        outcome = step.apply(row, tools())
        if isinstance(outcome, Noted):
            assert outcome.notes
            outcome = outcome.example
        if isinstance(outcome, Dropped):
            assert outcome.reason
        elif isinstance(outcome, tuple):
            assert all(isinstance(one, Example) for one in outcome)
        elif outcome is not row:
            assert outcome != row, "a row that nothing was done to is given back itself"
            assert changes.undone(outcome, changes.edits(row, outcome)) == row


def test_the_log_tells_every_change(name: str, tmp_path: Path):
    made = curated(write(tmp_path / "rows", times=2), name)
    packed = [path.read_bytes() for one in made.stages for path in one.changes()]
    events = [json.loads(line) for one in packed for line in gzip.decompress(one).splitlines()]
    events += [event for one in made.decided for event in one.events()]
    (tally,) = made.ledger.steps
    assert sum("dropped" in event for event in events) == tally.dropped
    assert sum("edits" in event for event in events) == tally.changed
    assert sum(event.get("made", 1) - 1 for event in events) == tally.made
    assert all(event["source"] and event["step"] == f"steps.0 {plugin(name)}" for event in events)


def test_other_thresholds_measure_nothing_anew(name: str, step: Step, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    if not isinstance(step, SetStep) or not step.decides:
        pytest.skip("it has no thresholds")
    paths = write(tmp_path / "rows")
    curated(paths, name)
    others = {
        "balance": {**KEYS["balance"], "most": 1},
        "diverse": {**KEYS.get(name, {}), "keep": None, "top": 2},
        "tournament": {**KEYS["tournament"], "keep": None, "top": 2},
        "decontaminate": {**KEYS["decontaminate"], "drop": False},
        "dedup": {"keep": "first", **({"near": 0.9} if name == "dedup" else {**KEYS.get(name, {}), "semantic": 0.9})},
        "sample": {"n": 5},
        "select": {**KEYS.get(name, {}), "keep": None, "top": 2, "unknown": "keep"},
    }
    other = {key: value for key, value in others[plugin(name)].items() if value is not None}
    asked = len(SPELLER.scored), len(SPELLER.asked)

    def measured(*args: Any) -> None:
        raise AssertionError("it measured again")

    monkeypatch.setattr(type(step), "measure", measured)
    assert curated(paths, {plugin(name): other}).ledger.steps[0].seen > 0
    assert (len(SPELLER.scored), len(SPELLER.asked)) == asked, "a model was asked again"
