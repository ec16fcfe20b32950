"""QQ's text export (消息记录), of one chat or of all of them in one file; or the JSON of QQ Chat Exporter (qq_json.py).

2024-01-02 03:04:05 【管理员】Alice(10001)
first line
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from luthier.data.exports import qq_json
from luthier.data.exports.chat import Chat, Kind, Message
from luthier.data.exports.clock import HALF, day, hour, instant
from luthier.data.reading.materials import Tell, ending
from luthier.data.reading.text_files import lines
from luthier.errors import LuthierError

HEAD = re.compile(
    rf"(\d{{4}})[-/](\d{{1,2}})[-/](\d{{1,2}}) (?:({HALF})\s?)?(\d{{1,2}}):(\d{{2}}):(\d{{2}})(?: ({HALF}))?(?: (.*))?"
)
TITLE = re.compile(r"【[^】]{1,12}】")
"""What a member of a group is called beside the name."""
ACCOUNT = re.compile(r"\((\d{5,})\)$|<([^<>\s]+@[^<>\s]+)>$")
SYSTEM = ("10000", "1000000", "80000000")
"""Accounts of the program: notices, and whoever speaks unnamed."""
PLACEHOLDER = re.compile(
    r"\[(?:图片|表情|语音|视频|文件|动画表情|闪照|自定义表情|位置|名片|QQ红包|红包|戳一戳|音乐|分享|卡片消息|小程序|链接|合并转发)[^\[\]\n]{0,60}\]"
)
FORWARD = re.compile(r"\[(?:聊天记录|合并转发|转发)[^\[\]]{0,40}\]|^\[?转发\]?[:：]")
QUOTE = re.compile(r"^\[回复[^\]\n]*\].*?(?:\n|$)|^「[^」]*」\s?\n(?:[-—] ?){4,}\s?\n", re.DOTALL)
NOTICE = re.compile(
    r"(?:加入(?:了)?(?:本群|群聊)|退出(?:了)?(?:本群|群聊)|撤回了一条消息|被管理员(?:禁言|解除)|修改(?:了)?群名|开启了匿名)"
)
HEADINGS = ("消息记录", "消息分组", "消息对象", "====")


@dataclass(frozen=True, kw_only=True)
class QQ(Chat):
    """QQ's message manager, saved as text; of a file with several chats, `chat` picks one (消息对象). Or the JSON of QQ
    Chat Exporter."""

    chat: str | None = None
    """The chat (消息对象) that is meant, where the file holds several."""

    endings: ClassVar = (".txt", ".json")

    @classmethod
    def recognises(cls, path: Path, start: str) -> bool:
        if ending(path) == ".json":
            return qq_json.recognises(start)
        return start.lstrip().startswith(("消息记录（此消息记录为文本格式", "消息分组:", "消息对象:"))

    def messages(self, files: Sequence[Path], tell: Tell) -> Iterator[Message]:
        (file,) = files
        if ending(file) == ".json":
            yield from sorted(qq_json.messages(file), key=lambda one: one.time or 0.0)
            return
        chats: dict[str, list[tuple[Message, list[str]]]] = {}
        current = ""
        for number, line in lines(file):
            if line.startswith("消息对象"):
                current = re.split("[:：]", line, maxsplit=1)[-1].strip()
                continue
            if line.startswith(HEADINGS):
                continue
            head = HEAD.fullmatch(line.strip())
            if head is not None:
                chats.setdefault(current, []).append((_begun(head, number), []))
            elif chats.get(current):
                chats[current][-1][1].append(line)
            elif line.strip():
                raise LuthierError(
                    "the file is no QQ export: no date and time stand before its first message",
                    where=f"{file}:{number}",
                    fix="save the messages as text from QQ's message manager (消息管理器)",
                )
        for begun, said in self._chosen(chats, file):
            yield _whole(begun, "\n".join(said).strip())

    def _chosen(self, chats: dict[str, list[tuple[Message, list[str]]]], file: Path) -> list[tuple[Message, list[str]]]:
        if len(chats) == 1 and self.chat in (None, *chats):
            return next(iter(chats.values()))
        if self.chat in chats:
            return chats[str(self.chat)]
        known = ", ".join(f"{name} ({len(said):,})" for name, said in list(chats.items())[:20]) or "none"
        raise LuthierError(
            f"{'no chat is called ' + repr(self.chat) if self.chat else 'it is not said which chat is meant'}; "
            f"chats and their messages: {known}",
            where=str(file),
            fix="set `chat:` beside `me:` to one of them (消息对象)",
        )


def _begun(head: re.Match[str], line: int) -> Message:
    """A message whose words are still to come."""
    date = day((head[1], head[2], head[3]), "ymd")
    half = head[4] or head[8]
    time = instant(date, (hour(int(head[5]), half), int(head[6]), int(head[7]))) if date else None
    shown = TITLE.sub("", (head[9] or "").strip()).strip()
    account = ACCOUNT.search(shown)
    number = (account[1] or account[2]) if account else ""
    speaker = shown[: account.start()].strip() if account else shown
    kind: Kind = "notice" if number in SYSTEM or (speaker in ("系统消息", "") and not number) else "said"
    return Message(time, speaker or number, "", kind, line=line)


def _whole(begun: Message, words: str) -> Message:
    if begun.kind == "notice" or (NOTICE.search(words) and len(words) < 60 and "\n" not in words):
        return replace(begun, kind="notice", text=words)
    words = QUOTE.sub("", words, count=1)
    if FORWARD.search(words):
        return replace(begun, kind="forward")
    left = PLACEHOLDER.sub("", words).strip()
    return replace(begun, text=left, kind="said" if left else "media")


__all__ = ["QQ"]
