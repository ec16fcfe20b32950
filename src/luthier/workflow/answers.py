"""The file that `luthier generate` writes: a line an answer, as they end. After a kill it is gone on with."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from luthier.errors import LuthierError
from luthier.recipe.describe import show
from luthier.run import cut_half_line, json_line, naming, write_atomically


@dataclass
class Answers:
    """One such file. `done`: the answers that are in it, by prompt and number."""

    path: Path
    file: BinaryIO
    done: set[tuple[str, int]] = field(default_factory=set)

    def add(self, row: Mapping[str, Any]) -> None:
        """One more line, on the disk when this returns."""
        with naming(self.path):
            self.file.write(json_line(row).encode("utf-8", "backslashreplace"))
            self.file.flush()
            os.fsync(self.file.fileno())
        self.done.add((row["key"], row["index"]))


def about(path: Path) -> Path:
    """What the answers in a file hang on."""
    return path.with_name(f"{path.name}.about.json")


@contextmanager
def opened(path: Path, made_by: Mapping[str, Any], *, overwrite: bool) -> Iterator[Answers]:
    """The file, begun or gone on with, held for this process. `made_by`: model, settings, whatever the answers hang on.

    Raises LuthierError where it holds answers made otherwise, is no such file, or is in use; `overwrite` begins anew.
    """
    if path.is_dir():
        raise LuthierError("this is a folder", where=str(path), fix="name a file: --out answers.jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LuthierError(
                "another process is writing this file", where=str(path), fix="wait for it, or name another --out"
            ) from None
        if overwrite:
            file.truncate(0)
        elif path.stat().st_size:
            _must_agree(path, made_by)
        cut_half_line(file)
        write_atomically(about(path), json.dumps(made_by, indent=2, ensure_ascii=False) + "\n")
        yield Answers(path, file, set(_done(path)))


def _must_agree(path: Path, made_by: Mapping[str, Any]) -> None:
    fix = "name another --out, or give --overwrite to begin anew"
    try:
        before = json.loads(about(path).read_bytes())
    except FileNotFoundError:
        raise LuthierError(
            f"the file is not empty, and {about(path).name}, which would say how its answers were made, is not there",
            where=str(path),
            fix=fix,
        ) from None
    except ValueError as error:
        raise LuthierError("this file is not whole", where=str(about(path)), fix=fix) from error
    before = before if isinstance(before, dict) else {}
    differing = [key for key in {**before, **made_by} if before.get(key) != made_by.get(key)]
    if differing:
        named = "; ".join(
            f"{key} ({_shown(before.get(key))} there, {_shown(made_by.get(key))} here)" for key in differing
        )
        raise LuthierError(f"this file holds answers that were made otherwise: {named}", where=str(path), fix=fix)


def _shown(value: Any) -> str:
    text = "nothing" if value is None else show(value)
    return text if len(text) <= 60 else text[:60] + "…"


def _done(path: Path) -> Iterator[tuple[str, int]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                yield str(row["key"]), int(row["index"])
            except (ValueError, RecursionError, KeyError, TypeError) as error:
                raise LuthierError(
                    "the line is no answer of luthier generate: it was cut off or changed",
                    where=f"{path}:{number}",
                    fix="take the line out (it is made again), or give --overwrite to begin anew",
                ) from error
