"""What is handed to the engine, and what of it comes back: settings, requests, pieces."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TypedDict, get_args

from luthier.engines.local.row import Row
from luthier.errors import LuthierError
from luthier.models.decode.copies import Kind
from luthier.types import Piece, Request


class Settings(TypedDict, total=False):
    """What an engine may hold, and how it reads weights."""

    rows: int
    """Answers under way at a time; 64 if nothing is said."""
    tokens: int
    """Tokens that they may hold together; 32,768, or as many as the longest request needs."""
    adapters: int
    """Bytes of adapters beside each other in memory; 1 GiB."""
    weights: Kind
    """How the compiled step reads the base (`models.decode.copies`); as it lies."""


def checked(settings: Settings) -> Settings:
    """The settings as they are. Raises ValueError for those that mean nothing."""
    unknown = set(settings) - set(Settings.__annotations__)
    if unknown:
        raise ValueError(f"an engine has no setting {', '.join(sorted(unknown))}")
    if settings.get("rows", 1) < 1 or settings.get("tokens", 1) < 1:
        raise ValueError("an engine needs room for a row and a token at least")
    if settings.get("weights", "own") not in get_args(Kind):
        raise ValueError(f"weights are read as {', '.join(get_args(Kind))}, not {settings.get('weights')!r}")
    return settings


@dataclass(eq=False)
class Ticket:
    """A request that was handed in, and what has come of it so far."""

    request: Request
    rows: list[Row] = field(default_factory=list)
    pieces: deque[Piece] = field(default_factory=deque)
    """Of its answers, in the order in which their tokens were drawn; whoever reads them takes them out."""
    left: int = 0
    """Answers that have not ended."""
    error: LuthierError | None = None
    """Why one of them could not be brought to an end; the others were."""
