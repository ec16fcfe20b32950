"""One HTTP exchange over ASGI: the body within its limits, the answer whole or as events, and a client that leaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from typing import Any, TypeVar

from luthier.serve.faults import ApiFault
from luthier.serve.settings import Settings

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
T = TypeVar("T")
SWALLOWED = 16
"""Of a body that is too large so many times the limit is read and dropped, so that its sender hears why it failed."""
LONG = 20_000
"""Bytes from which a body is read, rendered and tokenised beside the event loop."""
CROWDED = "luthier.crowded"
"""In the scope of a request that came on a connection beyond the limit."""
GONE = 499
"""The status in the log of a request whose client left."""


class Left(Exception):
    """The client is gone: nobody hears what is said now."""


class Exchange:
    """A request and its answer."""

    def __init__(self, scope: Mapping[str, Any], receive: Receive, send: Send, settings: Settings) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers: dict[str, str] = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        self.settings = settings
        self.status = 0
        """Of the answer; 0 while none has begun."""
        self.note = ""
        """What the log says beside it."""
        self._receive, self._send = receive, send
        self._gone: asyncio.Task[None] | None = None

    # what the client says
    async def body(self) -> bytes:
        """The whole body. Raises ApiFault where it is too large (413) or too slow (408), Left where it breaks off."""
        kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise ApiFault(415, f"the body must be application/json, not {kind[:60] or 'of no type'}")
        try:
            async with asyncio.timeout(self.settings.patience):
                return await self._body()
        except TimeoutError:
            raise ApiFault(408, "the body took too long to come", headers={"connection": "close"}) from None

    async def pass_over(self) -> None:
        """Read and drop the body, within its limits: who still sends when it is answered may not hear why."""
        try:
            async with asyncio.timeout(self.settings.patience):
                await self._body()
        except (TimeoutError, ApiFault):
            return

    async def _body(self) -> bytes:
        most, size, parts = self.settings.body, 0, []
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise Left
            size += len(message.get("body", b""))
            if size <= most:
                parts.append(message.get("body", b""))
            more = message.get("more_body", False)
            if size > most and (not more or size > SWALLOWED * most):
                raise ApiFault(413, f"the body has more than {most} bytes", headers={"connection": "close"})
            if not more:
                return b"".join(parts)

    async def while_there(self, work: Awaitable[T]) -> T:
        """What `work` gives. It is cancelled, and Left raised, when the client leaves; and after the time limit, with
        ApiFault (504)."""
        if self._gone is None:
            self._gone = asyncio.create_task(self._leaves())
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait({task, self._gone}, timeout=self.settings.seconds, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            if self._gone.done():
                raise Left
            raise ApiFault(504, f"the request took more than {self.settings.seconds:g} seconds", code="timeout")
        finally:
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _leaves(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    # what it is told
    async def json(self, content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """An answer of JSON."""
        await self.whole(json.dumps(content).encode(), "application/json", status, headers)

    async def whole(self, body: bytes, kind: str, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """An answer of any kind."""
        await self._start(status, {"content-type": kind, "content-length": str(len(body)), **(headers or {})})
        await self._send({"type": "http.response.body", "body": b"" if self.method == "HEAD" else body})

    async def events(self, events: AsyncIterator[Any]) -> None:
        """Server-sent events, each an object; the stream begins with the first, so that a fault before it has a status.

        A fault after it is an event of its own, after which the stream ends.
        """
        first = await anext(events)
        await self._start(
            200, {"content-type": "text/event-stream", "cache-control": "no-store", "x-accel-buffering": "no"}
        )
        try:
            await self._event(first)
            async for event in events:
                await self._event(event)
            tail = b"data: [DONE]\n\n"
        except ApiFault as fault:
            tail = b"data: " + fault.body + b"\n\n"
        await self._send({"type": "http.response.body", "body": tail})

    async def _event(self, event: Any) -> None:
        data = b"data: " + json.dumps(event).encode() + b"\n\n"
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def fail(self, fault: ApiFault) -> None:
        """The answer of a request that is not answered; nothing where an answer has begun."""
        if not self.status:
            await self.whole(fault.body, "application/json", fault.status, fault.headers)

    async def close(self) -> None:
        """Nothing is watched any more."""
        if self._gone is not None and not self._gone.done():
            self._gone.cancel()
            await asyncio.gather(self._gone, return_exceptions=True)

    async def _start(self, status: int, headers: Mapping[str, str]) -> None:
        self.status = status
        pairs = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": pairs})


async def beside(size: int, work: Callable[..., T], *args: Any) -> T:
    """What `work` gives: on another thread where a body is long, so that nobody else waits for it."""
    return await asyncio.to_thread(work, *args) if size > LONG else work(*args)
