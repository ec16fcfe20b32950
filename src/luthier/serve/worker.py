"""The one thread that owns the model: it takes requests on, brings them forward step by step, and hands pieces out."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from luthier.errors import LuthierError
from luthier.machine import give_back
from luthier.serve import faults
from luthier.serve.asked import Asked
from luthier.serve.faults import ApiFault
from luthier.serve.metrics import Metrics
from luthier.serve.outbox import Outbox, Told
from luthier.serve.readings import Part, Reading
from luthier.serve.settings import Settings
from luthier.types import Request

if TYPE_CHECKING:
    from luthier.engines.local.ticket import Ticket

SPEED_KEPT = 0.9
"""How much of the old is kept in the running mean of tokens per second."""
RESTS = 5.0
"""Seconds without work after which freed memory goes back to the system: adapters and prompts of many sizes leave gaps
that malloc keeps."""


class Worker:
    """Owns the engine. What stands under "from the loop" is called on the event loop's thread, the rest on its own."""

    def __init__(self, engine: Any, settings: Settings, metrics: Metrics) -> None:
        """`engine`: a `LocalEngine`; None where there is nothing but a reward model."""
        self.engine, self._settings, self._metrics = engine, settings, metrics
        self._lock = threading.Condition()
        self._orders: deque[Callable[[], None]] = deque()
        self._readings: deque[Reading] = deque()
        self._read_by: set[Reading] = set()
        """Those that wait, and the one of which a part is under way."""
        self._owed = 0.0
        """Seconds that answers are brought forward for before the next part of a reading: as long as the last took."""
        self._asked: dict[Ticket, tuple[Asked, int]] = {}
        self._open: set[Asked] = set()
        self._queued = [0, 0]  # requests, tokens
        self._speed = 0.0
        self._stopping = False
        self._worked = False
        """Has anything been done since memory was given back?"""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news: dict[Asked, Sequence[Told]] = {}  # of the last step, on its way to the loop
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self.last_step = time.monotonic()
        self.fault: str | None = None
        """What the last step failed with; None after one that did not."""
        self.prepare: Callable[[str | None], None] = lambda name: None
        """Called before a request is taken on, with its adapter: to load it."""
        self.tidy: Callable[[], None] = lambda: None
        """Called when a request is over."""

    # from the loop
    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to work for this loop."""
        self._loop = loop
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its present step; for any thread. Then `abandon` on the loop's."""
        with self._lock:
            self._stopping = True
            self._lock.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def abandon(self) -> None:
        """What is open fails."""
        fault = ApiFault(503, "the server has stopped")
        for asked in list(self._open):
            asked.outbox.fail(fault)
        for reading in list(self._read_by):
            self._close_reading(reading)
            reading.future.set_exception(fault)

    @property
    def alive(self) -> bool:
        """Does its thread run?"""
        return self._thread.is_alive()

    @property
    def busy(self) -> bool:
        """Is there anything that a client waits for?"""
        with self._lock:
            return bool(self._open or self._orders or self._read_by)

    def submit(self, requests: Sequence[Request], *, whole: bool = False) -> Asked:
        """Hand a client's request in; of one that is to be told as a `whole` the loop hears once. Raises ApiFault (429)
        where too much is waiting already."""
        cost = sum(len(one.prompt) + one.n * one.sampling.max_new_tokens for one in requests)
        self._queue(cost)
        outbox = Outbox(self._settings.patience, lambda: self.cancel(asked, "slow"))
        asked = Asked(requests, cost, outbox, time.monotonic(), whole)
        self._open.add(asked)
        self._order(lambda: self._begin(asked))
        return asked

    def cancel(self, asked: Asked, reason: str = "left") -> None:
        """Nobody waits for this any more."""
        if asked.over:
            return
        self._metrics.count("cancelled", reason=reason)
        self._order(lambda: self._end(asked))

    async def do(self, parts: Sequence[Part], adapter: str | None = None) -> list[Any]:
        """What parts give that need the model to themselves. Each is done between two steps, and they are in the queue
        until they are; `adapter` is not thrown out meanwhile. Whoever is cancelled here leaves what was not begun.

        Raises ApiFault (429) where too much is waiting already, and whatever a part raises.
        """
        reading = Reading(deque(parts), adapter)
        self._queue(reading.cost)
        with self._lock:
            self._readings.append(reading)
            self._read_by.add(reading)
            self._lock.notify()
        try:
            return await asyncio.wrap_future(reading.future)
        except asyncio.CancelledError:
            if self._close_reading(reading):
                self._metrics.count("cancelled", reason="left")
                self.tidy_up()
            raise

    def gauges(self) -> dict[str, float]:
        """What the metrics say of this moment."""
        with self._lock:
            requests, tokens = self._queued
        found = {
            "queue_requests": requests,
            "queue_tokens": tokens,
            "last_step_age_seconds": time.monotonic() - self.last_step,
        }
        if self.engine is None:
            return found
        load = self.engine.load
        return found | {
            "running": load.running,
            "waiting": load.waiting,
            "kv_pages_held": load.pages_held,
            "kv_pages_made": load.pages_made,
            "kv_bytes": load.page_bytes,
            "kv_evicted": load.evicted,
            "kv_preempted": load.preempted,
            "tokens_read": load.tokens_read,
            "adapters_in_use": load.adapters_in_use,
            "adapter_bytes": load.adapter_bytes,
        }

    def _queue(self, cost: int) -> None:
        with self._lock:
            requests, tokens = self._queued
            if requests and tokens + cost > self._settings.queue:
                wait = max(1, min(60, round(tokens / self._speed))) if self._speed else 1
                raise ApiFault(
                    429,
                    f"{requests} requests with {tokens} tokens are waiting, and the queue takes {self._settings.queue}",
                    code="queue_full",
                    headers={"retry-after": str(wait)},
                )
            self._queued = [requests + 1, tokens + cost]

    def _unqueue(self, cost: int, requests: int = 1) -> None:
        with self._lock:
            self._queued = [self._queued[0] - requests, self._queued[1] - cost]

    def _close_reading(self, reading: Reading) -> bool:
        """No part of it is begun any more; False where it was over already."""
        with self._lock:
            if reading.over:
                return False
            reading.over = True
            self._read_by.discard(reading)
            if reading in self._readings:
                self._readings.remove(reading)
            self._unqueue(reading.cost)
            return True

    def _order(self, order: Callable[[], None]) -> None:
        with self._lock:
            self._orders.append(order)
            self._lock.notify()

    # on the engine's thread
    def _run(self) -> None:
        while True:
            with self._lock:
                while not (self._orders or self._readings or self._working or self._stopping):
                    if not self._lock.wait(RESTS if self._worked else None):
                        give_back()
                        self._worked = False
                    self.last_step = time.monotonic()  # there was nothing to do until now
                if self._stopping:
                    return
                orders = list(self._orders)
                self._orders.clear()
                due = self._readings and (self._owed <= 0 or not self._working)
                reading = self._readings.popleft() if due else None
            self._worked = True
            for order in orders:
                order()
            if reading is not None:
                self._spread()
                self._read(reading)
            if self._working:
                begun = time.monotonic()
                self._step()
                self._owed -= time.monotonic() - begun
            if not self._working:
                self._spread()

    def _read(self, reading: Reading) -> None:
        """Do the next part of it; the others come after those of whoever waits, too."""
        begun = time.monotonic()
        part, failure = reading.parts[0], None
        try:
            reading.found.append(part.work())
        except BaseException as error:
            failure = error
        self.last_step = time.monotonic()
        self._owed = self.last_step - begun
        with self._lock:
            if reading.over:  # its client has left meanwhile
                return
            reading.parts.popleft()
            self._unqueue(part.cost, 0)
            if reading.parts and failure is None:
                self._readings.append(reading)
                return
            self._close_reading(reading)
        if failure is None:
            reading.future.set_result(reading.found)
        else:
            reading.future.set_exception(failure)
        self.tidy()

    @property
    def _working(self) -> bool:
        return self.engine is not None and bool(self.engine.busy)

    def in_use(self) -> set[str | None]:
        """The adapters by which somebody is answered now."""
        with self._lock:
            read_by = {reading.adapter for reading in self._read_by}
        return {ticket.request.adapter for ticket in self._asked} | read_by

    def tidy_up(self) -> None:
        """Look for adapters that may leave, before the next step."""
        self._order(self.tidy)

    def _begin(self, asked: Asked) -> None:
        try:
            for name in dict.fromkeys(request.adapter for request in asked.requests):
                self.prepare(name)
            for place, request in enumerate(asked.requests):
                ticket = self.engine.submit(request, listen=True, place=place)
                asked.tickets.append(ticket)
                self._asked[ticket] = asked, place
        except ApiFault as fault:
            self._fail(asked, fault)
        except LuthierError as error:
            self._fail(asked, faults.of(error))
        except Exception as error:
            self._fail(asked, faults.unexpected(error))
        else:
            self._metrics.count("prompt_tokens", sum(len(request.prompt) for request in asked.requests))

    def _step(self) -> None:
        begun = time.monotonic()
        try:
            told = self.engine.step(self._spread)
            self._spread()
        except Exception as error:
            self._broken(error)
            return
        self.last_step, self.fault = time.monotonic(), None
        self._metrics.took("step_seconds", self.last_step - begun)
        news: dict[Asked, list[Told]] = {}
        failed: dict[Asked, LuthierError] = {}
        for ticket in told:
            if ticket not in self._asked:
                ticket.pieces.clear()
                continue
            asked, place = self._asked[ticket]
            news.setdefault(asked, []).extend((place, piece) for piece in ticket.pieces)
            ticket.pieces.clear()
            if ticket.error is not None:
                failed[asked] = ticket.error
            if not ticket.left:
                del self._asked[ticket]
        drawn = 0
        for asked, pieces in news.items():
            drawn += len(pieces)
            self._measure(asked, pieces)
            if asked not in failed and not any(ticket.left for ticket in asked.tickets):
                self._close(asked)
        if drawn:
            self._metrics.count("generated_tokens", drawn)
            speed = drawn / max(self.last_step - begun, 1e-6)
            self._speed = SPEED_KEPT * self._speed + (1 - SPEED_KEPT) * speed if self._speed else speed
            self._news = {asked: due for asked, pieces in news.items() if (due := _due(asked, pieces))}
        for asked, reason in failed.items():
            self._fail(asked, faults.of(reason))

    def _spread(self) -> None:
        """Hand out what the last step gave: as the next one begins to read the model, which takes no Python, so that
        the two threads do not wait for each other."""
        if self._news:
            now, self._news = self._news, {}
            self._tell(lambda: _hand_out(now))

    def _measure(self, asked: Asked, pieces: Sequence[Told]) -> None:
        first = not asked.begun
        asked.drawn += len(pieces)
        self._left_queue(asked)
        if first:
            self._metrics.took("time_to_first_token_seconds", self.last_step - asked.since)
        else:
            self._metrics.took("inter_token_seconds", self.last_step - asked.last)
        asked.last = self.last_step
        cached = sum(piece.completion.cached for _, piece in pieces if piece.completion and piece.index == 0)
        if cached:
            self._metrics.count("cached_tokens", cached)

    def _broken(self, error: Exception) -> None:
        """A step has failed: so has everything that was under way. What comes next is tried anew."""
        self.fault = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"
        self._metrics.count("engine_faults")
        for asked in list(self._open):
            if asked.tickets:
                self._fail(asked, faults.unexpected(error))

    def _fail(self, asked: Asked, fault: ApiFault) -> None:
        self._end(asked)
        self._tell(lambda: asked.outbox.fail(fault))

    def _end(self, asked: Asked) -> None:
        """Its answers leave before the next step."""
        for ticket in asked.tickets:
            self._asked.pop(ticket, None)
            self.engine.cancel(ticket)
        self._close(asked)

    def _close(self, asked: Asked) -> None:
        self._left_queue(asked)
        asked.over = True
        self._open.discard(asked)
        self.tidy()

    def _left_queue(self, asked: Asked) -> None:
        if not asked.begun:
            asked.begun = True
            self._unqueue(asked.cost)

    def _tell(self, news: Callable[[], Any]) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(news)
        except RuntimeError:  # the loop is closed: nobody listens any more
            with self._lock:
                self._stopping = True


def _due(asked: Asked, pieces: Sequence[Told]) -> Sequence[Told]:
    """What a client is told now."""
    if not asked.whole:
        return pieces
    asked.held += pieces
    return asked.held if asked.over else ()


def _hand_out(news: Mapping[Asked, Sequence[Told]]) -> None:
    for asked, pieces in news.items():
        asked.outbox.put(pieces)
