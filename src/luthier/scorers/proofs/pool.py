"""Checkers kept open between proofs: each lent to one thread at a time, and put away when it is worn or broken."""

from __future__ import annotations

import atexit
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from luthier.scorers.proofs.checker import CheckerFailed, Claim, Verdict
from luthier.scorers.proofs.ide import Overrun, Session
from luthier.scorers.proofs.launch import Limits

T = TypeVar("T")
Job = tuple[Claim, str]
"""A claim and a response that is to prove it."""
Opener = Callable[[str, str | None, Path, Limits], tuple[Session, int]]
HEADERS = 4
"""Headers with sessions kept open, the last ones used."""


def cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Pool:
    """Sessions under the same limits, by the header they have loaded. Belongs to the process that made it."""

    def __init__(self, limits: Limits, opener: Opener) -> None:
        self.limits, self._opener = limits, opener
        self._lock = threading.Lock()
        self._idle: dict[str, list[tuple[Session, int]]] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="luthier-proofs-")
        self._owner = os.getpid()
        atexit.register(self.close)

    @contextmanager
    def borrowed(self, header: str, where: str | None) -> Iterator[tuple[Session, int]]:
        """A session with this header loaded, and the state to work from and to leave it in.

        It comes back unless it is worn, or something went wrong in it.
        """
        session, state = self._take(header) or self._opened(header, where)
        kept = False
        try:
            yield session, state
            kept = session.alive and not session.worn
        finally:
            if kept:
                self._give(header, session, state)
            else:
                session.close()

    def close(self) -> None:
        """End every session that is not lent."""
        with self._lock:
            idle, self._idle = self._idle, {}
        if os.getpid() != self._owner:  # a forked child has the list, not the sessions
            return
        for sessions in idle.values():
            for session, _ in sessions:
                session.close()

    def _opened(self, header: str, where: str | None) -> tuple[Session, int]:
        folder = Path(tempfile.mkdtemp(dir=self._folder.name))
        try:
            return self._opener(header, where, folder, self.limits)
        except Overrun as error:  # no proof has been near it yet
            raise CheckerFailed(f"the header cannot be loaded: {error}") from error

    def _take(self, header: str) -> tuple[Session, int] | None:
        with self._lock:
            if os.getpid() != self._owner:
                self._idle, self._owner = {}, os.getpid()
            sessions = self._idle.get(header)
            return sessions.pop() if sessions else None

    def _give(self, header: str, session: Session, state: int) -> None:
        with self._lock:
            kept = self._idle.pop(header, [])
            self._idle[header] = [*kept, (session, state)]
            old = list(self._idle)[: -HEADERS or None]
            gone = [one for name in old for one, _ in self._idle.pop(name)]
        for one in gone:
            one.close()


def spread(check: Callable[[Sequence[T]], list[Verdict]], jobs: Sequence[T], at_once: int) -> list[Verdict]:
    """Check many on all cores, at most `at_once` by one call; equal jobs once. A LuthierError comes through.

    Where a checker fails, so have all jobs of that call.
    """

    def part_of(part: Sequence[T]) -> list[Verdict]:
        try:
            return check(part)
        except CheckerFailed as error:
            return [Verdict("failed", str(error))] * len(part)

    once = list(dict.fromkeys(jobs))
    size = max(1, min(at_once, -(-len(once) // cores())))
    parts = [once[start : start + size] for start in range(0, len(once), size)]
    with ThreadPoolExecutor(max(1, min(cores(), len(parts)))) as threads:
        found = dict(zip(once, (one for part in threads.map(part_of, parts) for one in part), strict=True))
    return [found[job] for job in jobs]
