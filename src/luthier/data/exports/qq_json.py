"""QQ's chats as QQ Chat Exporter writes them (JSON): QQ's newer programs save no text any more."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from luthier.data.exports.chat import Kind, Message
from luthier.data.exports.json_export import content, name, objects, text
from luthier.errors import LuthierError
from luthier.types import Source

FORWARDS = ("forward", "json", "share", "long_message")
"""Parts of messages that pass on what somebody else wrote."""
CALLS = ("av_record",)
BOTS = ("markdown", "inline_keyboard", "action_bar", "recommended_msg")
"""Parts that only programs send."""
PLACEHOLDER = re.compile(r"\[(?:图片|文件|视频|语音|表情|回复消息)[^\[\]\n]{0,200}\]")
KEYS = ('"metadata"', '"chatInfo"', '"statistics"')


def recognises(start: str) -> bool:
    """Does an export begin like this?"""
    return all(key in start for key in KEYS)


def messages(file: Path) -> Iterator[Message]:
    """The messages of an export. Raises LuthierError."""
    export = content(file, "QQ Chat Exporter")
    given = export.get("messages") if isinstance(export, Mapping) else None
    for number, each in enumerate(objects(given, str(file), "`messages`"), 1):
        yield _message(each, Source(str(file), number))


def _message(given: Mapping[str, Any], place: Source) -> Message:
    sender, said = given.get("sender"), given.get("content")
    sender = sender if isinstance(sender, Mapping) else {}
    said = said if isinstance(said, Mapping) else {}
    parts = [one for one in said.get("elements") or () if isinstance(one, Mapping)]
    kinds = {text(one.get("type")) for one in parts}
    speaker = name(sender.get("name")) or name(sender.get("uin")) or name(sender.get("uid"))
    words = _words(parts) if parts else PLACEHOLDER.sub("", text(said.get("text"))).strip()
    key = name(given.get("id")) or name(given.get("messageId"))
    return Message(_time(given, place), speaker, words, _kind(given, kinds, words), _answered(parts), place, key)


def _kind(given: Mapping[str, Any], kinds: set[str], words: str) -> Kind:
    if given.get("system") is True or given.get("isSystemMessage") is True or given.get("type") == "system":
        return "notice"
    if given.get("recalled") is True or given.get("isRecalled") is True:
        return "deleted"
    for of_kind, kind in ((CALLS, "call"), (FORWARDS, "forward"), (BOTS, "bot")):
        if kinds & set(of_kind):
            return kind  # type: ignore[return-value]
    return "said" if words else "media"


def _words(parts: list[Mapping[str, Any]]) -> str:
    """What was written: texts, and who was spoken to; not what is quoted, pictures or faces."""
    found = []
    for one in parts:
        data = one.get("data")
        data = data if isinstance(data, Mapping) else {}
        if one.get("type") == "text":
            found.append(text(data.get("text")))
        elif one.get("type") == "at":
            found.append(f"@{name(data.get('name'))} ")
    return "".join(found).strip()


def _answered(parts: list[Mapping[str, Any]]) -> str | None:
    """The message that this one answers."""
    for one in parts:
        data = one.get("data")
        if one.get("type") == "reply" and isinstance(data, Mapping):
            return name(data.get("referencedMessageId")) or name(data.get("messageId")) or None
    return None


def _time(given: Mapping[str, Any], place: Source) -> float:
    """Milliseconds since 1970, or a date with its zone. Raises LuthierError."""
    stamp = given.get("timestamp")
    if isinstance(stamp, int | float) and not isinstance(stamp, bool):
        return float(stamp) / 1000
    try:
        read = datetime.fromisoformat(text(stamp) or text(given.get("time")))
    except ValueError:
        raise LuthierError(
            f"the time of a message is {stamp!r}, neither milliseconds since 1970 nor a date",
            where=str(place),
            fix="export the chat again as JSON",
        ) from None
    return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()


__all__ = ["messages", "recognises"]
