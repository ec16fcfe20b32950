"""The same steps on Ray Data, for what one machine cannot hold.

`apply` and `measure` run in `map_batches`, wherever Ray puts them; rows travel as lines in Arrow blocks. To the driver
come what was measured of rows and what is counted, never the rows; there set steps decide, and rows that are reread
are fetched a block at a time.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from luthier.data.curation import lines
from luthier.data.curation.chunks import Placed
from luthier.data.curation.deciding import allowed, decided, why
from luthier.data.curation.feeds import placed
from luthier.data.curation.passing import measured, stepped
from luthier.data.curation.stored.scores import as_keys
from luthier.data.ledger import Ledger
from luthier.data.reading.cutting.parts import Part
from luthier.data.reading.feeds import Feed
from luthier.data.steps.step import RowStep, SetStep
from luthier.data.steps.tools import Tools
from luthier.data.tally import StepTally
from luthier.errors import LuthierError, missing_extra
from luthier.recipe import Plugin
from luthier.recipe import Source as Entry
from luthier.types import Example, Source

LINE, TOLD = "line", "told"
"""The columns of a block: rows as lines; and in its last row, what is counted of the block."""
BATCH = 512


@dataclass
class OnRay:
    """What steps made of a dataset."""

    dataset: Any
    """A Ray dataset of the rows that stay; the column `line` holds them as `luthier curate` writes them."""
    ledger: Ledger
    events: list[dict[str, Any]] = field(default_factory=list)
    """Every change and drop, as in the log of `luthier curate`."""


def through(
    dataset: Any, steps: Sequence[str | Mapping[str, Any]], *, seed: int = 0, allow_drop: float = 0.5, name: str = "ray"
) -> OnRay:
    """The rows of a Ray dataset, of any shape that Luthier reads, gone through these steps.

    A row is called after its place in the dataset: `name`:1, `name`:2, … Raises LuthierError for rows of no known
    shape, steps that ask models (they work on one machine), a step that fails and one that drops too much.
    """
    run = _Run(_ray(), Tools(seed), allow_drop, OnRay(None, Ledger()))
    todo = placed([_plugin(step) for step in steps], "steps")
    for one in todo:
        if one.step.wants:
            what = f"the step {one.name!r} asks for {' and '.join(sorted(one.step.wants))}, which Ray's processes lack"
            raise LuthierError(what, where=one.at, fix="run it with `luthier curate`")
    todo = [Placed(one.at, one.name, one.step.ready(run.tools)) for one in todo]
    blocks = run.numbered(dataset)
    first = True
    while todo or first:
        rows = todo[: next((i for i, one in enumerate(todo) if not isinstance(one.step, RowStep)), len(todo))]
        todo = todo[len(rows) :]
        sets = todo[: next((i for i, one in enumerate(todo) if not isinstance(one.step, SetStep)), len(todo))]
        todo = todo[len(sets) :]
        blocks = run.passed(blocks, rows, sets, name if first else None)
        first = False
    run.made.dataset = run.ray.data.from_arrow_refs(blocks)
    return run.made


def _plugin(step: str | Mapping[str, Any]) -> Plugin:
    name, keys = (step, {}) if isinstance(step, str) else next(iter(step.items()))
    return Plugin(name=name, args={} if keys is None else dict(keys) if isinstance(keys, Mapping) else {"": keys})


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError:
        raise missing_extra("ray", "ray", "curation on Ray") from None
    return ray


@dataclass
class _Run:
    """Steps at work on blocks of rows."""

    ray: Any
    tools: Tools
    allow_drop: float
    made: OnRay

    def numbered(self, dataset: Any) -> list[Any]:
        """The dataset's blocks in order, each row with its number from 1."""
        self.ray.data.DataContext.get_current().execution_options.preserve_order = True
        blocks = dataset.materialize().to_arrow_refs()
        count = self.ray.remote(_rows)
        counts = self.ray.get([count.remote(block) for block in blocks])
        number = self.ray.remote(_numbered)
        starts = np.cumsum([1, *counts]).tolist()
        return [number.remote(block, start) for block, start in zip(blocks, starts, strict=False)]

    def passed(self, blocks: list[Any], rows: list[Placed], sets: list[Placed], name: str | None) -> list[Any]:
        """The blocks, read where that is still to be done, gone through row steps, and those set steps decided."""
        work = {"rows": rows, "sets": sets, "seed": self.tools.seed, "name": name}
        dataset = self.ray.data.from_arrow_refs(blocks)
        mapped = dataset.map_batches(worked, batch_size=None, batch_format="pyarrow", fn_kwargs=work)
        found = mapped.materialize().to_arrow_refs()
        tell = self.ray.remote(_told)
        told = [json.loads(one) for many in self.ray.get([tell.remote(block) for block in found]) for one in many]
        self._count(told, rows)
        strip = self.ray.remote(_stripped)
        numbers = self.ray.get([self.ray.remote(_measured).remote(block) for block in found])
        blocks = [strip.remote(block, None) for block in found]
        mask = np.ones(sum(count for count, _, _ in numbers), np.bool_)
        for one in sets:
            places = np.flatnonzero(mask)
            reread = _Reread(self.ray, blocks, [count for count, _, _ in numbers], places, _keys(numbers))
            said = decided(one, _columns(one, numbers, places), reread, self.tools.seed)
            self.made.ledger.steps.append(said.tally)
            for index in said.gone.tolist():
                reason, detail = why(index, reread, said.reasons, said.arrays, said.told)
                self.made.events.append(
                    {"source": str(reread.source(index)), "step": one.label, "dropped": reason, "detail": detail}
                )
            self._charge(said.tally)
            allowed(said.tally, one, self.allow_drop)
            mask[places[said.gone]] = False
        edges = np.cumsum([0, *(count for count, _, _ in numbers)])
        kept = [mask[start:end] for start, end in pairwise(edges.tolist())]
        return [strip.remote(block, keep) for block, keep in zip(blocks, kept, strict=True)]

    def _count(self, told: list[dict[str, Any]], rows: list[Placed]) -> None:
        """Enter what the processes have counted."""
        tallies = {one.at: StepTally(one.at, one.name) for one in rows}
        for content in told:
            self.made.ledger.absorb(Ledger.from_json(content["ledger"]))
            self.made.events += content["events"]
            for tally in map(StepTally.from_json, content["steps"]):
                tallies[tally.at].join(tally)
        self.made.ledger.steps += tallies.values()
        for one in rows:
            self._charge(tallies[one.at])
            allowed(tallies[one.at], one, self.allow_drop)

    def _charge(self, tally: StepTally) -> None:
        for source in self.made.ledger.sources.values():  # there is one
            source.dropped, source.made = source.dropped + tally.dropped, source.made + tally.made


def _keys(numbers: Sequence[Any]) -> NDArray[np.uint64]:
    return np.concatenate([np.empty((0, 2), np.uint64), *(keys for _, keys, _ in numbers)])


def _columns(one: Placed, numbers: Sequence[Any], places: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """What was measured for a set step, of the rows that are still there."""
    parts = [columns for count, _, columns in numbers if count]
    names = [name for name in (parts[0] if parts else {}) if name.startswith(f"{one.at}.")]
    return {name.removeprefix(f"{one.at}."): np.concatenate([part[name] for part in parts])[places] for name in names}


class _Reread:
    """Rows fetched from their blocks, the last few of which stay."""

    def __init__(
        self, ray: Any, blocks: list[Any], counts: list[int], places: NDArray[np.int64], keys: NDArray[np.uint64]
    ) -> None:
        self._starts, self._places, self._keys = np.cumsum([0, *counts])[:-1].tolist(), places, keys
        self._block = lru_cache(4)(lambda number: ray.get(blocks[number])[LINE].to_pylist())

    def __len__(self) -> int:
        return len(self._places)

    @property
    def keys(self) -> NDArray[np.uint64]:
        """Of each row its content as 128 bits."""
        return self._keys[self._places]

    def _line(self, index: int) -> bytes:
        place = int(self._places[index])
        number = bisect_right(self._starts, place) - 1
        while len(self._block(number)) <= place - self._starts[number]:  # an empty block has the start of the next
            number += 1
        return bytes(self._block(number)[place - self._starts[number]].encode())

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return lines.read(self._line(index))

    def source(self, index: int) -> Source:
        """The row's place in the dataset."""
        return lines.source_of(self._line(index))


# what runs in Ray's processes
def _rows(block: pa.Table) -> int:
    return int(block.num_rows)


def _numbered(block: pa.Table, start: int) -> pa.Table:
    """The block with the number of each row."""
    rows = [json.dumps(row, default=str) for row in block.to_pylist()]
    return pa.table(
        {LINE: pa.array(rows, pa.string()), "number": pa.array(range(start, start + len(rows)), pa.int64())}
    )


def worked(block: pa.Table, rows: Sequence[Placed], sets: Sequence[Placed], seed: int, name: str | None) -> pa.Table:
    """One block: read (`name`: as what) or as it was left, gone through row steps, and measured for set steps. Its last
    row tells what was counted."""
    tools, ledger, events = Tools(seed), Ledger(), list[dict[str, Any]]()
    tallies = {one.at: StepTally(one.at, one.name) for one in rows}
    found = list(_read(block, name, ledger))
    made: list[Example] = []
    for start in range(0, len(found), BATCH):
        batch: Sequence[Example] = found[start : start + BATCH]
        for one in rows:
            batch = stepped(one, batch, tallies[one.at], tools, events)
        made += batch
    bodies = [lines.body(row) for row in made]
    digests = [lines.hashed(said) for said in bodies]
    columns: dict[str, NDArray[Any]] = {}
    for one in sets if made else ():
        measures = measured(one, made, as_keys(digests), tools, None)
        columns |= {f"{one.at}.{column}": np.ascontiguousarray(values) for column, values in measures.items()}
    told = {
        "ledger": ledger.to_json(),
        "steps": [tally.to_json() for tally in tallies.values()],
        "events": events,
        "columns": {column: [values.dtype.str, values.shape[1:]] for column, values in columns.items()},
    }
    table: dict[str, Any] = {
        LINE: pa.array([*(lines.line(r, b).decode() for r, b in zip(made, bodies, strict=True)), None], pa.string()),
        TOLD: pa.array([*[None] * len(made), json.dumps(told)], pa.string()),
        "key": pa.array([*digests, None], pa.binary()),
    }
    for one in sets:  # blocks without rows have the same columns
        packed = [
            b"".join(values[i].tobytes() for at, values in columns.items() if at.startswith(f"{one.at}."))
            for i in range(len(made))
        ]
        table[f"measured {one.at}"] = pa.array([*packed, None], pa.binary())
    return pa.table(table)


def _read(block: pa.Table, name: str | None, ledger: Ledger) -> Iterator[Example]:
    if name is None:
        yield from (lines.read(line) for line in block[LINE].to_pylist() if line is not None)
        return
    numbered = list(zip(block["number"].to_pylist(), map(json.loads, block[LINE].to_pylist()), strict=True))
    if numbered:
        part = Part(name, lambda: iter(numbered), str)
        yield from Feed(Entry(path=name), name, (part,)).examples(ledger)


def _told(block: pa.Table) -> list[str]:
    if TOLD not in block.column_names:  # Ray asks nothing of a block without rows
        return []
    return [one for one in block[TOLD].to_pylist() if one is not None]


def _measured(block: pa.Table) -> tuple[int, NDArray[np.uint64], dict[str, NDArray[Any]]]:
    """How many rows a block has, their keys, and what was measured of them."""
    if TOLD not in block.column_names:
        return 0, np.empty((0, 2), np.uint64), {}
    kept = block.filter(pa.compute.is_valid(block[LINE]))
    told = [json.loads(one)["columns"] for one in _told(block)]
    shapes: dict[str, Any] = next((one for one in told if one), {})
    columns: dict[str, NDArray[Any]] = {}
    for packed in (name for name in kept.column_names if name.startswith("measured ")):
        at, values, start = packed.removeprefix("measured "), kept[packed].to_pylist(), 0
        for name, (dtype, shape) in shapes.items():
            if name.startswith(f"{at}."):
                size = np.dtype(dtype).itemsize * int(np.prod(shape))
                joined = b"".join(one[start : start + size] for one in values)
                columns[name] = np.frombuffer(joined, dtype).reshape(-1, *shape)
                start += size
    return kept.num_rows, as_keys(kept["key"].to_pylist()), columns


def _stripped(block: pa.Table, keep: NDArray[np.bool_] | None) -> pa.Table:
    """The rows of a block alone, without those that go."""
    if LINE not in block.column_names:
        return pa.table({LINE: pa.array([], pa.string())})
    only = block.filter(pa.compute.is_valid(block[LINE])).select([LINE])
    return only if keep is None else only.filter(pa.array(keep))


__all__ = ["OnRay", "through"]
