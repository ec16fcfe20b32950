"""One chunk, worked through: read, changed by its row steps, measured for the set steps that follow, and written.

Whatever process does it: what comes of it lies in files named by the chunk's number, the last of which says that it is
whole.
"""

from __future__ import annotations

import gzip
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from luthier.data.curation import lines
from luthier.data.curation.chunks import SHARD, Chunk, Placed
from luthier.data.curation.stored import changes
from luthier.data.curation.stored.scores import Scores, as_keys
from luthier.data.ledger import Ledger
from luthier.data.steps.step import Dropped, Noted, Outcome, RowStep, SetStep
from luthier.data.steps.tools import Tools
from luthier.data.tally import StepTally
from luthier.errors import LuthierError
from luthier.run import write_atomically
from luthier.types import Example

BATCH = 512
NOTHING = "it gave no rows"


@dataclass(frozen=True)
class Measured:
    """A set step, and where what it measures is remembered."""

    placed: Placed
    scores: str | None = None


@dataclass(frozen=True)
class Task:
    """A chunk and what is to be done with it."""

    index: int
    chunk: Chunk
    measured: tuple[Measured, ...]
    folder: str
    seed: int

    @property
    def done(self) -> Path:
        """The file that says that all is there."""
        return Path(self.folder) / f"{self.index:05d}.json"


def work(task: Task, tools: Tools) -> None:
    """Do it, and write what came of it. Raises LuthierError for rows that cannot be read and steps that fail."""
    ledger, start = Ledger(), time.process_time()
    tallies = {placed.at: StepTally(placed.at, placed.name) for placed in task.chunk.steps}
    with Writer(task, tools) as writer:
        for batch in _batches(task.chunk.rows.examples(ledger)):
            rows: Sequence[Example] = batch
            for placed in task.chunk.steps:
                rows = stepped(placed, rows, tallies[placed.at], tools, writer.log)
            writer.add(rows)
    tell(task, ledger, list(tallies.values()), writer, time.process_time() - start)


def tell(task: Task, ledger: Ledger, tallies: Sequence[StepTally], writer: Writer, seconds: float) -> None:
    """Write down what was done with a chunk, in so many seconds: then it is whole."""
    told = {
        "feed": task.chunk.feed,
        "ledger": ledger.to_json(),
        "steps": [tally.to_json() for tally in tallies],
        "shards": writer.shards,
        "plain": writer.plain,
        "measuring": writer.seconds,
        "seconds": seconds,
    }
    write_atomically(task.done, json.dumps(told))


def _batches(examples: Iterator[Example]) -> Iterator[list[Example]]:
    while batch := list(itertools.islice(examples, BATCH)):
        yield batch


def stepped(
    placed: Placed, rows: Sequence[Example], tally: StepTally, tools: Tools, log: list[dict[str, Any]]
) -> list[Example]:
    """What a row step makes of these rows."""
    start, clock = time.process_time(), time.perf_counter()
    outcomes = outcomes_of(placed, rows, tools)
    passed: list[Example] = []
    for row, outcome in zip(rows, outcomes, strict=True):
        passed += counted(placed, row, outcome, tally, log)
    tally.seconds += time.process_time() - start
    tally.wall += time.perf_counter() - clock
    return passed


def outcomes_of(placed: Placed, rows: Sequence[Example], tools: Tools) -> Sequence[Outcome]:
    """What a row step says of these rows. Raises LuthierError, which names the row, where it fails."""
    assert isinstance(placed.step, RowStep)
    try:
        return placed.step.apply_all(rows, tools)
    except LuthierError:
        raise
    except Exception as error:  # a step may be anyone's: the row that it fails on is found, and told
        for row in rows:
            try:
                placed.step.apply_all([row], tools)
            except Exception as again:
                raise failed(placed, row, again) from again
        raise failed(placed, rows[0], error) from error


def failed(placed: Placed, row: Example, error: Exception) -> LuthierError:
    """The fault of a step, which names the row that it failed on."""
    if isinstance(error, LuthierError):
        return error
    what = f"the step {placed.name!r} failed on this row: {type(error).__name__}: {error}"
    return LuthierError(what, where=str(row.source), fix=f"mend or leave out the row, or take {placed.at} out")


def counted(
    placed: Placed, row: Example, outcome: Outcome, tally: StepTally, log: list[dict[str, Any]]
) -> Sequence[Example]:
    """The rows that an outcome passes on. The tally counts it, the log tells what is not the row itself."""
    tally.seen += 1
    if outcome is row:
        return (row,)
    where = str(row.source)
    event: dict[str, Any] = {"source": where, "step": placed.label}
    if isinstance(outcome, Noted):
        for note in outcome.notes:
            tally.count(note)
        log.append({**event, "notes": list(outcome.notes)})
        outcome = outcome.example
        if outcome is row:
            return (row,)
    if isinstance(outcome, tuple):
        if not outcome:
            outcome = Dropped(NOTHING)
        elif len(outcome) > 1 or outcome[0] is not row:
            tally.made += len(outcome) - 1
            log.append({**event, "made": len(outcome)})
            tally.sample({"source": where, "place": "", "before": None, "after": f"{len(outcome)} rows of this one"})
            return [_of(placed, row, made, number) for number, made in enumerate(outcome)]
        else:
            return outcome
    if isinstance(outcome, Dropped):
        tally.drop(outcome.reason, f"{where} {outcome.detail}".rstrip())
        log.append({**event, "dropped": outcome.reason, **({"detail": outcome.detail} if outcome.detail else {})})
        return ()
    outcome = outcome if outcome.source is not None else replace(outcome, source=row.source)
    made = changes.edits(row, outcome)
    if made:
        private = placed.step.private
        tally.changed += 1
        tally.sample(changes.sample(where, made, row, outcome, private=private))
        log.append({**event, "edits": changes.written(made, private=private)})
    return (outcome,)


def _of(placed: Placed, row: Example, made: Example, number: int) -> Example:
    """A made row, which knows what it was made from; the row itself, where it is one of them, stays as it is."""
    if made is row:
        return row
    known = dict(made.meta)
    if lines.MADE not in known or known[lines.MADE] == row.meta.get(lines.MADE):
        known[lines.MADE] = {"from": str(row.source), "by": placed.name, "part": number}
    return replace(made, source=row.source, meta=known)


@dataclass
class _Open:
    """The shard that is being written."""

    stem: str
    file: IO[bytes]
    offsets: list[int] = field(default_factory=lambda: [0])
    keys: list[bytes] = field(default_factory=list)
    columns: list[dict[str, NDArray[Any]]] = field(default_factory=list)


class Writer:
    """Rows of a chunk as shards, with what was measured of them."""

    def __init__(self, task: Task, tools: Tools) -> None:
        self.task, self.tools = task, tools
        self.log: list[dict[str, Any]] = []
        self.shards: list[list[Any]] = []
        """Name and rows of each."""
        self.plain = True
        """Can messages say all rows?"""
        self.seconds = {one.placed.at: 0.0 for one in task.measured}
        self._scores = [Scores(Path(one.scores)) if one.scores else None for one in task.measured]
        self._open: _Open | None = None
        log = Path(task.folder) / f"{task.index:05d}.changes.jsonl.gz"
        self._log = gzip.open(log, "wb", 1)  # noqa: SIM115  (__exit__ closes both)

    def add(self, rows: Sequence[Example]) -> None:
        """Measure and write."""
        for start in range(0, len(rows), BATCH):
            self._add(rows[start : start + BATCH])
        if self.log:
            self._log.write("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in self.log).encode())
            self.log.clear()

    def _add(self, rows: Sequence[Example]) -> None:
        shard = self._open or self._begun()
        bodies = [lines.body(row) for row in rows]
        written = [lines.line(row, said) for row, said in zip(rows, bodies, strict=True)]
        keys = [lines.hashed(said) for said in bodies]
        self.plain = self.plain and not any(said.startswith('{"example"') for said in bodies)
        shard.file.write(b"".join(written))
        shard.offsets += [shard.offsets[-1] + int(end) for end in np.cumsum([len(line) for line in written])]
        shard.keys += keys
        if rows:
            shard.columns.append(self._measure(rows, as_keys(keys)))
        if len(shard.keys) >= SHARD:
            self._end(shard)

    def _measure(self, rows: Sequence[Example], keys: NDArray[np.uint64]) -> dict[str, NDArray[Any]]:
        found: dict[str, NDArray[Any]] = {}
        for one, scores in zip(self.task.measured, self._scores, strict=True):
            start = time.process_time()
            columns = measured(one.placed, rows, keys, self.tools, scores)
            self.seconds[one.placed.at] += time.process_time() - start
            found |= {f"{one.placed.at}.{name}": column for name, column in columns.items()}
        return found

    def _begun(self) -> _Open:
        stem = str(Path(self.task.folder) / f"{self.task.index:05d}.{len(self.shards):03d}")
        self._open = _Open(stem, Path(f"{stem}.jsonl").open("wb"))  # noqa: SIM115
        return self._open

    def _end(self, shard: _Open) -> None:
        shard.file.close()
        np.save(f"{shard.stem}.offsets.npy", np.asarray(shard.offsets, np.int64))
        np.save(f"{shard.stem}.keys.npy", as_keys(shard.keys))
        for name in shard.columns[0] if shard.columns else ():
            np.save(f"{shard.stem}.column-{name}.npy", np.concatenate([batch[name] for batch in shard.columns]))
        if shard.keys:
            self.shards.append([Path(shard.stem).name, len(shard.keys)])
        self._open = None

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open is not None:
            if kind is None:
                self._end(self._open)
            else:
                self._open.file.close()
        self._log.close()


def measured(
    placed: Placed, rows: Sequence[Example], keys: NDArray[np.uint64], tools: Tools, scores: Scores | None
) -> dict[str, NDArray[Any]]:
    """What a set step measures of these rows, looked up where it is known. Raises LuthierError where it fails."""
    known, columns = (np.zeros(len(rows), np.bool_), {}) if scores is None else scores.look_up(keys)
    if known.all():
        return columns
    fresh = np.flatnonzero(~known)
    found = _asked(placed, [rows[i] for i in fresh.tolist()], tools)
    if len(fresh) == len(rows):
        return found
    for name, column in found.items():
        columns[name][fresh] = column
    return columns


def _asked(placed: Placed, rows: Sequence[Example], tools: Tools) -> dict[str, NDArray[Any]]:
    assert isinstance(placed.step, SetStep)
    try:
        found = {name: np.asarray(column) for name, column in placed.step.measure(rows, tools).items()}
    except LuthierError:
        raise
    except Exception as error:
        where = f"{rows[0].source} to {rows[-1].source}"
        what = f"the step {placed.name!r} failed to measure these rows: {type(error).__name__}: {error}"
        raise LuthierError(what, where=where, fix=f"mend or leave out the row, or take {placed.at} out") from error
    for name, column in found.items():
        if len(column) != len(rows) or column.dtype == object:
            shape = f"{column.shape} {column.dtype}"
            what = f"the step {placed.name!r} measured {name!r} of {len(rows)} rows, and gave {shape}"
            fix = "a column has one number, or one array of numbers, for each row"
            raise LuthierError(what, where=placed.at, fix=fix)
    return found


__all__ = ["Measured", "Task", "Writer", "counted", "failed", "measured", "outcomes_of", "stepped", "tell", "work"]
