"""What a request is answered, on its way from the engine's thread to its client."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable

from luthier.serve.faults import ApiFault
from luthier.types import Piece

Told = tuple[int, Piece]
"""The number of the prompt, and a piece of an answer to it."""
BOUND = 256
"""Pieces that may lie unread; a client that leaves more for too long is given up."""


class Outbox:
    """Lives on the event loop: the engine's thread hands in what it has through `call_soon_threadsafe`."""

    def __init__(self, patience: float, give_up: Callable[[], None]) -> None:
        """`give_up` is called when it has been full for `patience` seconds."""
        self._pieces: deque[Told] = deque()
        self._fault: ApiFault | None = None
        self._news = asyncio.Event()
        self._patience, self._give_up = patience, give_up
        self._full_since: float | None = None

    def put(self, pieces: Iterable[Told]) -> None:
        """More of the answers."""
        self._pieces.extend(pieces)
        self._news.set()
        if len(self._pieces) <= BOUND:
            return
        now = time.monotonic()
        self._full_since = self._full_since or now
        if now - self._full_since > self._patience and self._fault is None:
            self.fail(ApiFault(408, "the answer was left unread for too long"))
            self._give_up()

    def fail(self, fault: ApiFault) -> None:
        """Nothing more will come but this."""
        self._fault = fault
        self._news.set()

    async def take(self) -> list[Told]:
        """All that has come since the last time, when there is something. Raises ApiFault where the request failed."""
        await self._news.wait()
        self._news.clear()
        if self._fault is not None:
            raise self._fault
        pieces, self._full_since = list(self._pieces), None
        self._pieces.clear()
        return pieces
