"""Telegram Desktop's export as JSON (`result.json`), of one chat or of a whole account."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from luthier.data.exports.chat import Chat, Kind, Message
from luthier.data.exports.json_export import content, name, objects, text
from luthier.data.reading.materials import Tell
from luthier.errors import LuthierError
from luthier.types import Source

MEDIA = ("photo", "file", "media_type", "sticker_emoji", "poll", "location_information", "contact_information", "game")
KIND = re.compile(
    r'"type":\s*"(?:personal_chat|bot_chat|saved_messages|(?:private|public)_(?:group|supergroup|channel))"'
)
"""What a chat is, as older exports say it, too."""
BOT = re.compile(r"bot$", re.IGNORECASE)
"""Telegram lets no bot take a user name that does not end so; people put it into the names shown, too."""


@dataclass(frozen=True, kw_only=True)
class Telegram(Chat):
    """Telegram Desktop's `result.json`. Of an account with several chats, `chat` picks one."""

    chat: str | None = None
    """The name of the chat, where the file holds several."""

    endings: ClassVar = (".json",)
    instants: ClassVar = True

    @classmethod
    def recognises(cls, path: Path, start: str) -> bool:
        keys = ('"date_unixtime"', '"from_id"', '"text_entities"')
        account = '"personal_information"' in start and '"chats"' in start
        typed = KIND.search(start) is not None and '"type"' in start and ('"from"' in start or '"actor"' in start)
        return account or ('"messages"' in start and (typed or sum(key in start for key in keys) >= 2))

    def messages(self, files: Sequence[Path], tell: Tell) -> Iterator[Message]:
        (file,) = files
        chat = self._chat(content(file, "Telegram"), file)
        bots = str(chat.get("type", "")) == "bot_chat"
        for number, given in enumerate(objects(chat.get("messages"), str(file), "`messages`"), 1):
            yield _message(given, Source(str(file), number), bots)

    def _chat(self, export: Any, file: Path) -> Mapping[str, Any]:
        """The chat that is meant. Raises LuthierError."""
        if not isinstance(export, Mapping):
            raise LuthierError("the file is no Telegram export", where=str(file), fix="export the chat as JSON")
        if "messages" in export:
            return export
        held = export.get("chats")
        chats = objects(held.get("list") if isinstance(held, Mapping) else None, str(file), "`chats.list`")
        found = [chat for chat in chats if self.chat is not None and chat.get("name") == self.chat]
        if len(found) == 1:
            return found[0]
        known = ", ".join(
            f"{chat.get('name') or 'without a name'} ({len(chat.get('messages') or ()):,})" for chat in chats[:20]
        )
        what = (
            "no chat is"
            if self.chat and not found
            else "several chats are"
            if found
            else "it is not said which chat is"
        )
        raise LuthierError(
            f"{what} meant{f' by {self.chat!r}' if self.chat else ''}; chats and their messages: {known}",
            where=str(file),
            fix="set `chat:` beside `me:`, or export that chat alone",
        )


def _message(given: Mapping[str, Any], place: Source, bots: bool) -> Message:
    speaker = name(given.get("from") or given.get("actor")) or name(given.get("from_id")) or "deleted account"
    words, command = _words(given.get("text"))
    reply = given.get("reply_to_message_id")
    return Message(
        _time(given),
        speaker,
        words,
        _kind(given, speaker, words, command, bots),
        None if reply is None else str(reply),
        place,
        name(given.get("id")),
    )


def _kind(given: Mapping[str, Any], speaker: str, words: str, command: bool, bots: bool) -> Kind:
    if given.get("type") == "service":
        return "call" if given.get("action") == "phone_call" else "notice"
    theirs = bots and str(given.get("from_id", "")).startswith("user") and BOT.search(speaker) is not None
    if given.get("via_bot") or theirs or BOT.search(speaker) or command:
        return "bot"
    if given.get("forwarded_from") is not None or "saved_from" in given or "forwarded_from_id" in given:
        return "forward"
    if not words.strip():
        return "media" if any(given.get(key) for key in MEDIA) else "deleted"
    return "said"


def _words(given: Any) -> tuple[str, bool]:
    """The text of a message, which may be in parts, without what it quotes; is it but a command to a bot?"""
    if isinstance(given, str):
        return given, bool(re.fullmatch(r"/\w+(@\w+)?", given.strip()))
    parts = given if isinstance(given, list) else []
    said = [
        part if isinstance(part, str) else text(part.get("text"))
        for part in parts
        if isinstance(part, str) or (isinstance(part, Mapping) and part.get("type") != "blockquote")
    ]
    kinds = {part.get("type") for part in parts if isinstance(part, Mapping)}
    plain = "".join(part for part in parts if isinstance(part, str))
    return "".join(said), kinds == {"bot_command"} and not plain.strip()


def _time(given: Mapping[str, Any]) -> float | None:
    stamp = given.get("date_unixtime")
    if isinstance(stamp, str | int | float) and not isinstance(stamp, bool):
        try:
            return float(stamp)
        except ValueError:
            pass  # an older export: its date is a clock's
    try:
        read = datetime.fromisoformat(text(given.get("date")))
    except ValueError:
        return None
    return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()


__all__ = ["Telegram"]
