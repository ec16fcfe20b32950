"""QQ and WeChat, as their exporters write them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from exported_chats import notes, talks

from luthier.data import Ledger, read
from luthier.errors import LuthierError


def test_qq_text_has_titles_accounts_placeholders_and_quotes(tmp_path: Path) -> None:
    path, ledger = tmp_path / "chat.txt", Ledger()
    path.write_text(
        "消息记录（此消息记录为文本格式，不支持重新导入）\n\n================\n消息分组:我的群\n================\n"
        "消息对象:小组\n================\n\n"
        "2026-01-02 03:04:05 【管理员】小明(10001)\n你好，\n在吗？\n\n"
        "2026-01-02 03:05:06 系统消息(10000)\n小红加入了本群\n\n"
        "2026-01-02 03:06:07 莉娜<lena@example.com>\n[回复 小明: 你好]\n在的[表情]\n\n"
        "2026-01-02 03:07:07 小明(10001)\n[图片]\n\n"
        "2026-01-02 03:08:07 莉娜<lena@example.com>\n真好看\n\n"
        "2026-01-02 03:09:07 小明(10001)\n[聊天记录]别人的话\n",
        encoding="utf-8",
    )  # fmt: skip
    assert talks(path, ledger, chat_name="qq", me="莉娜") == [[("user", "你好，\n在吗？"), ("assistant", "在的")]]
    assert notes(ledger, "notices")[0][0] == 1 and notes(ledger, "forwarded")[0][0] == 1
    with pytest.raises(LuthierError, match="qq exports it"):
        list(read(str(path)))


WECHAT = {
    "memotrace.csv": (
        ("localId", "TalkerId", "Type", "SubType", "IsSender", "CreateTime", "Status", "StrContent", "StrTime",
         "Remark"),
        [
            (1, 3, 10000, 0, 0, 1767261600, "", "你已添加了小明", "", "小明"),
            (2, 3, 1, 0, 0, 1767261660, "", "在吗？", "", "小明"),
            (3, 3, 1, 0, 1, 1767261720, "", "「小明：在吗？」\n- - - - - - - -\n在的", "", ""),
            (4, 3, 3, 0, 0, 1767261780, "", "<msg/>", "", "小明"),
            (5, 3, 49, 19, 0, 1767261790, "", "聊天记录", "", "小明"),
        ],
    ),
    "pywxdump.csv": (
        ("id", "MsgSvrID", "type_name", "is_sender", "talker", "room_name", "content", "CreateTime"),
        [
            (1, 1, "系统通知", 0, "小明", "小明", '{"src": "", "msg": "你已添加了小明"}', "2026-01-01 10:00:00"),
            (2, 2, "文本", 0, "小明", "小明", '{"src": "", "msg": "在吗？"}', "2026-01-01 10:01:00"),
            (3, 3, "文本", 1, "我", "小明", '{"src": "", "msg": "在的"}', "2026-01-01 10:02:00"),
            (4, 4, "图片", 0, "小明", "小明", "[图片]", "2026-01-01 10:03:00"),
            (5, 5, "合并转发", 0, "小明", "小明", "聊天记录", "2026-01-01 10:04:00"),
        ],
    ),
    "memotrace_zh.csv": (
        ("消息ID", "类型", "发送人", "时间", "内容", "备注"),
        [
            (1, "系统消息", "系统", "2026-01-01 10:00:00", "你已添加了小明", ""),
            (2, "文本", "小明", "2026-01-01 10:01:00", "在吗？", ""),
            (3, "文本", "me", "2026-01-01 10:02:00", "在的", ""),
            (4, "图片", "小明", "2026-01-01 10:03:00", "x.jpg", ""),
            (5, "合并转发", "小明", "2026-01-01 10:04:00", "聊天记录", ""),
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WECHAT)
def test_wechat_reads_the_tables_of_its_exporters(name: str, tmp_path: Path) -> None:
    path, ledger = tmp_path / name, Ledger()
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([WECHAT[name][0], *WECHAT[name][1]])
    assert talks(path, ledger, chat_name="wechat", me="me") == [[("user", "在吗？"), ("assistant", "在的")]]
    for words in ("notices", "pictures, sounds", "forwarded"):
        assert notes(ledger, words)[0][0] == 1
    with pytest.raises(LuthierError, match="wechat exports it"):
        list(read(str(path)))


def test_wechat_reads_weflows_json(tmp_path: Path) -> None:
    def said(mine: int, text: str, kind: str = "文本消息", sender: str = "wxid_1") -> dict[str, Any]:
        return {
            "createTime": 1767261600 + len(rows), "type": kind, "content": text, "isSend": mine,
            "senderUsername": sender, "senderDisplayName": "小明",
        }  # fmt: skip

    rows: list[dict[str, Any]] = []
    for mine, text, more in (
        (0, "在吗？", {}), (1, "在的", {}), (0, "[转账] ¥1", {"kind": "转账"}), (0, "推送", {"sender": "gh_1"}),
        (0, "撤回了一条消息", {"kind": "系统消息"}),
    ):  # fmt: skip
        rows.append(said(mine, text, **more))
    path = tmp_path / "chat.json"
    path.write_text(json.dumps({"weflow": {}, "session": {}, "messages": rows}, ensure_ascii=False), encoding="utf-8")
    assert talks(path, chat_name="wechat", me="me") == [[("user", "在吗？"), ("assistant", "在的")]]
