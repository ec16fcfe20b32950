"""WeChat's chats, as its exporters write them: WeChatMsg/MemoTrace and PyWxDump tables (csv), WeFlow's JSON."""

from __future__ import annotations

import json
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

TABLES = {
    "memotrace": {"IsSender", "CreateTime", "StrContent", "Type"},
    "memotrace_zh": {"类型", "发送人", "时间", "内容"},
    "pywxdump": {"type_name", "is_sender", "talker", "CreateTime"},
}
"""Exporters → columns by which their tables are known."""
SELF = "me"
"""Whoever exported the chat, where the table has no name for that person."""
TEXTS = ("1", "文本", "文字", "文本消息", "引用消息", "引用回复", "text", "49_57")
NOTICES = ("10000", "10002", "系统消息", "系统通知", "拍一拍", "拍一拍消息", "撤回消息")
FORWARDS = (
    "合并转发",
    "聊天记录",
    "合并转发的聊天记录",
    "聊天记录合并转发",
    "图文消息",
    "小程序分享",
    "分享链接",
    "卡片式链接",
    "公众号消息",
    "小程序",
    "49_19",
    "49_5",
)
CALLS = ("50", "语音通话", "视频通话", "音视频通话", "通话消息")
BOTS = ("gh_", "weixin", "notifymessage", "filehelper", "newsapp", "微信团队", "服务通知")
"""How accounts of programs begin."""
QUOTE = re.compile(r"^「[^「」]{1,60}[:：].*?」\s?\n(?:[-—] ?){4,}\s?\n", re.DOTALL)
QUOTED_BELOW = re.compile(r"(?:\n引用[:：]|\[引用\s).*$", re.DOTALL)
PLACEHOLDER = re.compile(
    r"\[(?:图片|表情包?|动画表情|语音|视频|文件|位置|名片|链接|转账|红包|微信红包|语音通话|视频通话|小程序)[^\[\]\n]{0,60}\]"
)


@dataclass(frozen=True, kw_only=True)
class WeChat(Chat):
    """A chat of WeChat, out of WeChatMsg (MemoTrace), PyWxDump or WeFlow. Who exported it may be called `me`."""

    endings: ClassVar = (".csv", ".json")
    instants: ClassVar = True

    @classmethod
    def recognises(cls, path: Path, start: str) -> bool:
        if ending(path) == ".csv":
            return _table(re.split(r"[,\r\n]", start.partition("\n")[0].replace('"', ""))) is not None
        return '"isSend"' in start and '"createTime"' in start and '"messages"' in start

    def messages(self, files: Sequence[Path], tell: Tell) -> Iterator[Message]:
        (file,) = files
        if ending(file) == ".json":
            export = content(file, "WeFlow")
            given = export.get("messages") if isinstance(export, Mapping) else None
            for number, each in enumerate(objects(given, str(file), "`messages`"), 1):
                yield _of_json(each, Source(str(file), number))
            return
        for line, row in read_csv(file):
            table = _table(list(row))
            if table is None:
                raise LuthierError(
                    f"no known exporter of WeChat writes these columns: {', '.join(row)}",
                    where=f"{file}:{line}",
                    fix="export the chat as csv from WeChatMsg (MemoTrace) or PyWxDump, or as JSON from WeFlow",
                )
            yield READERS[table](row, Source(str(file), line))


def _table(columns: Sequence[str]) -> str | None:
    return next((name for name, needed in TABLES.items() if needed <= {column.strip() for column in columns}), None)


def _memotrace(row: Mapping[str, Any], place: Source) -> Message:
    mine = str(row["IsSender"]).strip() in ("1", "True", "true")
    account = name(row.get("Sender"))
    shown = name(row.get("Remark")) or name(row.get("NickName")) or account
    kind = str(row["Type"]).strip()
    if kind == "49":
        kind = f"49_{row.get('SubType', '')}"
    speaker = SELF if mine else shown or "the other"
    return _made(row["CreateTime"], speaker, account, kind, str(row["StrContent"]), place)


def _memotrace_zh(row: Mapping[str, Any], place: Source) -> Message:
    speaker = name(row["发送人"])
    return _made(row["时间"], speaker, speaker, str(row["类型"]).strip(), str(row["内容"]), place)


def _pywxdump(row: Mapping[str, Any], place: Source) -> Message:
    mine = str(row["is_sender"]).strip() == "1"
    talker = name(row["talker"]) or "the other"
    words = str(row.get("msg", row.get("content", "")))
    if words.lstrip().startswith("{"):
        try:
            held = json.loads(words)
        except json.JSONDecodeError:
            held = None  # somebody wrote a brace
        words = text(held.get("msg")) if isinstance(held, Mapping) and "msg" in held else words
    return _made(row["CreateTime"], SELF if mine else talker, talker, str(row["type_name"]).strip(), words, place)


def _of_json(row: Mapping[str, Any], place: Source) -> Message:
    account = name(row.get("senderUsername"))
    shown = name(row.get("senderDisplayName")) or account
    speaker = SELF if row.get("isSend") in (1, True) else shown or "the other"
    return _made(row.get("createTime"), speaker, account, text(row.get("type")), text(row.get("content")), place)


READERS = {"memotrace": _memotrace, "memotrace_zh": _memotrace_zh, "pywxdump": _pywxdump}


def _made(time: Any, speaker: str, account: str, kind: str, words: str, place: Source) -> Message:
    words = QUOTED_BELOW.sub("", QUOTE.sub("", words, count=1))
    left = PLACEHOLDER.sub("", words).strip()
    return Message(_time(time, place), speaker, left, _kind(account or speaker, kind, left), None, place)


def _kind(account: str, kind: str, words: str) -> Kind:
    if account.startswith(BOTS):
        return "bot"
    if kind in NOTICES or re.fullmatch(r".{0,40}撤回了一条消息", words):
        return "notice"
    if kind in FORWARDS:
        return "forward"
    if kind in CALLS:
        return "call"
    return "said" if kind in TEXTS and words and not words.startswith("<?xml") else "media"


def _time(given: Any, place: Source) -> float:
    """Seconds since 1970, or a clock's date. Raises LuthierError."""
    written = str(given).strip()
    if re.fullmatch(r"\d{9,13}", written):
        return float(written) / (1000 if len(written) > 11 else 1)
    try:
        return datetime.fromisoformat(written.replace("/", "-")).replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise LuthierError(
            f"the time of a message is {written!r}, neither seconds since 1970 nor a date",
            where=str(place),
            fix="export the chat again, or mend that row",
        ) from None


__all__ = ["WeChat"]
