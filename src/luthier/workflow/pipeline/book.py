"""What a pipeline's folder holds: which stages are done, what each hung on, and whether that is still so."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luthier.errors import LuthierError
from luthier.recipe.describe import show
from luthier.run import Run
from luthier.workflow.pipeline.stages import Stage

FILE = "pipeline.json"
BEGUN, FINISHED, VOID = "begun", "finished", "void"
SHOWN = 5
"""Changes named in a message."""
TEXT = 60
"""Characters of a value in a message."""

Seen = dict[str, Any]
"""Of a file: size, time of change, and the hash of its content."""


@dataclass
class Book:
    """The records of a pipeline's stages, by name."""

    home: Run
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, home: Run) -> Book:
        """What the folder holds. What was to be thrown away when a run was killed is thrown away now."""
        path = home.folder / FILE
        others = sorted(each.name for each in home.folder.iterdir() if each.name != ".lock")
        if others and not path.exists():
            raise LuthierError(
                f"the output folder is not empty and holds no pipeline ({', '.join(others[:3])})",
                where=str(home.folder),
                fix="set another `output:`",
            )
        book = cls(home, dict(home.read_json(path).get("stages", {})))
        book._clear()
        return book

    def write(self) -> None:
        """Keep the records, whole or as they were."""
        self.home.write_json(self.home.folder / FILE, {"stages": self.stages})

    # what is left to do
    def left(self, stages: Sequence[Stage], *, again: bool) -> list[Stage]:
        """The stages that are not done. Raises LuthierError where one that was begun hangs on what has changed, unless
        it is to be done `again`, and all after it: then what they made is thrown away."""
        undone: set[str] = set()
        for place, stage in enumerate(stages):
            known = self.stages.get(stage.name)
            if known is None:
                self._must_be_free(stage)
                undone.add(stage.name)
                continue
            changes = self.changes(stage, known, undone)
            if changes and not again:
                raise self._changed(stage, changes)
            if changes:
                self.throw_away(later.name for later in stages[place:])
                return [each for each in stages if each.name not in self.stages or not self._done(each)]
            if known["state"] != FINISHED:
                undone.add(stage.name)
        return [stage for stage in stages if not self._done(stage)]

    def _done(self, stage: Stage) -> bool:
        known = self.stages.get(stage.name, {})
        return known.get("state") == FINISHED and known["beside"] == self._portable(stage.beside())

    def changes(self, stage: Stage, known: Mapping[str, Any], undone: Iterable[str] = ()) -> list[str]:
        """In words, what a stage's work hung on and is otherwise now; and what it made and is otherwise now."""
        found = []
        before, now = known["asked"], self._portable(stage.asked())
        for key in {**before, **now}:
            if before.get(key) != now.get(key):
                found.append(f"{key} ({_shown(before.get(key))} there, {_shown(now.get(key))} here)")
        anew = sorted(set(undone) & stage.after)
        if anew and not found:
            return [f"the stage {name}, which is not there any more" for name in anew]
        found += [] if found else self._other(known["reads"], stage.reads())
        if known["state"] == FINISHED:
            found += [f"{each} (which it made)" for each in self._other(known["writes"], stage.writes())]
        return found

    def _other(self, before: Mapping[str, Seen], files: Sequence[Path]) -> list[str]:
        now = {self._named(file): file for file in files}
        gone = [f"{name} is gone" for name in before if name not in now]
        new = [f"{name} is new" for name in now if name not in before]
        return [
            *gone,
            *new,
            *(f"{name} has another content" for name in before if _differs(now.get(name), before[name])),
        ]

    def _changed(self, stage: Stage, changes: Sequence[str]) -> LuthierError:
        more = f"; and {len(changes) - SHOWN} more" if len(changes) > SHOWN else ""
        state = "is finished" if self.stages[stage.name]["state"] == FINISHED else "was begun"
        return LuthierError(
            f"the stage {stage.label!r} {state}, and has changed since: {'; '.join(changes[:SHOWN])}{more}",
            where=str(stage.folder),
            fix="undo that, set another `output:`, or give --again: it and all stages after it are done anew, and what "
            "they made is thrown away",
        )

    def _must_be_free(self, stage: Stage) -> None:
        """Raises LuthierError where a stage's folder holds what no stage of this pipeline has made."""
        if stage.folder.is_dir() and any(stage.folder.iterdir()):
            raise LuthierError(
                "the folder of a stage that was never begun is not empty",
                where=str(stage.folder),
                fix="move it away, or give the stage another name",
            )

    # what was done
    def begin(self, stage: Stage) -> None:
        """It begins, or goes on."""
        if stage.name not in self.stages:
            asked, reads = self._portable(stage.asked()), self._seen(stage.reads())
            self.stages[stage.name] = {"state": BEGUN, "kind": stage.kind, "asked": asked, "reads": reads, "beside": {}}
            self.write()

    def finish(self, stage: Stage, seconds: float, figures: Mapping[str, Any]) -> None:
        """It is done. `seconds`: of what was done now."""
        record = self.stages[stage.name]
        spent = record.get("seconds", 0.0) + seconds if record["state"] == FINISHED else seconds
        record |= {"state": FINISHED, "beside": self._portable(stage.beside()), "writes": self._seen(stage.writes())}
        record |= {"seconds": round(spent, 3), "figures": dict(figures)}
        self.write()

    def throw_away(self, names: Iterable[str]) -> None:
        """What these stages made. It is written down first: a kill in the middle leaves none half there."""
        for name in names:
            if name in self.stages:
                self.stages[name]["state"] = VOID
        self.write()
        self._clear()

    def _clear(self) -> None:
        void = [name for name, record in self.stages.items() if record["state"] == VOID]
        for name in void:
            folder = self.home.folder / name
            if folder.exists():
                shutil.rmtree(folder)
        for name in void:
            del self.stages[name]
        if void:
            self.write()

    # files and values by names that hold wherever the folder lies
    def _seen(self, files: Sequence[Path]) -> dict[str, Seen]:
        return {self._named(file): _seen(file) for file in files}

    def _named(self, file: Path) -> str:
        return str(self._portable(str(file)))

    def _portable(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._portable(one) for key, one in value.items() if key != "output"}
        if isinstance(value, list | tuple):
            return [self._portable(one) for one in value]
        home = str(self.home.folder)
        inside = isinstance(value, str) and (value == home or value.startswith(f"{home}/"))
        return f"${value[len(home) :].removeprefix('/')}" if inside else value


def _seen(file: Path) -> Seen:
    status = file.stat()
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    return {"size": status.st_size, "changed": status.st_mtime_ns, "digest": digest}


def _differs(file: Path | None, before: Seen) -> bool:
    """Has a file that is there another content? One of the same size and time is not read again."""
    if file is None:
        return False
    status = file.stat()
    if (status.st_size, status.st_mtime_ns) == (before["size"], before["changed"]):
        return False
    return bool(_seen(file)["digest"] != before["digest"])


def _shown(value: Any) -> str:
    text = "nothing" if value is None else show(value)
    return text if len(text) <= TEXT else text[:TEXT] + "…"
