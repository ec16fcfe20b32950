"""WhatsApp's text export, as phones write it in many countries.

    [31.12.23, 22:15:03] Lena: Hello            iOS
    12/31/23, 10:15 PM - Lena: Hello            Android
    2023/12/31 下午10:15 - Lena: Hello

Invisible marks of direction, narrow spaces before PM, and lines that go on a message are part of the format.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from luthier.data.exports.chat import Chat, Kind, Message
from luthier.data.exports.clock import HALF, Order, day, hour, instant, order_of, possible
from luthier.data.reading.materials import Tell
from luthier.data.reading.text_files import lines
from luthier.errors import LuthierError

MARKS = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")
"""Characters that only say in which direction to write."""
HEAD = re.compile(
    rf"""\[?\s*(?P<a>\d{{1,4}})\s?(?P<separator>[./年년-])\s?(?P<b>\d{{1,2}})
    \s?[./月월-]\s?(?P<c>\d{{1,4}})[.日일]?
    (?:\s?[,،]|\s(?:at|um|à|às|kl\.?|klo|o|om))?\s*
    (?P<before>{HALF})?\s?(?P<h>\d{{1,2}})[:.](?P<m>\d{{2}})(?:[:.](?P<s>\d{{2}}))?
    (?:\s?(?P<after>{HALF}))?
    (?:\]\s?|\s[-–]\s|,\s(?=[^:]+\s:\s))""",
    re.VERBOSE,
)
"""Date and time before a message."""
LONGEST = 90
"""Characters in which a head ends."""
MEDIA = re.compile(
    r"<(?:attached|anhang|adjunto|pièce jointe|anexado|allegato|附件|添付ファイル|첨부)\s?[:：][^<>\n]{1,200}>"
    r"|<(?:media omitted|medien ausgeschlossen|multimedia omitido|médias omis|mídia oculta|media omessi|"
    r"media weggelaten|без медиафайлов|省略多媒体文件|省略多媒體檔案|媒體檔案已略去|媒体文件已省略|多媒体文件已省略|"
    r"省略影音内容|省略影音內容|メディアは含まれていません|미디어 파일을 제외한 대화내용|"
    r"[^<>\n]{0,25}(?:omitted|omitid[oa]|omis|ausgeschlossen))>"
    r"|\u200e?\b(?:image|video|audio|sticker|gif|document|contact card|bild|foto|imagen|imagem|immagine|"
    r"vidéo|documento|dokument)\s(?:omitted|weggelassen|omitid[oa]|omess[oa]|absente?|ocultad[oa])\b"
    r"|\u200e(?:图片|影片|视频|圖片|語音|语音|貼圖|贴图)(?:已忽略|已略去|省略)"
    r"|(?<!\S)[^\s/]{1,120}\.(?:jpe?g|png|webp|mp4|opus|m4a|mp3|pdf|vcf|docx?|gif)\s\((?:file attached|datei angehängt|"
    r"archivo adjunto|fichier joint|arquivo anexado|file allegato|文件附件|檔案已附加)\)",
    re.IGNORECASE,
)
EDITED = re.compile(
    r"\u200e?<(?:this message was edited|diese nachricht wurde bearbeitet|se editó este mensaje[^<>]{0,40}|"
    r"ce message a été modifié|mensagem editada|此消息已编辑|這則訊息已編輯)[.]?>",
    re.IGNORECASE,
)
DELETED = re.compile(
    r"(?:this message was deleted|you deleted this message|diese nachricht wurde gelöscht|"
    r"du hast diese nachricht gelöscht|se eliminó este mensaje|eliminaste este mensaje|ce message a été supprimé|"
    r"mensagem apagada|essa mensagem foi apagada|questo messaggio è stato eliminato|此消息已删除|你已刪除此訊息|"
    r"这条消息已删除|這則訊息已刪除|此訊息已刪除|您已删除此消息)[.。]?",
    re.IGNORECASE,
)
CALL = re.compile(
    r"(?:missed|verpasster?|silenced)\s.{0,40}(?:call|anruf)|(?:voice|video) call\b.*|未接(?:语音|視訊|视频|語音)", re.I
)
NOTICE = re.compile(
    r"end-to-end encrypted|ende-zu-ende-verschlüsselt|cifrad[oa]s de extremo a extremo|chiffrés de bout en bout|"
    r"端到端加密|端對端加密|security code (?:with|changed)|sicherheitsnummer|"
    r"^(?:you|du|\S.{0,60}) (?:changed the (?:subject|group)|changed this group|created (?:the )?group|"
    r"added |removed |joined using|left$|hat die gruppe|hat den (?:betreff|namen)|changed their phone)",
    re.IGNORECASE,
)
WAITING = re.compile(r"(?:waiting for this message|正在等待此消息)[^\n]{0,60}", re.IGNORECASE)
"""Stands for a message that has not come."""
OPENING = '"“„«'


@dataclass(frozen=True)
class _Head:
    """What stands before a message, and what is behind it on its line."""

    line: int
    parts: tuple[str, str, str]
    clock: tuple[int, int, int]
    halves: bool
    separator: str
    rest: str


@dataclass(frozen=True, kw_only=True)
class WhatsApp(Chat):
    """WhatsApp's export of a chat as text (`_chat.txt`, `WhatsApp Chat with ….txt`)."""

    dates: Literal["auto", "dmy", "mdy", "ymd"] = "auto"
    """The order of day, month and year. auto: by the evidence of the whole file."""

    endings: ClassVar = (".txt",)

    @classmethod
    def recognises(cls, path: Path, text: str) -> bool:
        read = [line for line in text.splitlines()[:200] if line.strip()]
        heads = [head for line in read if (head := _head(0, line))]
        return len(heads) >= 2 and _head(0, read[0]) is not None and any(": " in head.rest for head in heads)

    def messages(self, files: Sequence[Path], tell: Tell) -> Iterator[Message]:
        (file,) = files
        found: list[tuple[_Head, list[str]]] = []
        for number, line in lines(file):
            head = _head(number, line)
            if head is not None:
                found.append((head, [head.rest]))
            elif found:
                found[-1][1].append(line)
            elif line.strip():
                raise _no_export(f"{file}:{number}")
        if not found:
            raise _no_export(str(file))
        order = self._order([head for head, _ in found], file, tell)
        for head, said in found:
            date = day(head.parts, order)
            time = instant(date, head.clock) if date else None
            speaker, text, kind = _parted("\n".join(said))
            yield Message(time, speaker, text, kind, line=head.line)

    def _order(self, heads: Sequence[_Head], file: Path, tell: Tell) -> Order:
        if self.dates != "auto":
            wrong = next((head for head in heads if day(head.parts, self.dates) is None), None)
            if wrong is None:
                return self.dates
            raise LuthierError(
                f"{'/'.join(wrong.parts)} is no day in the order {self.dates}",
                where=f"{file}:{wrong.line}",
                fix="leave `dates` out, or name the order in which this phone writes day (d), month (m) and year (y)",
            )
        order = order_of([head.parts for head in heads], heads[0].separator, any(head.halves for head in heads))
        if order is None:
            odd = next((head for head in heads if possible(head.parts) != possible(heads[0].parts)), heads[0])
            raise LuthierError(
                "the dates of this chat are written in different orders: no one order makes days of all of them",
                where=f"{file}:{odd.line}",
                fix="export the chat from one phone; put parts from different phones into files of their own",
            )
        named = {"dmy": "day before month", "mdy": "month before day", "ymd": "year first"}
        tell(f"{file}: its dates are read with the {named[order]} (`dates:` says otherwise)", None)
        return order


def _head(number: int, line: str) -> _Head | None:
    """The head with which a line begins, None where it goes on a message."""
    kept = [place for place, letter in enumerate(line[:LONGEST]) if letter not in MARKS]
    if not kept or not (line[kept[0]].isdigit() or line[kept[0]] == "["):
        return None
    found = HEAD.match("".join(line[place] for place in kept))
    if found is None or not possible((found["a"], found["b"], found["c"])):
        return None
    half = found["before"] or found["after"]
    clock = (hour(int(found["h"]), half), int(found["m"]), int(found["s"] or 0))
    if instant((2000, 1, 1), clock) is None:
        return None
    parts = (found["a"], found["b"], found["c"])
    return _Head(number, parts, clock, bool(half), found["separator"], line[kept[found.end() - 1] + 1 :])


def _bare(text: str) -> str:
    return "".join(letter for letter in text if letter not in MARKS).strip()


def _parted(said: str) -> tuple[str, str, Kind]:
    """Speaker, text and kind of what stands behind a head."""
    first, _, _ = said.partition("\n")
    name, colon, _ = first.partition(": ")
    if not colon and first.endswith(":"):
        name, colon = first[:-1], ":"
    speaker = _bare(name).removeprefix("~").strip()
    quoted = any(mark in speaker for mark in OPENING)
    if not colon or not speaker or len(speaker) > 80 or quoted or NOTICE.search(_bare(name) + " "):
        return "", _bare(said), "notice"
    text = said[len(name) + len(colon) :].strip()
    marked, bare = text.startswith("\u200e"), _bare(EDITED.sub("", text))
    if NOTICE.search(bare) and (marked or "end-to-end" in bare):
        return "", bare, "notice"
    if DELETED.fullmatch(bare):
        return speaker, "", "deleted"
    if (marked and CALL.match(bare)) or (CALL.fullmatch(bare) and len(bare) < 40):
        return speaker, "", "call"
    words = _bare(MEDIA.sub("", EDITED.sub("", text)))
    if not words or bare == "null" or WAITING.fullmatch(bare):
        return speaker, "", "media"
    if marked and not MEDIA.search(text):
        return "", bare, "notice"
    return speaker, words, "said"


def _no_export(where: str) -> LuthierError:
    return LuthierError(
        "the file is no WhatsApp export: no date and time stand before its first message",
        where=where,
        fix="export the chat as text (Export chat, without media) and give that file as it is",
    )


__all__ = ["WhatsApp"]
