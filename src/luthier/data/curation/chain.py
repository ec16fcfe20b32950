"""The steps of a recipe in their order: row steps joined to one pass, set steps decided between the passes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.data.curation.chunks import Chunk, Placed, Shard, chunks
from luthier.data.curation.deciding import allowed, decided, why
from luthier.data.curation.stages import Settings, Stage, digest, known_by, made_by, ready, stage
from luthier.data.ledger import Ledger
from luthier.data.reading.feeds import Feed, keeping
from luthier.data.steps.step import MakeStep, RowStep, SetStep
from luthier.data.tally import StepTally, Tally
from luthier.run import write_atomically
from luthier.types import Example

OTHERS = frozenset({"rows", "engine", "scorer", "ask"})
"""What steps may want that others can change: their names in a recipe do not say what it is."""


@dataclass(frozen=True)
class Decided:
    """What a set step said of the rows of a stage."""

    placed: Placed
    stage: Stage
    before: Path | None
    """Which rows of the stage it saw: an array, or None for all."""
    folder: Path

    @property
    def mask(self) -> Path:
        """Which rows of the stage stay after it."""
        return self.folder / "keep.npy"

    def told(self) -> dict[str, Any]:
        """Reasons and notes, and its tally."""
        content: dict[str, Any] = json.loads((self.folder / "verdict.json").read_text(encoding="utf-8"))
        return content

    @property
    def tally(self) -> StepTally:
        """What it did."""
        return StepTally.from_json(self.told()["tally"])

    def events(self) -> Iterator[dict[str, Any]]:
        """Each row that it left out, and why."""
        told = self.told()
        rows = self.stage.reread(_places(self.before))
        arrays = {name: np.load(self.folder / f"{name}.npy", mmap_mode="r") for name in told["arrays"]}
        for index in np.load(self.folder / "gone.npy", mmap_mode="r").tolist():
            reason, detail = why(index, rows, told["reasons"], arrays, told["told"])
            yield {"source": str(rows.source(index)), "step": self.placed.label, "dropped": reason, "detail": detail}


@dataclass
class Curated:
    """What steps made of the sources."""

    key: str
    """What it is: the same for the same rows under the same steps."""
    chunks: list[Chunk]
    """Shards, the rows that were left out masked."""
    ledger: Ledger
    stages: list[Stage]
    decided: list[Decided]

    def examples(self, feed: int | None = None) -> Iterator[Example]:
        """The rows, in the order of their sources; of one source alone if it is given."""
        for chunk in self.chunks:
            if feed is None or chunk.feed == feed:
                yield from chunk.rows.examples(self.ledger)

    def raw(self) -> Iterator[bytes]:
        """The rows as lines."""
        for chunk in self.chunks:
            assert isinstance(chunk.rows, Shard)
            yield from chunk.rows.raw()

    @property
    def plain(self) -> bool:
        """Can messages say all rows?"""
        folders = {Path(chunk.rows.stem).parent for chunk in self.chunks if isinstance(chunk.rows, Shard)}
        return all(one.plain for one in self.stages if one.folder in folders)

    def __len__(self) -> int:
        return sum(len(chunk.rows.kept()) for chunk in self.chunks if isinstance(chunk.rows, Shard))


@dataclass
class _Line:
    """Rows on their way: where they stand, and what decides what they are."""

    chunks: list[Chunk]
    key: list[Any]

    @property
    def waits(self) -> bool:
        """Are there rows yet to be read, or steps yet to be gone through?"""
        return any(chunk.steps or not isinstance(chunk.rows, Shard) for chunk in self.chunks)


class _Run:
    """One recipe's steps at work."""

    def __init__(self, feeds: Sequence[Feed], settings: Settings) -> None:
        self.settings = settings
        self.ledger = Ledger()
        self.names = [self.ledger.sources.setdefault(one.name, Tally()) for one in feeds]
        """Of each source its tally."""
        self.stages: list[Stage] = []
        self.decided: list[Decided] = []

    def through(self, line: _Line, steps: Sequence[Placed]) -> _Line:
        """The rows, gone through these steps; row steps at the end still wait."""
        left = list(steps)
        while left:
            if isinstance(left[0].step, MakeStep):
                line = self._made(line, left.pop(0))
                continue
            if isinstance(left[0].step, RowStep):
                placed = left.pop(0)
                line = _Line([replace(one, steps=(*one.steps, placed)) for one in line.chunks], line.key)
                continue
            group = [left.pop(0)]
            while left and isinstance(left[0].step, SetStep) and not left[0].step.wants:
                group.append(left.pop(0))
            line = self._decided(line, group)
        return line

    def read(self, line: _Line, measuring: Sequence[Placed] = ()) -> Stage:
        """The rows on the disk, all steps that waited gone through, and measured."""
        made = stage(line.chunks, line.key, measuring, self.settings)
        self._told(made, [placed for chunk in line.chunks for placed in chunk.steps])
        return made

    def _told(self, made: Stage, steps: Sequence[Placed]) -> None:
        """Enter what was done in a pass."""
        self.stages.append(made)
        self.ledger.absorb(made.ledger)
        self.ledger.steps += made.steps
        for feed, (dropped, rows) in made.told["charged"].items():
            source = self.names[int(feed)]
            source.dropped, source.made = source.dropped + dropped, source.made + rows
        for tally in made.steps:
            allowed(tally, next(one for one in steps if one.at == tally.at), self.settings.allow_drop)

    def _made(self, line: _Line, placed: Placed) -> _Line:
        """The rows, and those that a step made of them."""
        if line.waits:
            before = self.read(line)
            line = _Line(before.masked(None), [before.key])
        made = made_by(placed, line.chunks, line.key, self.settings)
        self._told(made, [placed])
        return _Line(made.masked(None), [made.key])

    def _decided(self, line: _Line, group: Sequence[Placed]) -> _Line:
        made = self.read(line, group)
        mask: Path | None = None
        key: list[Any] = [made.key]
        for placed in group:
            key = [*key, known_by(placed), self.settings.tools.seed]
            one = Decided(placed, made, mask, made.folder / f"verdict-{digest(key)}")
            if not (one.folder / "verdict.json").is_file():
                _decide(one, self.settings)
            self.decided.append(one)
            tally = one.tally
            tally.seconds += made.told["measuring"].get(placed.at, 0.0)
            self.ledger.steps.append(tally)
            self._charge(one)
            allowed(tally, placed, self.settings.allow_drop)
            mask = one.mask
        return _Line(made.masked(mask), key)

    def _charge(self, one: Decided) -> None:
        """The sources of what a set step left out have so many rows less."""
        gone = np.load(one.folder / "gone.npy", mmap_mode="r")
        before = _places(one.before)
        places = gone if before is None else before[gone]
        edges = np.cumsum([0, *(shard[2] for shard in one.stage.told["shards"])])
        counts = np.diff(np.searchsorted(np.sort(places), edges))
        for (feed, _, _), count in zip(one.stage.told["shards"], counts, strict=True):
            if count:
                self.names[feed].dropped += int(count)


def curate(
    feeds: Sequence[Feed], own: Sequence[Sequence[Placed]], whole: Sequence[Placed], settings: Settings
) -> Curated:
    """The rows of the sources, each gone through its own steps, then all through those of the whole mix.

    Raises LuthierError for what cannot be read, a step that fails, and one that drops too much.
    """
    own, whole = [_compared(steps, settings) for steps in own], _compared(whole, settings)
    feeds = [
        keeping(one, frozenset().union(*(placed.step.reads for placed in (*steps, *whole))))
        for one, steps in zip(feeds, own, strict=True)
    ]
    run = _Run(feeds, settings)
    parts = [run.through(_Line(chunks(one, number), _known(one)), own[number]) for number, one in enumerate(feeds)]
    line = _Line([chunk for part in parts for chunk in part.chunks], [part.key for part in parts])
    line = run.through(line, whole)
    if line.waits:
        made = run.read(line)
        line = _Line(made.masked(None), [made.key])
    return Curated(digest(line.key), line.chunks, run.ledger, run.stages, run.decided)


def _compared(steps: Sequence[Placed], settings: Settings) -> list[Placed]:
    """The steps, those that compare with other rows, or ask a model, made ready at once: what they do hangs on it."""
    return [ready(one, settings.tools) if one.step.wants & OTHERS else one for one in steps]


def _known(one: Feed) -> list[Any]:
    """What decides the rows of a source before its steps: neither these nor its share of the mix."""
    return replace(one, entry=replace(one.entry, steps=(), weight=None)).key()


def _decide(one: Decided, settings: Settings) -> None:
    """Ask the step, and write down what it says."""
    start, clock = time.process_time(), time.perf_counter()
    places = _places(one.before)
    rows, columns = one.stage.reread(places), one.stage.columns(one.placed, places)
    keep = np.ones(one.stage.rows, np.bool_) if places is None else np.zeros(one.stage.rows, np.bool_)
    said = decided(one.placed, columns, rows, settings.tools.seed)
    keep[slice(None) if places is None else places] = said.keep
    said.tally.seconds, said.tally.wall = time.process_time() - start, time.perf_counter() - clock
    one.folder.mkdir(parents=True, exist_ok=True)
    for name, array in {**said.arrays, "keep": keep, "gone": said.gone}.items():
        np.save(one.folder / f"{name}.npy", array)
    content = {"reasons": said.reasons, "arrays": list(said.arrays), "told": said.told, "tally": said.tally.to_json()}
    write_atomically(one.folder / "verdict.json", json.dumps(content))


def _places(mask: Path | None) -> NDArray[np.int64] | None:
    return None if mask is None else np.flatnonzero(np.load(mask))


__all__ = ["Curated", "Decided", "curate"]
