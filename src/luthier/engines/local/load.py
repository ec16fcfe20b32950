"""How much an engine has to do, and has done: for those who watch it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from luthier.engines.local.scheduler import Scheduler


@dataclass(frozen=True)
class Load:
    """Counts of one moment; what has come about, since the engine was made."""

    running: int
    """Answers under way."""
    waiting: int
    """Answers not begun, or put back."""
    pages_held: int
    pages_made: int
    """Pages of keys and values that answers hold, and those that have memory."""
    evicted: int
    """Pages whose content was forgotten because their place was needed."""
    preempted: int
    """How often an answer was put back because pages had run short."""
    tokens_read: int

    @classmethod
    def of(cls, schedulers: Iterable[Scheduler]) -> Load:
        """Of all of them together."""
        given = list(schedulers)
        return cls(
            running=sum(one.running for one in given),
            waiting=sum(one.waiting for one in given),
            pages_held=sum(one.pages.held for one in given),
            pages_made=sum(one.pages.made for one in given),
            evicted=sum(one.pages.evicted for one in given),
            preempted=sum(one.preempted for one in given),
            tokens_read=sum(one.tokens_read for one in given),
        )
