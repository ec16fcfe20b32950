"""What all chat exports share: a message, and the keys by which a chat becomes conversations."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator

from luthier.data.reading.materials import Material, PlacedRow, Tell
from luthier.recipe.keys import listed
from luthier.types import Source

Kind = Literal["said", "notice", "media", "forward", "bot", "call", "deleted"]
"""What a message is. Only what is said becomes part of a conversation."""
SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, slots=True)
class Message:
    """One message. `time`: seconds since 1970, of a clock without a zone as if it were UTC."""

    time: float | None
    speaker: str
    text: str
    kind: Kind = "said"
    reply_to: str | None = None
    """The `key` of the message that it answers."""
    line: int | Source = 0
    key: str = ""


def seconds(gap: str) -> float:
    """A span of time such as 6h, 90m or 2d. Raises ValueError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|min|m|h|d)\s*", gap)
    if found is None or float(found[1]) == 0:
        raise ValueError(f"{gap!r} is no span of time: write 6h, 90m or 2d")
    return float(found[1]) * SECONDS[found[2]]


def _span(gap: str) -> str:
    seconds(gap)
    return gap


Names = Annotated[tuple[str, ...], BeforeValidator(listed)]


@dataclass(frozen=True, kw_only=True)
class Chat(Material):
    """A chat export. The turns of `me` are the assistant's, all others' are the user's."""

    me: Names = ()
    """Whose turns the assistant learns, as the export names them; several names of one person as a list."""
    gap: Annotated[str, AfterValidator(_span)] = "6h"
    """A silence longer than this ends a conversation."""
    names: Literal["stand-ins", "keep"] = "stand-ins"
    """What becomes of the other people's names, as speakers and in texts."""
    salt: str = "luthier"
    """Draws the stand-ins: the same name has the same one in all files. Set one of your own and keep it to yourself."""
    bots: Names = ()
    """Speakers whose messages are left out, beside those that the export calls bots."""

    instants: ClassVar[bool] = False
    """Are times instants, by which messages are put in order? A clock without a zone goes back once a year."""
    threads: ClassVar[bool] = False
    """Is a message with its replies a conversation of its own?"""
    gives: ClassVar[str] = "conversations, cut at silences; consecutive messages are one turn"

    @abstractmethod
    def messages(self, files: Sequence[Path], tell: Tell) -> Iterator[Message]:
        """The messages as the export has them, in its order. Raises LuthierError."""

    def read(self, files: Sequence[Path], tell: Tell) -> Iterator[PlacedRow]:
        from luthier.data.exports.talk import conversations

        where = str(files[0] if len(files) == 1 else files[0].parent)
        return conversations(list(self.messages(files, tell)), self, where, tell)


__all__ = ["Chat", "Kind", "Message", "Names", "seconds"]
