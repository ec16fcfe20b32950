"""A run is a folder, and the only thing passed between verbs: each verb restarts alone from what is on disk."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from luthier.errors import LuthierError


def write_atomically(path: Path, text: str) -> None:
    """Write the whole file or leave the old one: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")  # mkstemp would make it unreadable to others
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@dataclass(frozen=True)
class Run:
    """The folder of one run and the names of what lies in it."""

    folder: Path

    # what lies in the folder
    @property
    def recipe_path(self) -> Path:
        return self.folder / "recipe.lock.yaml"

    @property
    def events_path(self) -> Path:
        return self.folder / "events.jsonl"

    @property
    def ledger_path(self) -> Path:
        return self.folder / "ledger.json"

    @property
    def samples_path(self) -> Path:
        return self.folder / "samples.jsonl"

    @property
    def summary_path(self) -> Path:
        return self.folder / "summary.json"

    @property
    def report_path(self) -> Path:
        return self.folder / "report.html"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def adapter(self) -> Path:
        """The trained adapter in PEFT's format (absent after full fine-tuning)."""
        return self.folder / "adapter"

    @property
    def model(self) -> Path:
        """The trained weights as a whole model (present after full fine-tuning and freezing)."""
        return self.folder / "model"

    @property
    def merged(self) -> Path:
        """Where `export --to merged` writes."""
        return self.folder / "merged"

    # events: one JSON object a line, each with a kind
    def event(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Append one event and return it."""
        event = {"kind": kind, "time": round(time.time(), 3), **fields}
        with self.events_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(event, ensure_ascii=False) + "\n")
        return event

    def events(self, kind: str | None = None) -> Iterator[dict[str, Any]]:
        """The events so far, oldest first; only those of one kind if it is given."""
        if not self.events_path.exists():
            return
        with self.events_path.open(encoding="utf-8") as file:
            for line in file:
                if not line.endswith("\n"):
                    return  # a line still being written, or cut off by a kill
                event = json.loads(line)
                if kind is None or event["kind"] == kind:
                    yield event

    def write_json(self, path: Path, content: Mapping[str, Any]) -> None:
        """Write a JSON file of the run atomically."""
        write_atomically(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def read_json(self, path: Path) -> dict[str, Any]:
        """Read a JSON file of the run; {} if it is absent."""
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process. Raises LuthierError if another process holds it."""
        with self._lock_file() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read().strip() or "unknown"
                raise LuthierError(
                    f"the run folder is in use by another process (pid {holder})",
                    where=str(self.folder),
                    fix="wait for it to end, or set another `output:`",
                ) from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    def _lock_file(self) -> TextIO:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            return (self.folder / ".lock").open("a+")
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            taken = isinstance(error, FileExistsError | NotADirectoryError)
            why = "there is a file of that name" if taken else (error.strerror or str(error)).lower()
            raise LuthierError(
                f"cannot make the run folder or write in it: {why}", where=str(self.folder), fix="set another `output:`"
            ) from error

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """An existing run. Raises LuthierError when the folder holds none."""
        run = cls(Path(folder))
        if not run.recipe_path.exists():
            raise LuthierError(
                "not a run folder (no recipe.lock.yaml)", where=str(folder), fix="give the `output:` of a training run"
            )
        return run
