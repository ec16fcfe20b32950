"""Row shapes. A shape is recognised by its columns and reads a row into an Example."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from functools import cache
from typing import cast

from luthier.data.reading.formats.shape import NEAR, Shape
from luthier.errors import LuthierError
from luthier.registry import Registry
from luthier.types import Format

FORMATS: Registry = Registry(
    "format",
    {
        "mbpp": "luthier.data.reading.formats.programs:Mbpp",
        "human_eval": "luthier.data.reading.formats.programs:HumanEval",
        "tested": "luthier.data.reading.formats.programs:Tested",
        "stepwise": "luthier.data.reading.formats.preferences:Stepwise",
        "preference": "luthier.data.reading.formats.preferences:Preference",
        "ranked": "luthier.data.reading.formats.preferences:Ranked",
        "unpaired": "luthier.data.reading.formats.preferences:Unpaired",
        "messages": "luthier.data.reading.formats.conversation:Messages",
        "sharegpt": "luthier.data.reading.formats.conversation:ShareGPT",
        "alpaca": "luthier.data.reading.formats.plain:Alpaca",
        "shp": "luthier.data.reading.formats.published:Shp",
        "ultrafeedback": "luthier.data.reading.formats.published:UltraFeedback",
        "camel": "luthier.data.reading.formats.published:Camel",
        "wikihow": "luthier.data.reading.formats.published:WikiHow",
        "theorem": "luthier.data.reading.formats.plain:Theorem",
        "prompt_completion": "luthier.data.reading.formats.plain:PromptCompletion",
        "text": "luthier.data.reading.formats.plain:Text",
        "task": "luthier.data.reading.formats.plain:Task",
        "curated": "luthier.data.reading.formats.curated:Curated",
    },
)
BUILTIN = (
    "mbpp",
    "human_eval",
    "tested",
    "shp",
    "ultrafeedback",
    "camel",
    "stepwise",
    "preference",
    "ranked",
    "unpaired",
    "messages",
    "sharegpt",
    "alpaca",
    "theorem",
    "prompt_completion",
    "text",
    "task",
    "curated",
    "wikihow",
)
"""Most particular first: a row is read by the first shape that matches. Third-party shapes come after these."""


LIKELY = (
    "prompt_completion",
    "messages",
    "preference",
    "text",
    "alpaca",
    "sharegpt",
    "unpaired",
    "stepwise",
    "ranked",
    "theorem",
    "task",
    "tested",
    "mbpp",
    "human_eval",
    "curated",
    "ultrafeedback",
    "shp",
    "camel",
    "wikihow",
)
"""What unknown columns are likelier to mean, other things equal."""


BY_NAME = ("wikihow",)
"""Shapes whose columns others have, too: they are read only where `format:` names them."""
PROMPT_ONLY = ("messages", "sharegpt", "task")
"""Shapes whose columns may be no more than the prompt of a pair."""


@cache
def _shapes() -> tuple[tuple[str, Format], ...]:
    others = [name for name in FORMATS.names() if name not in BUILTIN]
    return tuple((name, cast(Format, FORMATS.build(name))) for name in (*BUILTIN, *others))


def _builtin() -> list[tuple[str, Shape]]:
    return [(name, cast(Shape, FORMATS.build(name))) for name in BUILTIN]


def recognise(columns: Iterable[str]) -> tuple[str, Format] | None:
    """The shape these columns have, or None."""
    found = frozenset(columns)
    shape = next(((name, shape) for name, shape in _shapes() if name not in BY_NAME and shape.matches(found)), None)
    if shape and shape[0] in PROMPT_ONLY and len(found & {"chosen", "rejected"}) == 1:
        return None  # half a pair: to read the rest as something else would lose what the row is for
    return shape


def unknown_columns(columns: Iterable[str], where: str, wanted: str | None = None) -> LuthierError:
    """The error for columns that no shape (or not the shape `wanted`) has: names the nearest shape and the mapping."""
    found = [name for name in columns if name]
    half = [name for name in ("chosen", "rejected") if name not in found]
    if wanted is None and len(half) == 1:
        return LuthierError(
            f"the columns are {', '.join(found)}; a pair of responses lacks {half[0]!r}",
            where=where,
            fix=f"add it, or say which column it is: set `columns: {{{half[0]}: YOUR_COLUMN}}` on this source",
        )
    best: tuple[tuple[float, int, int], str, dict[str, str], tuple[str, ...]] | None = None
    for name, shape in sorted(_builtin(), key=lambda item: LIKELY.index(item[0])):
        if wanted not in (None, name) or (wanted is None and shape.published):
            continue
        for required in shape.variants():
            mapping = _nearest(required, found)
            known = sum(1 for column in required if column in found)
            rank = ((len(mapping) + known) / len(required), known, len(mapping))
            if best is None or rank > best[0]:
                best = (rank, name, mapping, required)
    assert best is not None
    (score, _, _), name, mapping, required = best
    columns_text = ", ".join(found) or "none"
    what = f"the columns are {columns_text}; " + (
        f"the format {wanted!r} wants {', '.join(required)}" if wanted else "no known row shape has these"
    )
    example = ", ".join(f"{ours}: {theirs}" for ours, theirs in mapping.items())
    missing = [column for column in required if column not in found and column not in mapping]
    filled = ", ".join(part for part in (example, *(f"{column}: YOUR_COLUMN" for column in missing)) if part)
    if score == 0 and not wanted:
        general = [(name, shape) for name, shape in _builtin() if not shape.published]
        shapes = ", ".join(f"{name} ({', '.join(shape.variants()[0])})" for name, shape in general)
        return LuthierError(
            what,
            where=where,
            fix=f"say which column is what, as in `columns: {{prompt: YOUR_COLUMN, completion: YOUR_COLUMN}}`; "
            f"the shapes are {shapes}. A table needs a header line",
        )
    nearest = f"the nearest shape is {name!r} ({', '.join(required)}): set `columns: {{{filled}}}` on this source"
    return LuthierError(what, where=where, fix=nearest)


def _nearest(required: tuple[str, ...], found: list[str]) -> dict[str, str]:
    """Our column -> the likeliest of theirs, for the required columns that are absent. Each of theirs is used once."""
    mapping: dict[str, str] = {}
    for column in required:
        if column in found:
            continue
        free = {name.lower(): name for name in found if name not in required and name not in mapping.values()}
        near = [name for name in NEAR.get(column, ()) if name in free]
        near = near or [name for name in free if column in name]
        near = near or difflib.get_close_matches(column, list(free), n=1, cutoff=0.7)
        if near:
            mapping[column] = free[near[0]]
    return mapping


def formats_table() -> str:
    """The row shapes as a Markdown table, for the documentation."""
    lines = ["| shape | columns | may also have | gives |", "|---|---|---|---|"]
    for name, shape in _builtin():
        needed = " or ".join("`" + "`, `".join(required) + "`" for required in shape.variants())
        optional = ", ".join(f"`{column}`" for column in shape.optional)
        lines.append(f"| `{name}` | {needed} | {optional} | {shape.gives} |")
    return "\n".join(lines) + "\n"


__all__ = ["FORMATS", "formats_table", "recognise", "unknown_columns"]
