"""Which rows would teach what a few given rows want: influence by gradients.

LESS (arXiv:2402.04333): of each row the step that Adam would take by it, of each task the mean gradient of its rows,
both on few numbers (forward/influence.py). A row is worth the cosine of the two, and of several tasks the highest.

Shapes: N rows, K tasks, D numbers of a gradient.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field

from luthier import cache
from luthier.data.curation.stored.scores import Scores, as_keys
from luthier.data.selecting.likelihood import answered, encoded
from luthier.data.steps.measures import Measure
from luthier.data.steps.step import holding
from luthier.data.steps.tools import LOCAL, Speaking, Tools, content
from luthier.errors import LuthierError
from luthier.recipe.keys import listed
from luthier.types import Encoded, Example

AT_ONCE = 64
"""Gradients that are written down together: what a killed run begins anew."""


@dataclass(frozen=True)
class Less(Measure):
    """How far a row moves the model towards what the rows of a task want (LESS, arXiv:2402.04333): the cosine between
    Adam's step by the row and the mean gradient of the task's rows; of several tasks the highest. `less: like.jsonl`:
    rows of a test must not be among them. Each row goes through the model forwards and backwards; its gradient is
    kept, and another task asks for none again."""

    wants: ClassVar[frozenset[str]] = frozenset({"engine", "rows"})
    speaking: ClassVar[Speaking | None] = None
    tasks_KD: ClassVar[NDArray[np.float32] | None] = None
    known: ClassVar[str | None] = None

    like: Annotated[tuple[str, ...], BeforeValidator(listed), Field(min_length=1)]
    """Files of rows, each a task: what is to be learnt. Some dozens of rows each will do."""
    model: str | None = None
    """A run that has trained LoRA on a small part of such rows (a warm-up), with what Adam remembers of it; or a model,
    on which a fresh LoRA is put. Default: the recipe's."""
    size: Annotated[int, Field(gt=0)] = 2048
    """Numbers that a gradient is projected on: cosines are off by about 1/√size. Of each row four bytes are kept for
    each."""

    def identity(self) -> Any:
        return self.known

    def ready(self, tools: Tools) -> Self:
        if self.tasks_KD is not None:
            return self
        speaking = tools.speaker((self.model or "", {"engine": LOCAL}))
        made = holding(self, speaking=speaking)
        tasks = [made.gradient_of(path) for path in self.like]
        told = hashlib.blake2b(np.stack(tasks).tobytes(), digest_size=16).hexdigest()
        return holding(made, tasks_KD=np.stack(tasks), known=f"{speaking.identity} {told}")

    def gradient_of(self, path: str) -> NDArray[np.float32]:
        """The mean gradient of a task's rows. Raises LuthierError where none can be read."""
        from luthier.data.reading.feeds import read

        rows = [answered(row, one) for row in read(path) for one in row.responses[:1]]
        found = self._gradients(rows, adam=False)
        there = found[~np.isnan(found[:, 0])] if len(found) else found
        if not len(there):
            raise LuthierError(
                f"none of the {len(rows):,} rows with an answer fits into the model: no gradient says what is wanted",
                where=path,
                fix="give rows with answers that the model can read",
            )
        mean_D: NDArray[np.float32] = there.mean(axis=0)
        return mean_D

    def measure(self, batch: Sequence[Example], tools: Tools) -> NDArray[np.float64]:
        assert self.tasks_KD is not None, "a step is made ready before it measures"
        rows = [(n, answered(example, one)) for n, example in enumerate(batch) for one in example.responses]
        worth = influence(self._gradients([row for _, row in rows], adam=True), self.tasks_KD)
        found = np.full(len(batch), np.nan)
        for (n, _), value in zip(rows, worth.tolist(), strict=True):
            found[n] = np.fmax(found[n], value)
        return found

    def _gradients(self, rows: Sequence[Example], *, adam: bool) -> NDArray[np.float32]:
        """Of each row its gradient, looked up where it is known; NaN for one that cannot be read."""
        assert self.speaking is not None
        name = hashlib.blake2b(f"{self.version} {self.speaking.identity} {self.size} {adam}".encode(), digest_size=16)
        scores = Scores(Path(cache.root() / "scores" / f"gradients-{name.hexdigest()}"))
        for start in range(0, len(rows), AT_ONCE):
            some = rows[start : start + AT_ONCE]
            keys = as_keys([content(row) for row in some])
            known, _ = scores.look_up(keys)
            if not known.all():
                fresh = np.flatnonzero(~known)
                scores.add(keys[fresh], {"gradient": self._asked([some[n] for n in fresh.tolist()], adam)})
        if not rows:
            return np.empty((0, self.size), np.float32)
        _, columns = scores.look_up(as_keys([content(row) for row in rows]))
        return np.asarray(columns["gradient"], np.float32)

    def _asked(self, rows: Sequence[Example], adam: bool) -> NDArray[np.float32]:
        assert self.speaking is not None
        made: list[Encoded | None] = [encoded(self.speaking, row) for row in rows]
        found = np.full((len(rows), self.size), np.nan, np.float32)
        there = [n for n, one in enumerate(made) if one is not None]
        asked = self.speaking.gradients([one for one in made if one is not None], self.size, adam=adam)
        for n, gradient_D in zip(there, asked, strict=True):
            found[n] = gradient_D
        return found


def influence(steps_ND: NDArray[np.float32], tasks_KD: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of each row the highest of its cosines with the tasks; 0 for a row that would change nothing, NaN stays."""
    steps, tasks = steps_ND.astype(np.float64), tasks_KD.astype(np.float64)
    lengths_N, lengths_K = np.linalg.norm(steps, axis=1), np.linalg.norm(tasks, axis=1)
    lengths_N[lengths_N == 0] = 1.0
    cosines_NK = (steps / lengths_N[:, None]) @ (tasks / np.where(lengths_K > 0, lengths_K, 1.0)[:, None]).T
    worth: NDArray[np.float64] = cosines_NK.max(axis=1)
    return worth


__all__ = ["Less", "influence"]
