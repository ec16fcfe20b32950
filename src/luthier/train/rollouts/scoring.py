"""The scorers of a rollout, asked each at its time; what they say is written down as it comes.

Those that wait for other processes or the network are asked in a thread of their own while answers are still drawn: of
all groups that have ended since it was asked last. What they say of an answer hangs on nothing beside it, so it does
not matter which those are. The journal is written by the thread that draws, alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from luthier.train.rollouts.drawn import Group
from luthier.train.rollouts.journal import Journal
from luthier.train.rollouts.judging import Judging, Said, When
from luthier.train.rollouts.measures import Clock


class Scoring:
    """Use as a context manager: leaving it ends the thread."""

    def __init__(self, judging: Judging, journal: Journal, clock: Clock) -> None:
        self._judging, self._journal, self._clock = judging, journal, clock
        self._waiting: list[Group] = []
        self._asked: tuple[list[Group], Future[Said]] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="scoring") if judging.names("meanwhile") else None

    def ended(self, group: Group) -> None:
        """All answers to a prompt are there."""
        began = time.perf_counter()
        self._now("each", [group])
        if self._thread is not None:
            self._waiting += self._open("meanwhile", [group])
            if self._asked is None or self._asked[1].done():
                self._heard()
                self._ask()
        self._clock.scoring += time.perf_counter() - began

    def finish(self, groups: Sequence[Group]) -> None:
        """All answers of these groups are there: come back when all scorers have said their word."""
        began = time.perf_counter()
        self._heard()
        while self._waiting:
            self._ask()
            self._heard()
        self._now("all", groups)
        self._clock.scoring += time.perf_counter() - began

    def _open(self, when: When, groups: Sequence[Group]) -> list[Group]:
        """Those of which the journal does not hold the word of each scorer that is asked then."""
        names = self._judging.names(when)
        return [g for g in groups if not all(names <= self._journal.said(g.place, i) for i in range(len(g.answers)))]

    def _now(self, when: When, groups: Sequence[Group]) -> None:
        open_ = self._open(when, groups)
        if open_:
            self._write(open_, self._judging.asked(when, open_))

    def _ask(self) -> None:
        if self._thread is not None and self._waiting:
            groups, self._waiting = self._waiting, []
            self._asked = groups, self._thread.submit(self._judging.asked, "meanwhile", groups)

    def _heard(self) -> None:
        """What was asked for in the thread, once it is there."""
        if self._asked is not None:
            groups, said = self._asked
            self._asked = None
            self._write(groups, said.result())

    def _write(self, groups: Sequence[Group], said: Said) -> None:
        for group, of_group in zip(groups, said, strict=True):
            for index, parts in enumerate(of_group):
                self._journal.judged(group.place, index, parts)

    def __enter__(self) -> Scoring:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
