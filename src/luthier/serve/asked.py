"""One client's request, as the thread of the engine keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from luthier.serve.outbox import Outbox, Told
from luthier.types import Request

if TYPE_CHECKING:
    from luthier.engines.local.ticket import Ticket


@dataclass(eq=False)
class Asked:
    """One client's request: what it asks of the engine, and how far that is."""

    requests: Sequence[Request]
    cost: int
    """Tokens of its prompts and of the longest answers."""
    outbox: Outbox
    since: float
    whole: bool = False
    """Is nothing told before all of it is there?"""
    held: list[Told] = field(default_factory=list)
    """What has come of such a one."""
    tickets: list[Ticket] = field(default_factory=list)
    begun: bool = False
    """Has a first token come, or was it given up? Then it is no part of the queue."""
    over: bool = False
    last: float = 0.0
    """When its last piece came."""
    drawn: int = 0
    """Tokens of its answers so far, told or not."""
