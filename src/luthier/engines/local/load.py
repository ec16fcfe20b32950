"""How much an engine has to do, and has done: for those who watch it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from luthier.engines.local.adapters import Adapters
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
    page_bytes: int
    """What the latter take."""
    evicted: int
    """Pages whose content was forgotten because their place was needed."""
    preempted: int
    """How often an answer was put back because pages had run short."""
    tokens_read: int
    adapter_bytes: int
    adapters_in_use: int
    """Of the adapters that are served beside each other: what they take in memory, and those that answers need."""

    @classmethod
    def of(cls, schedulers: Iterable[Scheduler], adapters: Adapters | None) -> Load:
        """Of all of them together."""
        given = list(schedulers)
        return cls(
            running=sum(one.running for one in given),
            waiting=sum(one.waiting for one in given),
            pages_held=sum(one.pages.held for one in given),
            pages_made=sum(one.pages.made for one in given),
            page_bytes=sum(one.pages.made * one.reader.page_bytes for one in given),
            evicted=sum(one.pages.evicted for one in given),
            preempted=sum(one.preempted for one in given),
            tokens_read=sum(one.tokens_read for one in given),
            adapter_bytes=0 if adapters is None else adapters.held,
            adapters_in_use=0 if adapters is None else adapters.in_use,
        )
