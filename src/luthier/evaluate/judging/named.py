"""Judge and prompts as the command line names them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from luthier.errors import LuthierError
from luthier.recipe.schema import Plugin, PluginField, Source
from luthier.run import Run
from luthier.scorers import SCORERS
from luthier.scorers.building import built
from luthier.scorers.metric import Metric
from luthier.types import Example

FORM = "--judge MODEL, --judge runs/rm, or --judge '{judge: {engine: {openai: {url: …, model: …}}}}'"


def judge(named: str) -> Metric:
    """`{judge: {…}}` or any scorer as a recipe names it; a run of a reward model; a run or a model that is to judge.
    Raises LuthierError where it is none of these."""
    try:
        value = yaml.safe_load(named)
    except yaml.YAMLError as error:
        raise LuthierError(f"--judge is no YAML: {error}", where=named, fix=FORM) from error
    if isinstance(value, str) and value not in SCORERS.names():
        if Path(value).expanduser().is_dir() and Run(Path(value).expanduser()).head is not None:
            return built(Plugin(name="reward_model", args={"run": value}))
        return built(Plugin(name="judge", args={"model": value}))
    try:
        plugin = TypeAdapter(PluginField).validate_python(value)
    except ValidationError as error:
        raise LuthierError("--judge names no judge", where=named, fix=FORM) from error
    return built(plugin)


def prompts(path: str, limit: int | None, tell: Callable[[str], None]) -> list[Example]:
    """The prompts of a file of any format. Rows that cannot be read are told. Raises LuthierError where none is
    left."""
    from luthier.data import Ledger, read

    ledger = Ledger()
    rows: Sequence[Example] = [row for row in read((Source(path=path),), ledger) if row.prompt]
    for reason, lost in ledger.main_reasons():
        tell(f"{lost.count:,} of {ledger.rows_read:,} rows are left out: {reason} ({', '.join(lost.rows[:3])})")
    if not rows:
        raise LuthierError("there is no prompt to answer", where=path, fix="give rows with a prompt, or messages")
    return list(rows[:limit])
