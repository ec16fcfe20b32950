"""One pass over all chunks as a folder of the cache: what has been done of it is not done again, whatever ends it."""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier import __version__, cache
from luthier.data.curation import making, workers
from luthier.data.curation.chunks import Chunk, Placed, Shard
from luthier.data.curation.passing import Measured, Task
from luthier.data.curation.stored import columns as files
from luthier.data.curation.stored.columns import Opened
from luthier.data.curation.stored.rows import Rows
from luthier.data.curation.stored.scores import Scores
from luthier.data.ledger import Ledger
from luthier.data.steps.step import SetStep
from luthier.data.steps.tools import Tools
from luthier.data.tally import StepTally
from luthier.errors import LuthierError
from luthier.recipe import Recipe
from luthier.recipe import Task as Scored
from luthier.recipe.resolve import plain
from luthier.run import write_atomically
from luthier.types import Example

LAYOUT = 2
"""Raise when what a pass writes changes."""
KEYS = "keys.npy"


def silent(done: int, total: int) -> None:
    """Shows nothing."""


@dataclass(frozen=True)
class Settings:
    """How steps are run; none of it changes what comes of them."""

    tools: Tools = field(default_factory=Tools)
    processes: int = field(default_factory=workers.cores)
    allow_drop: float = 0.5
    show: Callable[[int, int], None] = silent
    """Is told how many chunks of how many are done."""

    @classmethod
    def of(cls, recipe: Recipe) -> Settings:
        """Those of a recipe whose steps ask nothing of models."""
        return cls(Tools(recipe.seed, sets=sets(recipe.evaluate)), allow_drop=recipe.allow_drop)


def sets(tasks: Sequence[Scored]) -> dict[str, Callable[[], Iterator[Example]]]:
    """Rows beside those to train on: what the recipe is scored on."""
    from luthier.data.scored import scored_rows

    return {"evaluate": lambda: (row for task in tasks for row in scored_rows(task))}


def known_by(placed: Placed, *, measuring: bool = False) -> list[Any]:
    """What decides what a step does; of a set step that is only `measuring`, what decides the numbers."""
    left_out = placed.step.decides if measuring and isinstance(placed.step, SetStep) else ()
    keys = {
        one.name: plain(getattr(placed.step, one.name))
        for one in fields(placed.step)  # type: ignore[arg-type]
        if one.init and one.name not in left_out
    }
    return [placed.name, placed.step.version, keys, placed.step.identity()]


def digest(content: Any) -> str:
    """A name for what decides a result."""
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()


class Stage:
    """All chunks worked through, and what was measured of their rows."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder, key
        self.told = json.loads((folder / "stage.json").read_text(encoding="utf-8"))
        self.chunks: list[Chunk] = []
        start = 0
        for feed, stem, rows in self.told["shards"]:
            self.chunks.append(Chunk(feed, Shard(str(folder / stem), rows, None, start)))
            start += rows
        self.rows = start

    @property
    def plain(self) -> bool:
        """Can messages say all rows?"""
        return bool(self.told["plain"])

    @cached_property
    def steps(self) -> list[StepTally]:
        """What the row steps did."""
        return [StepTally.from_json(one) for one in self.told["steps"]]

    @cached_property
    def ledger(self) -> Ledger:
        """What was read."""
        return Ledger.from_json(self.told["ledger"])

    def columns(self, placed: Placed, places: NDArray[np.int64] | None = None) -> Opened:
        """What a set step measured of all rows, or of those in these places, memory-mapped."""
        return _columns(self.folder, placed.at, self.told["columns"].get(placed.at, ()), places)

    def reread(self, places: NDArray[np.int64] | None = None) -> Rows:
        """Its rows, or those in these places, read one by one."""
        shards = [one.rows for one in self.chunks if isinstance(one.rows, Shard)]
        return Rows(shards, self.folder / KEYS, places)

    def masked(self, mask: Path | None) -> list[Chunk]:
        """Its shards, without the rows that this array leaves out."""
        path = None if mask is None else str(mask)
        return [Chunk(one.feed, replace(one.rows, mask=path)) for one in self.chunks if isinstance(one.rows, Shard)]

    def changes(self) -> Iterator[Path]:
        """The logs of what the row steps changed, in order."""
        yield from sorted(self.folder.glob("[0-9]*.changes.jsonl.gz"))


def stage(chunks: Sequence[Chunk], key: Any, measuring: Sequence[Placed], settings: Settings) -> Stage:
    """The chunks, worked through: found in the cache, or done, or what is left of them done. `key`: what decides what
    is in the chunks. Raises LuthierError."""
    steps = {placed.at: known_by(placed) for chunk in chunks for placed in chunk.steps}
    seed = settings.tools.seed
    measured = [known_by(placed, measuring=True) for placed in measuring]
    name = digest([LAYOUT, __version__, key, [[p.at for p in c.steps] for c in chunks], steps, measured, seed])
    folder = cache.root() / "curated" / name
    if not (folder / "stage.json").is_file():
        with _held(folder):
            if not (folder / "stage.json").is_file():
                _make(folder, chunks, measuring, settings)
    return Stage(folder, name)


def made_by(placed: Placed, chunks: Sequence[Chunk], key: Any, settings: Settings) -> Stage:
    """The chunks, gone through by a step that makes rows: found in the cache, or done. `key` as of `stage`. Raises
    LuthierError."""
    placed = ready(placed, settings.tools)
    name = digest([LAYOUT, __version__, key, known_by(placed), settings.tools.seed])
    folder = cache.root() / "curated" / name
    if not (folder / "stage.json").is_file():
        with _held(folder):
            if not (folder / "stage.json").is_file():
                tasks = [
                    Task(index, Chunk(one.feed, one.rows), (), str(folder), settings.tools.seed)
                    for index, one in enumerate(chunks)
                ]
                with _room(folder):
                    making.make(placed, tasks, settings.tools, _telling(settings, 0, len(tasks)))
                    _join(folder, tasks, ())
    return Stage(folder, name)


@contextmanager
def _room(folder: Path) -> Iterator[None]:
    """Raises LuthierError where the disk is full."""
    try:
        yield
    except OSError as error:
        if cache.is_full(error):
            raise cache.no_space(folder, "curated rows") from error
        raise


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """One process works in the folder; another waits for it, and finds what it did."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make(folder: Path, chunks: Sequence[Chunk], measuring: Sequence[Placed], settings: Settings) -> None:
    tools = settings.tools
    made = {placed.at: ready(placed, tools) for chunk in chunks for placed in chunk.steps}
    measured = tuple(Measured(ready(placed, tools), _memory(placed)) for placed in measuring)
    tasks = [
        Task(
            index,
            Chunk(chunk.feed, chunk.rows, tuple(made[placed.at] for placed in chunk.steps)),
            measured,
            str(folder),
            tools.seed,
        )
        for index, chunk in enumerate(chunks)
    ]
    left = [task for task in tasks if not task.done.is_file()]
    with _room(folder):
        workers.run(left, tools, settings.processes, _telling(settings, len(tasks) - len(left), len(tasks)))
        _join(folder, tasks, measuring)


def _telling(settings: Settings, done: int, total: int) -> Callable[[int], None]:
    """What is told of each chunk that is done, after so many of `total`; how it stands at first is shown at once."""

    def tell(more: int) -> None:
        nonlocal done
        done += more
        settings.show(done, total)

    tell(0)
    return tell


def ready(placed: Placed, tools: Tools) -> Placed:
    """The step as it goes to work. Raises LuthierError, which says where the recipe has it."""
    try:
        return Placed(placed.at, placed.name, placed.step.ready(tools))
    except LuthierError as error:
        raise LuthierError(error.what, where=error.where or placed.label, fix=error.fix) from error


def _memory(placed: Placed) -> str | None:
    """Where what a set step measures is remembered."""
    assert isinstance(placed.step, SetStep)
    if not placed.step.remembers:
        return None
    name = digest([LAYOUT, __version__, known_by(placed, measuring=True)])
    return str(cache.root() / "scores" / f"{placed.name}-{name}")


def _columns(folder: Path, at: str, names: Sequence[str], places: NDArray[np.int64] | None = None) -> Opened:
    return Opened({name: folder / f"column-{at}.{name}.npy" for name in names}, places)


def _join(folder: Path, tasks: Sequence[Task], measuring: Sequence[Placed]) -> None:
    """Put together what the tasks have written. `stage.json`, written last, makes the stage whole."""
    told = [json.loads(task.done.read_text(encoding="utf-8")) for task in tasks]
    shards = [[one["feed"], stem, rows] for one in told for stem, rows in one["shards"]]
    columns = _join_columns(folder, shards, measuring)
    for placed in measuring:
        place = _memory(placed)
        if place is not None and shards:
            with _held(Path(place)):
                Scores(Path(place)).add(np.load(folder / KEYS), _columns(folder, placed.at, columns[placed.at]))
    ledger, steps, charged = Ledger(), dict[str, StepTally](), dict[str, list[int]]()
    for one in told:
        ledger.absorb(Ledger.from_json(one["ledger"]))
        for tally in map(StepTally.from_json, one["steps"]):
            dropped, made = charged.get(str(one["feed"]), (0, 0))
            charged[str(one["feed"])] = [dropped + tally.dropped, made + tally.made]
            if tally.at in steps:
                steps[tally.at].join(tally)
            else:
                steps[tally.at] = tally
    content = {
        "shards": shards,
        "columns": columns,
        "ledger": ledger.to_json(),
        "steps": [tally.to_json() for tally in steps.values()],
        "charged": charged,
        "plain": all(one["plain"] for one in told),
        "seconds": sum(one["seconds"] for one in told),
        "measuring": {at: sum(one["measuring"].get(at, 0.0) for one in told) for at in columns},
    }
    write_atomically(folder / "stage.json", json.dumps(content))


def _join_columns(folder: Path, shards: Sequence[Sequence[Any]], measuring: Sequence[Placed]) -> dict[str, list[str]]:
    """One array of those of all shards for each column, and one of the keys; the names of the columns of each step."""
    steps = {placed.at: placed.step for placed in measuring if isinstance(placed.step, SetStep)}
    names: dict[str, list[str]] = {at: [] for at in steps}
    if not shards:
        return names
    stems, rows = [stem for _, stem, _ in shards], sum(rows for _, _, rows in shards)
    files.join([folder / f"{stem}.{KEYS}" for stem in stems], folder / KEYS, rows)
    for path in sorted(folder.glob(f"{stems[0]}.column-*.npy")):
        column = path.name.removeprefix(f"{stems[0]}.column-").removesuffix(".npy")
        at = next(at for at in sorted(steps, key=len, reverse=True) if column.startswith(f"{at}."))
        names[at].append(column.removeprefix(f"{at}."))
        paths = [folder / f"{stem}.column-{column}.npy" for stem in stems]
        by_column = names[at][-1] in steps[at].by_column
        files.join(paths, folder / f"column-{column}.npy", rows, by_column=by_column)
    return names


__all__ = ["Settings", "Stage", "known_by", "made_by", "ready", "stage"]
