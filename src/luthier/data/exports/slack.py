"""Slack's workspace export, unpacked: a folder for each channel, in it a file for each day."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from luthier.data.exports.chat import Chat, Kind, Message
from luthier.data.exports.json_export import content, name, objects, text
from luthier.data.reading.materials import Tell
from luthier.errors import LuthierError
from luthier.types import Source

DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
SPOKEN = ("", "thread_broadcast", "me_message", "file_share")
"""Subtypes of messages that somebody wrote; the others are notices."""
MARKUP = re.compile(r"<([^<>\s|][^<>|]*)(?:\|([^<>]*))?>")
QUOTE = re.compile(r"^(?:>|&gt;).*(?:\n|$)", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Slack(Chat):
    """A folder of Slack's export (a channel, or all). A thread is a conversation of its own."""

    endings: ClassVar = (".json",)
    instants: ClassVar = True
    threads: ClassVar = True

    @classmethod
    def recognises(cls, path: Path, start: str) -> bool:
        return DAY.fullmatch(path.stem) is not None and '"ts"' in start and '"type"' in start

    def gather(self, files: Sequence[Path]) -> list[tuple[Path, tuple[Path, ...]]]:
        """The days of a channel belong together. Other files of an export list users and channels."""
        channels: dict[Path, list[Path]] = {}
        for file in files:
            if DAY.fullmatch(file.stem):
                channels.setdefault(file.parent, []).append(file)
        if not channels:
            raise LuthierError(
                "no file is named by its day, as those of Slack's export are (2026-11-01.json)",
                where=str(files[0]) if files else None,
                fix="unpack Slack's export and give the folder of a channel, or the whole",
            )
        return [(folder, tuple(sorted(days))) for folder, days in sorted(channels.items())]

    def messages(self, files: Sequence[Path], tell: Tell) -> Iterator[Message]:
        known = _users(files[0].parent)
        for file in files:
            for number, given in enumerate(objects(content(file, "Slack"), str(file), "the file"), 1):
                yield _message(given, Source(str(file), number), known)


def _users(channel: Path) -> dict[str, str]:
    """Names by id, of the list beside the channels (or in their folder)."""
    found = next((file for folder in (channel, channel.parent) if (file := folder / "users.json").is_file()), None)
    if found is None:
        return {}
    names = {}
    for user in objects(content(found, "Slack"), str(found), "the file"):
        profile = user.get("profile")
        names[name(user.get("id"))] = _shown(profile if isinstance(profile, Mapping) else {}) or name(user.get("name"))
    return names


def _shown(profile: Mapping[str, Any]) -> str:
    return name(profile.get("display_name")) or name(profile.get("real_name"))


def _message(given: Mapping[str, Any], place: Source, known: Mapping[str, str]) -> Message:
    user, profile = name(given.get("user")), given.get("user_profile")
    shown = _shown(profile) if isinstance(profile, Mapping) else ""
    speaker = known.get(user) or shown or user or name(given.get("username"))
    words = _words(text(given.get("text")), known)
    stamp, root = name(given.get("ts")), name(given.get("thread_ts"))
    try:
        time = float(stamp)
    except ValueError:
        raise LuthierError("a message has no time (`ts`)", where=str(place), fix="export the channel again") from None
    return Message(time, speaker, words, _kind(given, words), root if root and root != stamp else None, place, stamp)


def _kind(given: Mapping[str, Any], words: str) -> Kind:
    subtype = text(given.get("subtype"))
    if subtype == "bot_message" or given.get("bot_id"):
        return "bot"
    if subtype == "tombstone" or given.get("hidden"):
        return "deleted"
    if subtype not in SPOKEN or given.get("type") != "message":
        return "call" if subtype == "huddle_thread" else "notice"
    shared = given.get("attachments")
    forwarded = isinstance(shared, list) and any(isinstance(one, Mapping) and one.get("is_share") for one in shared)
    if not words:
        return "forward" if forwarded else "media"
    return "said"


def _words(given: str, known: Mapping[str, str]) -> str:
    """Slack's marks as words: <@U1> is a name, <http://…|shown> what is shown; quoted lines are another's."""

    def plain(found: re.Match[str]) -> str:
        what, shown = found[1], found[2]
        if what.startswith("@"):
            return "@" + (known.get(what[1:]) or shown or what[1:])
        if what.startswith(("#", "!")):
            return (what[0] if what[0] == "#" else "@") + (shown or what[1:])
        return shown or what.removeprefix("mailto:")

    return html.unescape(MARKUP.sub(plain, QUOTE.sub("", given))).strip()


__all__ = ["Slack"]
