"""A run in several processes of this machine, started from a Python session that goes on afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from luthier.errors import LuthierError, Told
from luthier.recipe import Recipe, lock
from luthier.run import Run
from luthier.workflow.faults import STOPPED


def train(recipe: Recipe | str | Path, overrides: Sequence[str], processes: int, run: Run) -> None:
    """Start the processes of `run` and wait for their end, as `luthier train --processes` does.

    Each is a new Python that reads the recipe anew, so this session's weights, threads and random state are not
    touched, and plug-ins must be installed (entry points), not only registered here. Raises LuthierError where they
    do not come to their end; what went wrong, one of them says on stderr.
    """
    from luthier.distributed.launch import launch

    if processes < 1:
        raise LuthierError(f"a run has at least one process, not {processes}", where="processes", fix="leave it out")
    with TemporaryDirectory(prefix="luthier-") as folder:
        path = Path(folder) / "recipe.yaml"
        if isinstance(recipe, Recipe):
            path.write_text(lock(recipe), encoding="utf-8")
        else:
            path = Path(recipe)
        try:
            launch(processes, ["train", str(path), *overrides])
        except Told as told:
            if told.status == STOPPED:
                raise KeyboardInterrupt from told
            raise LuthierError(
                "the run has not come to its end, and one of its processes has said why",
                where=str(run.folder),
                fix="see its words above; called again, it continues from the last checkpoint",
            ) from told
