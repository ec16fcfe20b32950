"""A run is a folder, and the only thing passed between verbs: each verb restarts alone from what is on disk."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from luthier.errors import LuthierError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """What a full disk raises while this is written names it: the system itself does not say where."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in FULL:
            error.filename = str(path)
        raise


def write_atomically(path: Path, text: str) -> None:
    """Write the whole file or leave the old one: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path):
        _write_atomically(path, text)


def _write_atomically(path: Path, text: str) -> None:
    # mkstemp would make it unreadable to others; threads may write the same file
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        # half a character of another encoding, as a file's name may hold: JSON reads what is written then as the same
        with temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


BREAKS = {ord(mark): f"\\u{ord(mark):04x}" for mark in "\x85\u2028\u2029"}
"""The line ends of Unicode that JSON lets stand in a text: written as escapes, so that a line is one for any reader."""


def json_line(content: Mapping[str, Any]) -> str:
    """An object as one line of JSON, its end included."""
    return json.dumps(content, ensure_ascii=False).translate(BREAKS) + "\n"


@dataclass(frozen=True)
class Run:
    """The folder of one run and the names of what lies in it."""

    folder: Path
    _held: list[tuple[int, int]] = field(default_factory=list, init=False, repr=False, compare=False)
    """Which file the lock is, while this process holds the folder."""

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
    def rollouts(self) -> Path:
        """What the model said while it learnt from that, a file a rollout."""
        return self.folder / "rollouts"

    @property
    def prompts_path(self) -> Path:
        """How each prompt has done over such a run."""
        return self.folder / "prompts.jsonl"

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
    def head(self) -> Path | None:
        """The scalar head of a reward model; None where the run has trained none."""
        files = (folder / "head.safetensors" for folder in (self.adapter, self.model))
        return next((path for path in files if path.is_file()), None)

    @property
    def merged(self) -> Path:
        """Where `export --to merged` writes."""
        return self.folder / "merged"

    # events: one JSON object a line, each with a kind
    def event(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Append one event and return it. Raises LuthierError where the folder is this process's no more."""
        self.still_held()
        event = {"kind": kind, "time": round(time.time(), 3), **fields}
        with naming(self.events_path), self.events_path.open("a+b") as file:
            cut_half_line(file)
            file.write(json_line(event).encode("utf-8", "backslashreplace"))
        return event

    def events(self, kind: str | None = None) -> Iterator[dict[str, Any]]:
        """The events so far, oldest first; only those of one kind if it is given. Raises LuthierError at a broken line.

        A last line without an end is still being written, or was cut off by a kill, and is none.
        """
        if not self.events_path.exists():
            return
        for event in _json_lines(self.events_path, "kind", self._remedy(self.events_path), cut_ok=True):
            if kind is None or event["kind"] == kind:
                yield event

    def lines(self, path: Path, key: str) -> Iterator[dict[str, Any]]:
        """The objects of another file of the run, each with this key. Raises LuthierError where it is not whole."""
        if path.exists():
            yield from _json_lines(path, key, self._remedy(path))

    def samples(self) -> Iterator[dict[str, Any]]:
        """The scored rows of all tasks, as they were recorded. Raises LuthierError where the file is not whole."""
        if self.samples_path.exists():
            yield from _json_lines(self.samples_path, "task", self._remedy(self.samples_path))

    def write_json(self, path: Path, content: Mapping[str, Any]) -> None:
        """Write a JSON file of the run atomically. Raises LuthierError where the folder is this process's no more."""
        self.still_held()
        write_atomically(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def read_json(self, path: Path) -> dict[str, Any]:
        """Read a JSON file of the run; {} if it is absent. Raises LuthierError where it is not whole."""
        if not path.exists():
            return {}
        try:
            content = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
            raise _not_whole(path, f"{path}{line}", self._remedy(path)) from error
        if not isinstance(content, dict):
            raise _not_whole(path, str(path), self._remedy(path))
        return content

    def check_whole(self) -> None:
        """Raise LuthierError where a file that the report is made from is not whole: before the work, not after it."""
        for path in (self.summary_path, self.ledger_path):
            self.read_json(path)
        for _ in self.events():
            pass
        for _ in self.samples():
            pass

    def _remedy(self, path: Path) -> str:
        """What to do about a file of the run that is not whole."""
        again = f"`luthier evaluate {self.folder}` writes it anew"
        return {
            self.events_path: "take the line out, or remove the file: the report goes without its curves then",
            self.samples_path: f"remove the file; {again}",
            self.summary_path: f"remove the file; {again} with the scores, and events.jsonl keeps how training went",
            self.ledger_path: "remove the file: the report goes without it, and `luthier data RECIPE` shows it again",
        }.get(path, "remove the file, or put back what it held")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process. Raises LuthierError if another process holds it."""
        with self._taken() as file:
            with naming(self.folder / ".lock"):
                file.truncate(0)
                os.write(file.fileno(), str(os.getpid()).encode())  # at once: nothing is left to fail when it is closed
            self._held.append(_identity(os.fstat(file.fileno())))
            try:
                yield
            finally:
                self._held.pop()

    def still_held(self) -> None:
        """Raise LuthierError where the folder that this process holds was removed, and perhaps made anew by another.

        Asked before each event and file: two processes that write one log would leave neither's.
        """
        if self._held and self._lock_identity() != self._held[-1]:
            raise LuthierError(
                "the run folder was removed, or another put in its place, while this process worked in it; "
                "it stops here and writes nothing more there",
                where=str(self.folder),
                fix="let one process work on a run; to begin anew, end it before you remove the folder",
            )

    def _taken(self) -> TextIO:
        """The lock file, locked. A folder that goes away meanwhile is made again."""
        while True:
            file = self._lock_file()
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                with file:
                    file.seek(0)
                    holder = file.read().strip() or "unknown"
                raise LuthierError(
                    f"the run folder is in use by another process (pid {holder})",
                    where=str(self.folder),
                    fix="wait for it to end, or set another `output:`",
                ) from None
            if self._lock_identity() == _identity(os.fstat(file.fileno())):
                return file
            file.close()

    def _lock_identity(self) -> tuple[int, int] | None:
        try:
            return _identity((self.folder / ".lock").stat())
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _lock_file(self) -> TextIO:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            return (self.folder / ".lock").open("a+")
        except OSError as error:
            if error.errno in FULL:
                raise
            taken = isinstance(error, FileExistsError | NotADirectoryError)
            why = "there is a file of that name" if taken else (error.strerror or str(error)).lower()
            may = isinstance(error, PermissionError)
            raise LuthierError(
                f"cannot make the run folder or write in it: {why}",
                where=str(self.folder),
                fix=("give this account the right to write there, or " if may else "") + "set another `output:`",
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


def _identity(status: os.stat_result) -> tuple[int, int]:
    """Which file it is, whatever its name: that of a file made anew differs."""
    return status.st_dev, status.st_ino


def cut_half_line(file: BinaryIO) -> None:
    """Take a last line without an end off a file of lines: a kill left it, and what is added would join it."""
    size = end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - 65536)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        end = start + found + 1 if found >= 0 else start
        if found >= 0:
            break
    if end < size:
        file.truncate(end)
    file.seek(0, os.SEEK_END)


def _json_lines(path: Path, key: str, remedy: str, *, cut_ok: bool = False) -> Iterator[dict[str, Any]]:
    """The objects of a file of lines, each with this key. A line ends at "\\n" alone: Unicode's other line ends are
    part of a text. `cut_ok`: a last line without an end is left out."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if cut_ok and not line.endswith(b"\n"):
                return
            try:
                content = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise _not_whole(path, f"{path}:{number}", remedy) from error
            if not isinstance(content, dict) or key not in content:
                raise _not_whole(path, f"{path}:{number}", remedy)
            yield content


def _not_whole(path: Path, where: str, remedy: str) -> LuthierError:
    return LuthierError(f"{path.name} is not whole: a part of it was cut off or changed", where=where, fix=remedy)
