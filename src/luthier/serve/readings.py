"""What is read of a model without writing: a few rows at a time, between which the engine goes on with its answers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.recipe.resolve import LARGEST_MICRO

if TYPE_CHECKING:
    from luthier.types import Encoded

AT_ONCE = 512
"""Tokens read at a time: enough that a pass is worth its beginning, few enough that nobody waits long for them. More
where rows that begin alike would otherwise read their beginning again."""


@dataclass(frozen=True)
class Part:
    """Some of it, done in one go."""

    work: Callable[[], Any]
    cost: int = 0
    """Its tokens."""


@dataclass(eq=False)
class Reading:
    """One client's reading, and how far it is."""

    parts: deque[Part]
    """What is to be done yet."""
    adapter: str | None
    """By which it is read: it stays while this is under way."""
    future: Future[list[Any]] = field(default_factory=Future)
    found: list[Any] = field(default_factory=list)
    over: bool = False

    def __post_init__(self) -> None:
        self.future.set_running_or_notify_cancel()  # whoever waits may leave, and its part under way still ends

    @property
    def cost(self) -> int:
        """Tokens that are not read yet."""
        return sum(part.cost for part in self.parts)


def parts_of(
    rows: Sequence[Encoded], read: Callable[[Sequence[Encoded]], Sequence[Any]], *, shared: bool
) -> list[Part]:
    """Rows in parts, each a row or several. `shared`: tokens with which a row begins as the one before it are read
    once."""
    return [Part(partial(read, some), sum(map(_size, some))) for some in _groups(rows, shared)]


def _groups(rows: Sequence[Encoded], shared: bool) -> Iterator[list[Encoded]]:
    group: list[Encoded] = []
    tokens = 0
    for row in rows:
        saved = _alike(group[-1], row) if shared and group else 0
        more = _size(row) - saved
        if group and tokens + more > (LARGEST_MICRO if saved > more else AT_ONCE):
            yield group
            group, tokens, more = [], 0, _size(row)
        group.append(row)
        tokens += more
    if group:
        yield group


def _size(row: Encoded) -> int:
    return sum(len(ids) for ids in row.ids)


def _alike(one: Encoded, other: Encoded) -> int:
    """With how many equal tokens two rows begin."""
    size = min(len(one.ids[0]), len(other.ids[0]))
    differs = np.flatnonzero(one.ids[0][:size] != other.ids[0][:size])
    return int(differs[0]) if len(differs) else size
