"""What a stage is: a name, a folder, what it is asked for, and what it makes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from luthier.recipe import Recipe, Source
from luthier.recipe.places import absolute
from luthier.recipe.resolve import flat, flattened, is_free, plain
from luthier.workflow.pipeline.keys import Answering, Revising, Selection

ANSWERS = "answers.jsonl"
ROWS = "rows.jsonl"
LEDGER = "ledger.jsonl"


@dataclass(frozen=True)
class Rewriting:
    """A revision with what is known of who answered."""

    keys: Revising
    """`data` written out."""
    speaker: str
    """The model whose data's system message stands before the prompts."""


@dataclass(frozen=True)
class Choosing:
    """A selection with what is known of who answered."""

    keys: Selection
    """`data` written out."""
    speaker: str | None
    """The model that answered: its data's system message stood before the prompts. None: nobody says."""


@dataclass(frozen=True)
class Stage:
    """One stage, as it will be done. Of a repeated block there is one for each round."""

    name: str
    """Its own name; in a block `block/round/name`: its folder below the pipeline's."""
    label: str
    """As people are told."""
    folder: Path
    work: Recipe | Answering | Rewriting | Choosing
    after: frozenset[str] = frozenset()
    """The stages whose work it takes up, by name."""

    @property
    def kind(self) -> str:
        """train, generate, revise or select."""
        kinds = {Recipe: "train", Answering: "generate", Rewriting: "revise", Choosing: "select"}
        return kinds[type(self.work)]

    @property
    def made(self) -> Path:
        """What `$name` stands for: the run, the answers, the rows."""
        return self.folder / {"train": "", "generate": ANSWERS, "revise": ROWS, "select": ROWS}[self.kind]

    def asked(self) -> dict[str, Any]:
        """What its work hangs on, by dotted key; of a run, what shapes the weights."""
        return {key: value for key, value in self._every().items() if self.kind != "train" or not is_free(key)}

    def beside(self) -> dict[str, Any]:
        """The keys of a run that leave its weights as they are: tasks, exports, trackers."""
        free = {key: value for key, value in self._every().items() if is_free(key)} if self.kind == "train" else {}
        return {key: value for key, value in free.items() if key != "output"}

    def _every(self) -> dict[str, Any]:
        if isinstance(self.work, Recipe):
            return flat(self.work)
        keys = self.work if isinstance(self.work, Answering) else self.work.keys
        return flattened(plain(replace(keys, data=tuple(_located(source) for source in keys.data))))

    def reads(self) -> list[Path]:
        """The files that its work hangs on."""
        return sorted({file for value in self.asked().values() for place in _places(value) for file in files(place)})

    def writes(self) -> list[Path]:
        """The files that others take up."""
        return sorted(files(self.made))


def _located(source: Source) -> Source:
    return replace(
        source,
        path=source.path and absolute(source.path),
        llamafactory=source.llamafactory and absolute(source.llamafactory),
    )


def _places(value: Any) -> Iterable[str]:
    """What may be a file or folder: a whole path; of a function in a file (`/rewards.py:polite`) its file."""
    values = value if isinstance(value, list) else [value]
    for one in values:
        if isinstance(one, str) and one.startswith("/"):
            path, colon, _ = one.rpartition(":")
            yield path if colon and path.endswith(".py") else one


def files(place: str | Path) -> Iterator[Path]:
    """The files of a place: itself, those of a folder, what a run has trained, what a pattern of names means."""
    path = Path(place)
    if path.is_file():
        yield path
    elif (path / "recipe.lock.yaml").is_file():
        for part in ("adapter", "model"):
            yield from (file for file in (path / part).rglob("*") if file.is_file())
    elif path.is_dir():
        for file in path.rglob("*"):
            hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
            if file.is_file() and not hidden:
                yield file
    elif any(mark in str(place) for mark in "*?["):
        yield from (file for file in Path("/").glob(str(place).lstrip("/")) if file.is_file())
