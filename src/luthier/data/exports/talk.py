"""From messages to conversations: who is the assistant, where a conversation ends, what of it is speech.

Messages of one side in a row are one turn. A turn of nothing but pictures, calls, forwarded posts or deleted messages
cannot be read, and what answers it answers nothing that a model sees: the conversation is cut there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from luthier.data.exports.chat import Chat, Message, seconds
from luthier.data.exports.names import StandIns
from luthier.data.reading.materials import PlacedRow, Tell
from luthier.errors import LuthierError
from luthier.types import Source

CLOCK_CHANGE = 2 * 3600.0
"""A clock without a zone goes back by an hour in autumn (two, in one place); further back is another beginning."""
LISTED = 12
"""Speakers named in an error."""
LEFT_OUT = {
    "notice": "notices of the program are no speech",
    "bot": "messages of bots are left out",
    "media": "pictures, sounds and files are left out",
    "forward": "forwarded messages are left out: others said them",
    "call": "calls are left out",
    "deleted": "deleted messages have no text",
}
FIRST = "what the assistant said before anybody asked is left out"
LAST = "what nobody answered is left out"
UNREADABLE = "a conversation is cut where one turn is nothing but pictures, calls, forwards or deleted messages"


@dataclass
class Turn:
    """Messages of one side in a row."""

    mine: bool
    line: int | Source
    said: list[tuple[str, str]] = field(default_factory=list)
    """Speaker and text."""


def conversations(messages: Sequence[Message], keys: Chat, where: str, tell: Tell) -> Iterator[PlacedRow]:
    """Rows of the shape `messages`. Raises LuthierError where nobody, or the wrong one, is to be the assistant."""
    spoken = Counter(one.speaker for one in messages if one.kind not in ("notice", "bot"))
    for name in keys.bots:
        spoken.pop(name, None)
    mine = _mine(keys.me, spoken, where)
    others = [name for name in spoken if name not in mine]
    stand_ins = StandIns(others if keys.names == "stand-ins" else (), keys.salt, mine)
    _tell_of_consent(others, spoken, keys, where, tell)
    for session in _sessions(messages, keys):
        for piece in _readable(_turns(session, mine, keys, where, tell), where, tell):
            first, last = _ends(piece)
            for turns, why in ((piece[:first], FIRST), (piece[last:], LAST)):
                for turn in turns:
                    tell(why, _source(turn.line, where))
            if first < last:
                rows = [_message(turn, stand_ins, named=len(others) > 1) for turn in piece[first:last]]
                yield piece[first].line, {"messages": rows}


def _mine(wanted: Sequence[str], spoken: Counter[str], where: str) -> frozenset[str]:
    """The speakers that are the assistant. Raises LuthierError."""
    absent = [name for name in wanted if name not in spoken]
    if wanted and not absent:
        return frozenset(wanted)
    told = ", ".join(f"{name} ({count:,})" for name, count in spoken.most_common(LISTED))
    more = f" and {len(spoken) - LISTED:,} more" if len(spoken) > LISTED else ""
    if not spoken:
        raise LuthierError("nobody speaks in this chat", where=where, fix="export it again, with its messages")
    what = f"nobody here is called {absent[0]!r}" if absent else "it is not said whose turns are to be learnt"
    raise LuthierError(
        f"{what}; speakers and their messages: {told}{more}",
        where=where,
        fix=f"set `me:` to one of them, as in `me: {spoken.most_common(1)[0][0]}`; several names of one person as a "
        "list",
    )


def _tell_of_consent(others: Sequence[str], spoken: Counter[str], keys: Chat, where: str, tell: Tell) -> None:
    if not others:
        return
    count = sum(spoken[name] for name in others)
    people = f"{len(others):,} other people" if len(others) > 1 else "1 other person"
    said = "stand-ins replace their names" if keys.names == "stand-ins" else "their names stay (`names: keep`)"
    tell(
        f"{where}: {people} wrote {count:,} messages of this chat, and a model learns from them: ask whether they "
        f"agree. {said[0].upper()}{said[1:]}; what they wrote about themselves stays unless a step takes it out",
        None,
    )


def _sessions(messages: Sequence[Message], keys: Chat) -> Iterator[list[Message]]:
    """The messages, cut at silences; a thread is a session of its own."""
    for thread in _threads(messages) if keys.threads else [list(messages)]:
        if keys.instants:
            thread.sort(key=lambda one: one.time or 0.0)
        session: list[Message] = []
        before: float | None = None
        for one in thread:
            passed = one.time - before if one.time is not None and before is not None else 0.0
            if session and (passed > seconds(keys.gap) or passed < -CLOCK_CHANGE):
                yield session
                session = []
            session.append(one)
            before = one.time if one.time is not None else before
        if session:
            yield session


def _threads(messages: Sequence[Message]) -> list[list[Message]]:
    """The channel without what belongs to threads, and each thread with the message that began it."""
    roots = {one.reply_to for one in messages if one.reply_to}
    threads: dict[str, list[Message]] = {}
    for one in messages:
        threads.setdefault(one.reply_to or (one.key if one.key in roots else ""), []).append(one)
    return list(threads.values())


def _turns(session: Sequence[Message], mine: frozenset[str], keys: Chat, where: str, tell: Tell) -> list[Turn]:
    """Messages of one side in a row as one turn; what is no speech is told of."""
    turns: list[Turn] = []
    for one in session:
        kind = "bot" if one.speaker in keys.bots else one.kind
        if kind != "said":
            tell(LEFT_OUT[kind], _source(one.line, where))
        if kind in ("notice", "bot"):
            continue
        if not turns or turns[-1].mine != (one.speaker in mine):
            turns.append(Turn(one.speaker in mine, one.line))
        if kind == "said" and one.text.strip():
            turns[-1].said.append((one.speaker, one.text.strip()))
    return turns


def _readable(turns: Sequence[Turn], where: str, tell: Tell) -> Iterator[list[Turn]]:
    """The turns, cut at those that say nothing."""
    piece: list[Turn] = []
    for place, turn in enumerate(turns):
        if turn.said:
            piece.append(turn)
            continue
        if 0 < place < len(turns) - 1:
            tell(UNREADABLE, _source(turn.line, where))
        if piece:
            yield piece
        piece = []
    if piece:
        yield piece


def _ends(turns: Sequence[Turn]) -> tuple[int, int]:
    """From the first turn of the others to behind the last one of the assistant."""
    first = next((place for place, turn in enumerate(turns) if not turn.mine), len(turns))
    last = next((place + 1 for place in range(len(turns) - 1, -1, -1) if turns[place].mine), 0)
    return first, max(last, first)


def _message(turn: Turn, stand_ins: StandIns, *, named: bool) -> dict[str, Any]:
    """A turn as a message; of several other people it says who speaks."""
    lines: list[str] = []
    before = None
    for speaker, text in turn.said:
        text = stand_ins.put_into(text)
        label = f"{stand_ins.of(speaker)}: " if named and not turn.mine and speaker != before else ""
        lines.append(label + text)
        before = speaker
    return {"role": "assistant" if turn.mine else "user", "content": "\n".join(lines)}


def _source(line: int | Source, where: str) -> Source:
    return line if isinstance(line, Source) else Source(where, line)


__all__ = ["conversations"]
