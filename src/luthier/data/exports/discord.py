"""Discord's channels as DiscordChatExporter writes them: JSON, or its table (csv)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from luthier.data.exports.chat import Chat, Kind, Message
from luthier.data.exports.json_export import content, name, objects, text
from luthier.data.reading.materials import Tell, ending
from luthier.data.reading.tables import read_csv
from luthier.errors import LuthierError
from luthier.types import Source

SPOKEN = ("Default", "Reply", "0", "19", "")
"""Types of messages that somebody wrote."""
COLUMNS = ("AuthorID", "Author", "Date", "Content")
QUOTE = re.compile(r"^>{1,3} .*(?:\n|$)", re.MULTILINE)
"""Lines that quote another message."""


@dataclass(frozen=True, kw_only=True)
class Discord(Chat):
    """DiscordChatExporter's JSON or csv of a channel."""

    endings: ClassVar = (".json", ".csv")
    instants: ClassVar = True

    @classmethod
    def recognises(cls, path: Path, start: str) -> bool:
        if ending(path) == ".csv":
            first = start.partition("\n")[0]
            return all(column in first for column in COLUMNS)
        return all(key in start for key in ('"guild"', '"channel"')) and '"messages"' in start

    def messages(self, files: Sequence[Path], tell: Tell) -> Iterator[Message]:
        (file,) = files
        if ending(file) == ".csv":
            for line, row in read_csv(file):
                yield _of_table(row, file, line)
            return
        export = content(file, "DiscordChatExporter")
        given = export.get("messages") if isinstance(export, Mapping) else None
        for number, each in enumerate(objects(given, str(file), "`messages`"), 1):
            yield _message(each, Source(str(file), number))


def _message(given: Mapping[str, Any], place: Source) -> Message:
    author = given.get("author")
    author = author if isinstance(author, Mapping) else {}
    speaker = name(author.get("nickname")) or name(author.get("name")) or name(author.get("id"))
    words = _unquoted(text(given.get("content")))
    answered = given.get("reference")
    reply = name(answered.get("messageId")) if isinstance(answered, Mapping) else ""
    kind: Kind = "said"
    if str(given.get("type", "")) not in SPOKEN:
        kind = "call" if str(given.get("type")) == "Call" else "notice"
    elif author.get("isBot"):
        kind = "bot"
    elif "forwardedMessage" in given or (reply and str(given.get("type")) != "Reply" and not words):
        kind = "forward"
    elif not words:
        kind = "media"
    return Message(
        _time(given.get("timestamp"), str(place)), speaker, words, kind, reply or None, place, name(given.get("id"))
    )


def _of_table(row: Mapping[str, Any], file: Path, line: int) -> Message:
    where = f"{file}:{line}"
    absent = next((column for column in COLUMNS if column not in row), None)
    if absent:
        raise LuthierError(f"the table has no column {absent!r}", where=where, fix="export it from DiscordChatExporter")
    words = _unquoted(str(row["Content"]))
    speaker = re.sub(r"#\d{4}$", "", str(row["Author"]))
    kind: Kind = "said" if words else "media"
    return Message(_time(row["Date"], where), speaker, words, kind, None, Source(str(file), line))


def _unquoted(words: str) -> str:
    return QUOTE.sub("", words).strip()


def _time(given: Any, where: str) -> float:
    """Raises LuthierError for a time that is not ISO 8601: by it messages are put in order."""
    try:
        read = datetime.fromisoformat(text(given))
    except ValueError:
        raise LuthierError(
            f"the time {given!r} of a message is not as DiscordChatExporter writes it (2026-11-01T12:00:00.000+00:00)",
            where=where,
            fix="export the channel again as JSON",
        ) from None
    return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()


__all__ = ["Discord"]
