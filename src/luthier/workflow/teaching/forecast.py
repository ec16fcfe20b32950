"""What a run will take besides what its recipe says: `luthier explain` tells it below the table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from luthier import cache
from luthier.errors import LuthierError

if TYPE_CHECKING:
    from luthier.workflow.job import Job

GIB = 2**30


def lines(job: Job) -> Iterator[str]:
    """A line for each thing that is known. Nothing is told of a recipe that keeps nothing."""
    teacher = job.recipe.teacher
    if teacher is not None and teacher.top is not None:
        yield f"teacher     {_teacher(job, teacher.top, teacher.kept)}"


def _teacher(job: Job, top: int, kept: str) -> str:
    """The disk that a teacher's likeliest tokens will take. The rows are read for it, as `train` would."""
    from luthier.data import prepare
    from luthier.models import expected_embeddings
    from luthier.train.roles.teacher import Form

    try:
        form = Form(top, expected_embeddings(job.recipe.model) or len(job.template.tokenizer), kept)
        prepared = prepare(job.recipe, job.template, job.objective.needs)
    except LuthierError as error:
        return f"how much its likeliest tokens will take is not known: {error.what}"
    tokens = sum(int(store.scored.sum()) for store in (prepared.train, prepared.validation) if store is not None)
    size = form.token_bytes * tokens
    return (
        f"its {form.width} likeliest tokens at {tokens:,} places, {form.token_bytes} bytes each: {size / GIB:,.3g} GiB "
        f"at most in {cache.root() / 'teacher'}, before the first step"
    )
