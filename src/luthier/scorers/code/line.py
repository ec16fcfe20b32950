"""Messages between the program's process and the tests': each a length and a value. Runs inside the sandbox."""

from __future__ import annotations

import os

from luthier.scorers.code.values import Unsayable, decode, encode

TYPE_CHECKING = False  # as typing has it: importing that takes longer than all of this
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from luthier.scorers.code.values import Own

LONGEST = 8 * 2**20
"""Bytes of one message. A longer one is refused before it takes up memory."""


class Gone(Exception):
    """The other side has ended, or what it sends is no message."""


class Line:
    """A pair of pipes. `own` and `named` say what a value that is not plain is called there and here (`values.py`)."""

    def __init__(self, read: int, write: int, own: Own, named: Callable[[bytes, int], Any]) -> None:
        self._read, self._write, self._own, self._named = read, write, own, named

    def pack(self, value: Any) -> bytes:
        """A value on its own, to be sent within a message. Raises Unsayable."""
        return encode(value, self._own)

    def unpack(self, content: bytes) -> Any:
        """What was packed. Raises Unsayable."""
        return decode(content, self._named)

    def send(self, *message: Any) -> None:
        """Raises Unsayable, with nothing sent, where a part cannot be handed over, and Gone."""
        content = self.pack(message)
        if len(content) > LONGEST:
            raise Unsayable("too long")
        content = len(content).to_bytes(4, "big") + content
        try:
            while content:
                content = content[os.write(self._write, content) :]
        except OSError:
            raise Gone("the other side has ended") from None

    def receive(self) -> tuple[Any, ...]:
        """The next message. Raises Gone, and Unsayable for one that is no value."""
        length = int.from_bytes(self._exactly(4), "big")
        if length > LONGEST:
            raise Gone("a message is too long")
        message = self.unpack(self._exactly(length))
        if type(message) is not tuple or not message or type(message[0]) is not str:
            raise Unsayable("no message")
        return message

    def _exactly(self, count: int) -> bytes:
        parts = []
        while count:
            part = os.read(self._read, min(count, 2**16))
            if not part:
                raise Gone("the other side has ended")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)
