"""Files of conversations, a row each: who spoke with which model, what was said when, what the user did about it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast, get_args

from luthier.data.ledger import Ledger
from luthier.data.reading.folders import find
from luthier.data.reading.formats.shape import BadRow, Row, kind, listed, truth
from luthier.data.reading.formats.turns import OPENAI, turn
from luthier.data.reading.sources import READERS, suffix
from luthier.errors import LuthierError
from luthier.recipe.engagement import Engagement, Event, moment
from luthier.types import Source

EVENTS: tuple[Event, ...] = get_args(Event)
NEEDED = ("user", "conversation", "messages")
SAID = ("role", "content", "name", "tool_calls", "tool_call_id")
"""What of a message becomes part of a row. Other keys may tell who the user is, and stay in the log."""
ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True)
class Message:
    """One message. `said`: as rows have it; `mended`: as the user rewrote it, where the log says so."""

    role: str
    said: Mapping[str, Any]
    time: float | None = None
    events: frozenset[str] = frozenset()
    mended: str | None = None

    @property
    def answers(self) -> bool:
        """Is it a response to the user, and not a call of a tool?"""
        return self.role == "assistant" and not self.said.get("tool_calls")

    @property
    def kept(self) -> Mapping[str, Any]:
        """What stands in the conversation from then on."""
        return self.said if self.mended is None else {**self.said, "content": self.mended}


@dataclass(frozen=True)
class Conversation:
    """One conversation. `ended`: the log says that it is over."""

    user: str
    messages: tuple[Message, ...]
    model: str
    ended: bool
    source: Source

    @property
    def timed(self) -> bool:
        """Is it known when its messages were written?"""
        return self.messages[0].time is not None


def conversations(paths: Sequence[str], keys: Engagement, ledger: Ledger) -> Iterator[Conversation]:
    """The conversations of these files and folders, in order. What cannot be read is dropped into the ledger.

    Raises LuthierError for files that cannot be read, a log without a single row, columns that no row could do
    without, and for two rows of one conversation.
    """
    seen: dict[str, Source] = {}
    for path in paths:
        rows = (
            (Source(str(file), number), row) for file in find(path).paths for number, row in READERS[suffix(file)](file)
        )
        first = next(rows, None)
        if first is None:
            raise LuthierError("the log is empty: no rows", where=path, fix="put at least one conversation into it")
        _check_columns(first[1], keys, first[0])
        for source, row in itertools.chain([first], rows):
            ledger.read(path)
            try:
                name, conversation = _read(row, keys, source, ledger)
            except BadRow as fault:
                ledger.drop(path, source, str(fault), fault.fix)
                continue
            if name in seen:
                raise LuthierError(
                    f"the conversation {name!r} stands in two rows, the first at {seen[name]}",
                    where=str(source),
                    fix="put all messages of a conversation into one row, and give each conversation a name of its own",
                )
            seen[name] = source
            ledger.keep(path)
            yield conversation


def ends(paths: Sequence[str], keys: Engagement) -> float | None:
    """When the log ends, in seconds since 1970: `until`, or its last message; None where no message has a time.

    Raises LuthierError for messages that were written later than `until`.
    """
    latest, where = max(
        ((one.messages[-1].time, one.source) for one in conversations(paths, keys, Ledger()) if one.timed),
        key=lambda found: cast(float, found[0]),
        default=(None, None),
    )
    if keys.until is None:
        return latest
    end = moment(keys.until)
    assert end is not None  # its type has looked
    if latest is not None and latest > end:
        raise LuthierError(
            f"a message was written after the log's end (until={keys.until})",
            where=str(where),
            fix="give the time at which the log was taken, or leave `until` out",
        )
    return end


def _check_columns(row: Any, keys: Engagement, source: Source) -> None:
    """Raises LuthierError where the first row lacks what every row needs."""
    if not isinstance(row, Mapping):
        raise LuthierError("the row is no object with columns", where=str(source), fix="write a conversation a row")
    columns = cast(Mapping[str, str], keys.columns)
    lacking = [name for name in NEEDED if columns.get(name, name) not in row]
    lacking += [name for name in columns if name not in NEEDED and columns[name] not in row and name != "ended"]
    if lacking:
        wanted = f"; a log of conversations needs {', '.join(NEEDED)}"
        given = f", and none is {columns.get(lacking[0], lacking[0])!r}"
        raise LuthierError(
            f"the columns are {', '.join(map(str, row))}{given if lacking[0] in columns else wanted}",
            where=str(source),
            fix=f"say which column is {lacking[0]!r}: columns.{lacking[0]}=YOUR_COLUMN",
        )


def _read(row: Any, keys: Engagement, source: Source, ledger: Ledger) -> tuple[str, Conversation]:
    """A row as its conversation's name and the conversation. Raises BadRow."""
    if not isinstance(row, Mapping):
        raise BadRow("the row is no object with columns")
    columns = cast(Mapping[str, str], keys.columns)
    renamed = {ours: row[theirs] for ours, theirs in columns.items() if theirs in row}
    row = {**{name: value for name, value in row.items() if name not in columns}, **renamed}
    read = tuple(_message(each, keys, source, ledger) for each in listed(row, "messages"))
    times = [message.time for message in read]
    if any(time is None for time in times) and any(time is not None for time in times):
        raise BadRow("some of the messages have a time, and others none")
    known = [time for time in times if time is not None]
    if known != sorted(known):
        raise BadRow("the messages are not in the order of their times", "sort them, or mend the times")
    ended = row.get("ended") is not None and truth(row["ended"], "ended")
    model = _name(row, "model") if row.get("model") is not None else "unnamed"
    return _name(row, "conversation"), Conversation(_name(row, "user"), read, model, ended, source)


def _name(row: Row, column: str) -> str:
    """A name, which may be a number. Raises BadRow."""
    value = row.get(column)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise BadRow(f"{column!r} is {'empty' if value == '' else kind(value)}, not a name or a number")
    return str(value)


def _message(given: Any, keys: Engagement, source: Source, ledger: Ledger) -> Message:
    """One message. Raises BadRow."""
    if not isinstance(given, Mapping):
        raise BadRow(f"a message is {kind(given)}, not an object")
    said = {name: given[name] for name in SAID if given.get(name) is not None}
    read = turn(said, OPENAI)
    if read.role not in ROLES:
        raise BadRow(f"a message's role is none of {', '.join(ROLES)}")
    if read.media:
        raise BadRow("a message has images, sound or video, which rows of judged responses cannot hold yet")
    time = moment(given.get("time"))
    if given.get("time") is not None and time is None:
        raise BadRow(
            "a message's 'time' is neither a date nor seconds since 1970", "write 2026-11-01T12:00:00Z, or seconds"
        )
    events, mended = _events(given, keys, source, ledger)
    if events and read.role != "assistant":
        raise BadRow(f"a message of the role {read.role!r} was {sorted(events)[0]}: only a response can be")
    return Message(read.role, {**said, "role": read.role}, time, events, mended)


def _events(
    given: Mapping[str, Any], keys: Engagement, source: Source, ledger: Ledger
) -> tuple[frozenset[str], str | None]:
    """What the user did about a message, and the text it was edited to, where that is known. Raises BadRow."""
    if given.get("events") in (None, [], ""):
        return frozenset(), None
    ours = {keys.events.get(name, name): name for name in EVENTS}
    found, mended = set(), None
    for each in listed(given, "events"):
        name = each.get("name") if isinstance(each, Mapping) else each
        if not isinstance(name, str):
            raise BadRow("an event is neither a name nor an object with a 'name'")
        if name not in ours:
            ledger.note(f"the event {name!r} says nothing here (`events.retried={name}` would say what it is)", source)
            continue
        found.add(ours[name])
        text = each.get("text") if isinstance(each, Mapping) else None
        if ours[name] == "edited" and text is not None:
            if not isinstance(text, str):
                raise BadRow(f"the 'text' of an edit is {kind(text)}, not text")
            mended = text
    return frozenset(found), mended


__all__ = ["Conversation", "Message", "conversations", "ends"]
