"""What `luthier curate` writes: the rows, the ledger, and a log of every change."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from luthier import cache
from luthier.data.curation import lines
from luthier.data.curation.chain import Curated
from luthier.data.ledger import Ledger
from luthier.errors import LuthierError
from luthier.run import json_line, write_atomically
from luthier.types import Source

READABLE = (".jsonl", ".ndjson")


def ledger_of(out: Path) -> Path:
    """Where the ledger of these rows lies."""
    return out.with_name(f"{out.stem}.ledger.json")


def changes_of(out: Path) -> Path:
    """Where the log of what was done to these rows lies."""
    return out.with_name(f"{out.stem}.changes.jsonl.gz")


def must_be_rows(out: Path) -> None:
    """Raises LuthierError for a place that rows cannot be written to."""
    if out.suffix.lower() not in READABLE or out.is_dir():
        what = "this is a folder" if out.is_dir() else f"rows are written one a line, and {out.name!r} is no such file"
        raise LuthierError(what, where=f"--out {out}", fix="name a file that ends with .jsonl")


def must_be_free(out: Path, read: Collection[str]) -> None:
    """Raises LuthierError for a place where nothing can be written, and for one that rows are read from (`read`),
    before any is gone through."""
    taken = {Path(name).expanduser().resolve() for name in read if Path(name).expanduser().is_file()}
    for path in (out, ledger_of(out), changes_of(out)):
        if path.resolve() in taken:
            what = (
                "the rows are read from this file"
                if path == out
                else f"rows are read from {path}, which goes beside it"
            )
            raise LuthierError(what, where=f"--out {out}", fix="name another file")
    folder = next(one for one in out.absolute().parents if one.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _unwritable(out, error) from error


def _unwritable(path: Path, error: OSError) -> LuthierError:
    what = f"cannot write the rows: {error.strerror}"
    return LuthierError(what, where=str(path), fix="name a file in a folder you may write to")


def write(made: Curated, out: Path) -> int:
    """Write the rows to `out`, the ledger and the log beside it, each whole or not at all; how many rows there are.

    Raises LuthierError for a full disk and a place that cannot be written to.
    """
    must_be_rows(out)
    must_be_free(out, made.ledger.sources)
    count, plain = 0, made.plain
    with _whole(out) as file:
        for line in made.raw():
            file.write(line if plain else lines.as_example(line))
            count += 1
    ledger = {**_settled(made.ledger).to_json(), "out": str(out), "written": count}
    write_atomically(ledger_of(out), json.dumps(ledger, indent=1, ensure_ascii=False) + "\n")
    with _whole(changes_of(out)) as file:
        for stage in made.stages:
            for path in stage.changes():
                with path.open("rb") as part:
                    shutil.copyfileobj(part, file)  # packed texts one behind the other are one packed text
        with gzip.open(file, "wb", 1) as log:
            for decided in made.decided:
                for event in decided.events():
                    log.write(json_line(event).encode("utf-8", "backslashreplace"))
    return count


def _settled(ledger: Ledger) -> Ledger:
    """The ledger of rows that are done: each that was not dropped is kept. Where they train, that is counted later."""
    settled = Ledger.from_json(ledger.to_json())
    for tally in settled.sources.values():
        tally.kept = tally.read + tally.made - tally.dropped
    return settled


@contextmanager
def _whole(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes its place when the block ends well, and vanishes when it does not."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if cache.is_full(error):
            raise cache.no_space(path, "curated rows") from error
        raise _unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def life(made: Curated, source: Source) -> list[dict[str, Any]]:
    """What became of one row, step by step; at the end how it stands in the result, as often as it does.

    Raises LuthierError where it was never read.
    """
    where = str(source)
    known = {name for name in made.ledger.sources if _means(source.path, name)} or {source.path}
    wanted = {f"{name}:{source.row}" for name in known}
    told = [event for event in _events(made, wanted) if event["source"] in wanted]
    for reason, entry in made.ledger.reasons.items():
        if wanted & set(entry.rows):
            told.append({"source": where, "step": "reading", "dropped": reason, "detail": ""})
    for line in made.raw():
        if str(lines.source_of(line)) in wanted:
            told.append({"source": where, "kept": line.decode().rstrip("\n")})
    if not told:
        raise LuthierError(
            "no row came from there",
            where=where,
            fix=f"give FILE:LINE as the ledger does; its files are {', '.join(made.ledger.sources)}",
        )
    return told


def _means(given: str, name: str) -> bool:
    return given == name or Path(name).name == given or Path(name).absolute() == Path(given).absolute()


def _events(made: Curated, wanted: set[str]) -> Iterator[dict[str, Any]]:
    needles = [json.dumps(where, ensure_ascii=False).encode() for where in wanted]
    for stage in made.stages:
        for path in stage.changes():
            with gzip.open(path) as log:
                for line in log:
                    if any(needle in line for needle in needles):
                        yield json.loads(line)
        for decided in made.decided:
            if decided.stage is stage:
                yield from decided.events()


__all__ = ["changes_of", "ledger_of", "life", "must_be_free", "must_be_rows", "write"]
