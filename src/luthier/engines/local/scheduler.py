"""Continuous batching: answers come and go at every step, each token of each in one pass over the weights.

A step reads one more token of every answer under way and, beside them, a piece of the prompts that wait to be read.
When pages run short the youngest answer gives its own back and is read again later; what it draws does not change.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from luthier.engines.choice import Drawn, NoToken, choose
from luthier.engines.local.adapters import Adapters
from luthier.engines.local.pages import Pages
from luthier.engines.local.row import Row
from luthier.errors import LuthierError
from luthier.models.decode.step import OWN, PAGE, Reader, Run
from luthier.types import Piece

BESIDE, ALONE = 64, 512
"""Tokens of prompts that a step reads: beside answers under way, and where there are none."""

Told = Callable[[Row, Piece | None], None]
"""Hears of every token drawn, and of every row that cannot go on (no piece; `Row.error` says why)."""


@dataclass(frozen=True)
class Sizes:
    """At most `rows` answers are under way, in at most `pages` pages; others wait in the order in which they came."""

    rows: int
    pages: int


class Scheduler:
    """Answers under way over one reader. `step` brings all of them on by one token."""

    def __init__(self, reader: Reader, stop: Collection[int], sizes: Sizes, adapters: Adapters | None = None) -> None:
        """`adapters`: those that the reader serves beside each other."""
        self.reader, self.pages, self._adapters = reader, Pages(sizes.pages), adapters
        self._stop, self._most = frozenset(stop), sizes.rows
        self._waiting: deque[Row] = deque()
        self._running: list[Row] = []
        self.preempted = 0
        """How often an answer was put back because pages had run short."""
        self.tokens_read = 0

    @property
    def busy(self) -> bool:
        """Is there anything to do?"""
        return bool(self._waiting or self._running)

    @property
    def running(self) -> int:
        """Answers under way."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Answers not begun, or put back."""
        return len(self._waiting)

    def add(self, row: Row) -> None:
        """Let an answer wait for its turn."""
        self._waiting.append(row)

    def clear(self) -> None:
        """The weights are new: nothing that was read before is read by others; what is under way goes on."""
        self.pages.clear()
        for row in self._running:
            row.node = row.root = 0

    def rest(self) -> None:
        """Give the memory of pages back, if nothing is under way."""
        if not self.busy:
            self.pages = Pages(self.pages.most)
            self.reader.rest()

    def step(self, told: Told, meanwhile: Callable[[], None] = lambda: None) -> None:
        """One step. No answer changes while `told` listens; `meanwhile` is called before the model is read."""
        self._drop_cancelled()
        self._admit(told)
        work = self._plan()
        if not work:
            if self._waiting and self._adapters is not None:
                self._adapters.wait()
            return
        self.reader.grow(self.pages.made)
        meanwhile()
        logits_WV = self.reader.read([run for _, run in work])
        drawing = []
        for row, run in work:
            row.read += len(run.ids)
            self.tokens_read += len(run.ids)
            self._publish(row)
            if run.wanted:
                drawing.append([row])
        if not drawing:
            return
        for group in drawing:
            group += self._followers(group[0])
        place_W = torch.tensor([place for place, group in enumerate(drawing) for _ in group])
        rows = [row for group in drawing for row in group]
        if len(rows) > len(drawing):
            logits_WV = logits_WV[place_W]
        chosen = self._chosen(logits_WV, rows, told)
        pieces = [(row, row.add(drawn, self._stop)) for row, drawn in chosen]
        for row, _ in pieces:
            if row.finish is not None:
                self._leave(row)
        for row, piece in pieces:
            told(row, piece)

    def _chosen(self, logits_WV: Tensor, rows: list[Row], told: Told) -> list[tuple[Row, Drawn]]:
        """Each row's next token; rows that can have none leave."""
        try:
            return list(zip(rows, choose(logits_WV, [row.choice for row in rows]), strict=True))
        except NoToken as error:
            for place in error.rows:
                rows[place].error = error
                self._leave(rows[place])
                told(rows[place], None)
            left = [place for place in range(len(rows)) if place not in error.rows]
            return self._chosen(logits_WV[left], [rows[place] for place in left], told)

    # who is let in
    def _admit(self, told: Told) -> None:
        """Let in who waits, first come first served; who begins like one that is being read waits to share it."""
        kept: list[Row] = []
        while self._waiting and len(self._running) < self._most:
            row = self._waiting.popleft()
            row.root = self.pages.root(row.kin)
            if self._soon_shared(row) or not self._adapter_taken(row, told):
                if row.error is None:
                    kept.append(row)
                continue
            row.pages, row.node = self.pages.match(row.root, row.ids) if self.reader.shares else ([], row.root)
            row.published = len(row.pages)
            need = -(-(len(row.ids) + 1) // PAGE) - len(row.pages)
            if self._running and need + len(self._running) > self.pages.left:
                self._let_go(row)
                kept.append(row)
                break
            row.read = len(row.pages) * PAGE
            if row.cached is None:
                row.cached = max(0, row.read - row.first)
            self._running.append(row)
        self._waiting.extendleft(reversed(kept))

    def _adapter_taken(self, row: Row, told: Told) -> bool:
        """Is the row's adapter in memory, from now on for it, too? One that cannot be read is the end of the row."""
        name = row.request.adapter
        if self._adapters is None or name is None:
            return True
        try:
            number = self._adapters.take(name)
        except LuthierError as error:
            row.error = error
            told(row, None)
            return False
        row.adapter = OWN if number is None else number
        return number is not None

    def _soon_shared(self, row: Row) -> bool:
        """Is another row reading now what this one begins with, beyond what is known already?"""
        if not self.reader.shares:
            return False
        reading = [other for other in self._running if other.rest > 1 and other.root == row.root]
        if not reading:
            return False
        longest = max(_common(other.ids[: other.prompt], row.ids) for other in reading)
        whole = any(other.ids == row.ids for other in reading)  # then all of it is shared, the last page, too
        if not whole and longest < PAGE:
            return False
        pages, _ = self.pages.match(row.root, row.ids)
        self.pages.release(pages)
        return whole or longest // PAGE > len(pages)

    def _followers(self, row: Row) -> list[Row]:
        """Who waits with the very prompt that `row` has just read: they go on from where it stands."""
        if row.drawn or not self.reader.shares or not row.root:
            return []
        found: list[Row] = []
        for other in list(self._waiting):
            if len(self._running) >= self._most:
                break
            if other.kin != row.kin or other.ids != row.ids or other.cancelled:
                continue
            full = row.read // PAGE
            own = self.pages.take() if row.read % PAGE else None
            if row.read % PAGE and own is None:
                break
            self.pages.hold(row.pages[:full])
            other.pages = row.pages[:full]
            if own is not None:  # the last page is not full: each goes on in its own copy
                other.pages.append(own)
                self.reader.grow(self.pages.made)
                self.reader.copy(row.pages[full], own)
            other.node, other.published, other.read = row.node, row.published, row.read
            if other.cached is None:
                other.cached = row.prompt - row.first
            self._adapter_taken(other, _unheard)  # the one that `row` has: it is there
            self._waiting.remove(other)
            self._running.append(other)
            found.append(other)
        return found

    # what is read
    def _plan(self) -> list[tuple[Row, Run]]:
        """The runs of this step: answers first, then prompts, the oldest first, within the step's budget."""
        budget = BESIDE if any(row.rest == 1 for row in self._running) else ALONE
        work: list[tuple[Row, Run]] = []
        for row in sorted(self._running, key=lambda row: (row.rest > 1, row.arrival)):
            if row not in self._running:  # put back for the sake of one before it
                continue
            rest = row.rest
            count = rest if rest == 1 or self.reader.whole_prompts else min(rest, budget)
            if not count or not self._room(row, row.read + count):
                continue
            budget -= 0 if rest == 1 else count
            ids = row.ids[row.read : row.read + count]
            work.append((row, Run(ids, row.read, row.pages, count == rest, row.adapter, row.prompt)))
        alive = set(map(id, self._running))
        return [(row, run) for row, run in work if id(row) in alive]

    def _room(self, row: Row, length: int) -> bool:
        """See to it that a row has pages for so many tokens; False where it was itself put back."""
        while len(row.pages) * PAGE < length:
            page = self.pages.take()
            if page is not None:
                row.pages.append(page)
                continue
            youngest = max(self._running, key=lambda other: other.arrival)
            self._put_back(youngest)
            if youngest is row:
                return False
        return True

    def _put_back(self, row: Row) -> None:
        self._running.remove(row)
        self._let_go(row)
        row.read = 0
        self._waiting.appendleft(row)
        self.preempted += 1

    # pages
    def _publish(self, row: Row) -> None:
        """Full pages may be found by others from now on."""
        if not row.node or not self.reader.shares:
            return
        while (row.published + 1) * PAGE <= row.read:
            start = row.published * PAGE
            page = row.pages[row.published]
            row.node = self.pages.publish(page, row.node, row.ids[start : start + PAGE])
            row.published += 1

    def _let_go(self, row: Row) -> None:
        self.reader.release(row.pages)
        self.pages.release(row.pages)
        row.pages, row.published = [], 0
        if self._adapters is not None and row.request.adapter is not None:
            self._adapters.give(row.request.adapter)

    def _leave(self, row: Row) -> None:
        self._running.remove(row)
        self._let_go(row)

    def _drop_cancelled(self) -> None:
        if any(row.cancelled for row in self._waiting):
            self._waiting = deque(row for row in self._waiting if not row.cancelled)
        for row in [row for row in self._running if row.cancelled]:
            self._leave(row)


def _unheard(row: Row, piece: Piece | None) -> None:
    raise ValueError("an adapter in use could not be taken once more")


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of what two sequences begin with."""
    most = min(len(a), len(b))
    if a[:most] == b[:most]:
        return most
    return next(place for place in range(most) if a[place] != b[place])
