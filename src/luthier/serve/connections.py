"""uvicorn, told to do three things otherwise: close connections that ask nothing, tell those that are too many so in
the API's own words, and let requests end before it does."""

from __future__ import annotations

import asyncio
import time
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from luthier.serve.api.exchange import CROWDED
from luthier.serve.house import House


def patient(seconds: float, most: int) -> type[H11Protocol]:
    """Connections on which something must be asked within so many seconds, at once and again.

    Beyond `most` of them a newcomer is one too many as long as it lasts, and the application is told so; those that
    were let in before are not touched by it. Of the surplus so many are heard at a time, further ones hung up on.
    """
    inside: set[H11Protocol] = set()
    surplus: set[H11Protocol] = set()

    class Patient(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._late = self.loop.call_later(seconds, self._give_up)
            if len(inside) < most:
                inside.add(self)
                return
            surplus.add(self)
            self.app = _crowded(self.app)
            if len(surplus) > most:
                self._give_up()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._late.cancel()
            elif self._late.cancelled() and self.conn.trailing_data[0]:
                self._late = self.loop.call_later(seconds, self._give_up)

        def connection_lost(self, exc: Exception | None) -> None:
            self._late.cancel()
            inside.discard(self)
            surplus.discard(self)
            super().connection_lost(exc)

        def _give_up(self) -> None:
            self.transport.close()

    return Patient


def _crowded(app: Any) -> Any:
    """The application for a connection that is one too many."""

    async def told(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, CROWDED: True}, receive, send)

    return told


class Listening(uvicorn.Server):
    """Told to stop, it lets what runs end: first the requests, within their time, then the connections."""

    def __init__(self, config: uvicorn.Config, house: House) -> None:
        super().__init__(config)
        self._house, self._since = house, 0.0

    async def startup(self, sockets: Any = None) -> None:
        self._house.worker.start(asyncio.get_running_loop())
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._house.draining:  # told twice: at once
            self.should_exit = self.force_exit = True
        self._house.draining = True

    async def on_tick(self, counter: int) -> bool:
        if self._house.draining:
            self._since = self._since or time.monotonic()
            late = time.monotonic() - self._since > self._house.settings.drain
            self.should_exit = self.should_exit or late or not self._house.active
        return await super().on_tick(counter)

    async def shutdown(self, sockets: Any = None) -> None:
        await asyncio.to_thread(self._house.worker.stop)
        self._house.worker.abandon()
        await super().shutdown(sockets)
