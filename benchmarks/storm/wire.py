"""HTTP as one client needs it, over asyncio's streams: 500 of them fit beside the server on a small machine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any


class Broken(Exception):
    """The connection ended in the middle, or what came is no HTTP."""


class Connection:
    """Asks one thing after another; opened anew where the server has closed it, or the client has dropped it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._chunked, self._left, self._close = False, 0, False

    async def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, dict[str, str]]:
        """Status and headers of the answer; then `body` or `events`. Raises Broken."""
        content = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        request = f"{head}content-length: {len(content)}\r\n\r\n".encode() + content
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(request)
        try:
            await writer.drain()
            lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        except (OSError, asyncio.IncompleteReadError) as error:
            self.drop()
            raise Broken("no answer") from error
        pairs = (line.partition(":") for line in lines[1:] if line)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        self._chunked = headers.get("transfer-encoding") == "chunked"
        self._left = int(headers.get("content-length", 0))
        self._close = headers.get("connection") == "close"
        return int(lines[0].split()[1]), headers

    async def body(self) -> bytes:
        """The whole of it. Raises Broken."""
        return b"".join([part async for part in self._parts()])

    async def events(self) -> AsyncIterator[str]:
        """The data of each server-sent event, as soon as it is there. Raises Broken."""
        held = b""
        async for part in self._parts():
            *whole, held = (held + part).split(b"\n\n")
            for event in whole:
                if not event.startswith(b"data: "):
                    raise Broken(f"no event: {event[:80]!r}")
                yield event[6:].decode()
        if held:
            raise Broken("the stream ended within an event")

    def drop(self) -> None:
        """Leave, whatever is still to come."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    async def _parts(self) -> AsyncIterator[bytes]:
        assert self._streams is not None
        reader = self._streams[0]
        try:
            if self._chunked:
                while size := int(await reader.readuntil(b"\r\n"), 16):
                    yield await reader.readexactly(size)
                    await reader.readexactly(2)
                await reader.readexactly(2)
            else:
                yield await reader.readexactly(self._left)
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            self.drop()
            raise Broken("the answer broke off") from error
        if self._close:
            self.drop()
