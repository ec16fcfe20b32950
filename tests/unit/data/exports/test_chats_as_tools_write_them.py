"""Chats in the forms that exporters have taken to since: written by hand after what the tools write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from exported_chats import notes, talks

from luthier.data import Ledger, read
from luthier.errors import LuthierError

TOM, LENA = {"uid": "u_1", "uin": "10001", "name": "Tom"}, {"uid": "u_2", "uin": "10002", "name": "Lena"}


def part(kind: str, **data: Any) -> dict[str, Any]:
    return {"type": kind, "data": data}


def message(number: int, sender: dict[str, str], *parts: dict[str, Any], **more: Any) -> dict[str, Any]:
    """As version 5 of QQ Chat Exporter writes it."""
    content = {"text": "not looked at", "html": "", "elements": list(parts), "resources": [], "mentions": []}
    flags = {"type": "text", "recalled": False, "system": False}
    return {
        "id": str(number),
        "timestamp": 1767261600000 + number * 60000,
        "sender": sender,
        "content": content,
        **flags,
        **more,
    }


def qq(path: Path, messages: list[dict[str, Any]]) -> Path:
    about = {
        "metadata": {"name": "QQChatExporter V5", "version": "5.0.0"},
        "chatInfo": {"name": "Tom"},
        "statistics": {},
    }
    path.write_text(json.dumps({**about, "messages": messages}, ensure_ascii=False), encoding="utf-8")
    return path


def test_qq_chat_exporter_says_who_spoke_what_is_quoted_and_what_is_no_speech(tmp_path: Path) -> None:
    given = [
        message(1, TOM, part("text", text="在吗？"), part("face", id="14", name="微笑")),
        message(2, LENA, part("reply", referencedMessageId="1", content="在吗？"), part("text", text="在的")),
        message(4, LENA, part("at", uid="u_1", name="Tom"), part("text", text="有事？")),
        message(3, LENA, part("image", filename="a.jpg")),
        message(5, TOM, part("text", text="没事"), recalled=True),
        message(6, {"uid": "", "name": "系统"}, part("system", text="Lena 修改了群名"), type="system", system=True),
        message(7, TOM, part("forward", title="聊天记录"), type="forward"),
        message(8, TOM, part("av_record", summary="语音通话"), type="type_19"),
        message(9, TOM, part("text", text="再见")),
        message(10, LENA, part("text", text="再见！")),
    ]
    path, ledger = qq(tmp_path / "chat.json", given), Ledger()
    (talk,) = talks(path, ledger, chat_name="qq", me="Lena", names="keep")
    assert talk == [
        ("user", "在吗？"),
        ("assistant", "在的\n@Tom 有事？"),
        ("user", "再见"),
        ("assistant", "再见！"),
    ]
    assert notes(ledger, "forward") and notes(ledger, "call") and notes(ledger, "deleted")
    with pytest.raises(LuthierError, match="seems to be a chat as qq exports it"):
        list(read(str(path)))


def test_version_four_of_it_had_dates_and_other_names(tmp_path: Path) -> None:
    given = [
        {
            "messageId": "1",
            "timestamp": "2026-01-01T10:00:00.000Z",
            "sender": TOM,
            "content": {"text": "[回复消息]a?[图片:x.jpg]"},
        },
        {"messageId": "2", "timestamp": "2026-01-01T10:01:00.000Z", "sender": LENA, "content": {"text": "b!"}},
        {
            "messageId": "3",
            "timestamp": "2026-01-01T10:02:00.000Z",
            "sender": TOM,
            "isSystemMessage": True,
            "content": {"text": "c"},
        },
    ]
    path = qq(tmp_path / "chat.json", given)
    assert talks(path, chat_name="qq", me="Lena") == [[("user", "a?"), ("assistant", "b!")]]
    given[1]["timestamp"] = "yesterday"
    with pytest.raises(LuthierError, match=r"chat.json:2: the time of a message is 'yesterday'"):
        talks(qq(path, given), chat_name="qq", me="Lena")


def test_whatsapp_in_chinese_leaves_media_out_and_says_what_was_deleted(tmp_path: Path) -> None:
    path = tmp_path / "chat.txt"
    lines = [
        "Tom: 在吗？",
        "Lena: 在的",
        "Tom: <省略影音内容>",
        "Tom: 这条消息已删除",
        "Tom: 正在等待此消息",
        "Tom: 好",
        "Lena: 行",
    ]
    path.write_text("".join(f"2025/12/22 12:{10 + i} - {line}\n" for i, line in enumerate(lines)), encoding="utf-8")
    (talk,) = talks(path, chat_name="whatsapp", me="Lena")
    assert talk == [("user", "在吗？"), ("assistant", "在的"), ("user", "好"), ("assistant", "行")]
    path.write_text("[6/7/25 22:44:26] Tom: a?\n[6/7/25 22:45:26] Lena: b\n", encoding="utf-8")  # no comma
    assert talks(path, chat_name="whatsapp", me="Lena") == [[("user", "a?"), ("assistant", "b")]]


def test_an_older_export_of_telegram_is_known_by_what_the_chat_is(tmp_path: Path) -> None:
    said = [("Tom", "yo?"), ("Lena", [{"type": "plain", "text": "hi"}])]
    messages = [
        {"id": i, "type": "message", "date": f"2020-12-29T10:0{i}:00", "from": who, "text": words}
        for i, (who, words) in enumerate(said)
    ]
    path = tmp_path / "result.json"
    path.write_text(json.dumps({"name": "Tom", "type": "personal_chat", "id": 1, "messages": messages}, indent=1))
    assert talks(path, chat_name="telegram", me="Lena") == [[("user", "yo?"), ("assistant", "hi")]]
    with pytest.raises(LuthierError, match="seems to be a chat as telegram exports it"):
        list(read(str(path)))
