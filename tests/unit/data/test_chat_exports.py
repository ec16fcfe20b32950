"""Chats as their programs export them: who is the assistant, what is speech, where a conversation ends."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path
from typing import Any

import pytest

from luthier.data import Ledger, read
from luthier.errors import LuthierError
from luthier.recipe import Source as Entry

Talks = list[list[tuple[str, str]]]


def talks(path: Path, ledger: Ledger | None = None, **keys: Any) -> Talks:
    """The conversations of a file as pairs of role and text. The key that is no key of a chat is its name."""
    name = keys.pop("chat_name")
    found = read([Entry(path=str(path), format={name: keys})], ledger)
    return [[(t.role, t.text) for t in (*e.prompt, *(t for r in e.responses for t in r.turns))] for e in found]


def notes(ledger: Ledger, words: str) -> list[tuple[int, list[str]]]:
    return [(reason.count, reason.rows) for what, reason in ledger.notes.items() if words in what]


PHONES = {
    "ios-de": ("[31.12.25, 22:15:03] {}: {}", "[01.01.26, 00:05:00] {}: {}"),
    "ios-us": ("\u200e[12/31/25, 10:15:03\u202fPM] {}: {}", "[1/1/26, 12:05:00\u202fAM] {}: {}"),
    "android-us": ("12/31/25, 10:15\u202fPM - {}: {}", "1/1/26, 12:05\u202fAM - {}: {}"),
    "android-es": ("31/12/25, 10:15\u00a0p.\u00a0m. - {}: {}", "1/1/26, 12:05\u00a0a.\u00a0m. - {}: {}"),
    "android-zh": ("2025/12/31 下午10:15 - {}: {}", "2026/1/1 凌晨12:05 - {}: {}"),
    "ios-zh": ("[2025/12/31 晚上10:15:03] {}: {}", "[2026/1/1 上午12:05:00] {}: {}"),
    "android-ko": ("2025년 12월 31일 오후 10:15, {} : {}", "2026년 1월 1일 오전 12:05, {} : {}"),
    "android-nl": ("31-12-2025 22:15 - {}: {}", "01-01-2026 00:05 - {}: {}"),
    "android-ar": ("٣١\u200f/١٢\u200f/٢٠٢٥، ١٠:١٥ م - {}: {}", "١\u200f/١\u200f/٢٠٢٦، ١٢:٠٥ ص - {}: {}"),
}


@pytest.mark.parametrize("phone", PHONES)
def test_one_dialogue_reads_alike_from_every_phone(phone: str, tmp_path: Path) -> None:
    evening, night = PHONES[phone]
    lines = [
        evening.format("Tom", "Are you there?"),
        evening.format("Lena", "Yes!"),
        evening.format("Lena", "Just now."),
        "Behind a line of its own.",
        night.format("Tom", "Happy new year: to you"),
        night.format("Lena", "And to you"),
    ]
    path = tmp_path / "chat.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    said = [
        ("user", "Are you there?"),
        ("assistant", "Yes!\nJust now.\nBehind a line of its own."),
        ("user", "Happy new year: to you"),
        ("assistant", "And to you"),
    ]
    assert talks(path, chat_name="whatsapp", me="Lena") == [said]
    assert talks(path, chat_name="whatsapp", me="Lena", gap="105m") == [
        said[:2],
        said[2:],
    ]  # 1:49:57 and 1:50:00 passed
    assert talks(path, chat_name="whatsapp", me="Lena", gap="2h") == [said]


@pytest.mark.parametrize(
    ("dates", "order", "pieces"),
    [
        (["01/02/26", "02/02/26", "13/02/26"], "day before month", 3),  # a thirteenth is no month
        (["01/30/26", "01/31/26", "02/01/26"], "month before day", 3),
        (["03/04/26", "03/05/26", "03/06/26"], "month before day", 3),  # a month apart otherwise
        (["03/04/26", "04/04/26", "05/04/26"], "day before month", 3),
        (["02/01/26", "03/01/26", "01/02/26"], "day before month", 3),  # the order in which they run on
    ],
)
def test_day_and_month_are_told_by_the_evidence_of_the_file(
    dates: list[str], order: str, pieces: int, tmp_path: Path
) -> None:
    path, ledger = tmp_path / "chat.txt", Ledger()
    rows = [f"{date}, 10:1{i} - {who}: hello" for date in dates for i, who in enumerate(("Tom", "Lena"))]
    path.write_text("\n".join(rows), encoding="utf-8")
    assert len(talks(path, ledger, chat_name="whatsapp", me="Lena")) == pieces
    assert notes(ledger, order)


def test_dates_that_no_order_makes_days_of_are_an_error_that_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "chat.txt"
    path.write_text("31/01/26, 10:00 - Tom: a\n01/31/26, 10:00 - Lena: b\n", encoding="utf-8")
    with pytest.raises(LuthierError, match=r"chat.txt:2: the dates .* different orders"):
        talks(path, chat_name="whatsapp", me="Lena")


def test_whatsapp_notices_media_and_deleted_messages_are_no_speech(tmp_path: Path) -> None:
    head = "[31.12.25, 22:{:02}:00] "
    lines = [
        "Tom: \u200eMessages and calls are end-to-end encrypted. No one outside of this chat can read them.",
        "Tom: a question",
        "Lena: an answer \u200e<This message was edited>",
        "Tom: \u200eimage omitted",
        "Lena: so pretty",  # answers a picture that nobody sees
        "Tom: and this?",
        "Lena: \u200eThis message was deleted.",
        "Lena: good",
        "Tom: <Media omitted>",
        "Tom: look at IMG-1.jpg (file attached)",
        "Lena: I see",
        "Tom: \u200eMissed voice call",
        "Tom: ciao",
    ]
    path, ledger = tmp_path / "_chat.txt", Ledger()
    text = "\n".join(head.format(i) + line for i, line in enumerate(lines))
    path.write_text(text + "\n31.12.25, 23:00 - Lena changed the subject to “Party: now”\n", encoding="utf-8")
    assert talks(path, ledger, chat_name="whatsapp", me="Lena") == [
        [("user", "a question"), ("assistant", "an answer")],
        [("user", "and this?"), ("assistant", "good"), ("user", "look at"), ("assistant", "I see")],
    ]
    assert notes(ledger, "notices of") == [(2, [f"{path}:1", f"{path}:14"])]
    assert notes(ledger, "pictures, sounds")[0][0] == 2 and notes(ledger, "deleted messages have")[0][0] == 1
    assert notes(ledger, "is cut where") == [(1, [f"{path}:4"])]


def test_a_wrong_name_lists_the_speakers_and_an_export_is_not_taken_for_text(tmp_path: Path) -> None:
    path = tmp_path / "chat.txt"
    path.write_text("1.1.26, 10:00 - Tom: a\n1.1.26, 10:01 - Lena M: b\n1.1.26, 10:02 - Tom: c\n", encoding="utf-8")
    with pytest.raises(LuthierError, match=r"nobody here is called 'Lena'.*Tom \(2\), Lena M \(1\)"):
        talks(path, chat_name="whatsapp", me="Lena")
    with pytest.raises(LuthierError, match=r"not said whose turns are .*Tom \(2\)"):
        talks(path, chat_name="whatsapp")
    with pytest.raises(LuthierError, match=r"a chat as whatsapp exports it.*\n.*whatsapp: \{me: NAME\}"):
        list(read(str(path)))
    with pytest.raises(LuthierError, match=r"'gap'.*span of time"):
        talks(path, chat_name="whatsapp", me="Tom", gap="long")


def test_others_get_stand_ins_the_same_in_every_file_and_consent_is_asked_for(tmp_path: Path) -> None:
    lines = ["Tom Hall: hi, I am Tom", "Lena: Tom! Mark says hello", "Mark: Mark my words, Tom Hall", "Lena: yes Tommy"]
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    first.write_text("\n".join(f"1.1.26, 10:0{i} - {line}" for i, line in enumerate(lines)), encoding="utf-8")
    second.write_text("1.1.26, 10:00 - Tom Hall: hi\n1.1.26, 10:01 - Lena: Tom Hall?\n", encoding="utf-8")
    ledger = Ledger()
    (talk,) = talks(first, ledger, chat_name="whatsapp", me="Lena")
    tom, mark = talk[0][1].split(":")[0], talk[2][1].split(":")[0]
    assert tom != mark and tom.startswith("Person ") and mark.startswith("Person ")
    assert talk == [
        ("user", f"{tom}: hi, I am {tom}"),
        ("assistant", f"{tom}! Mark says hello"),  # a word as well: left to a step that finds names
        ("user", f"{mark}: Mark my words, {tom}"),
        ("assistant", "yes Tommy"),
    ]
    assert talks(second, chat_name="whatsapp", me="Lena") == [[("user", "hi"), ("assistant", f"{tom}?")]]
    assert notes(ledger, "2 other people wrote 2 messages of this chat") and notes(ledger, "ask whether they agree")
    assert talks(second, chat_name="whatsapp", me="Lena", salt="mine")[0][1][1] != f"{tom}?"
    assert talks(second, chat_name="whatsapp", me="Lena", names="keep")[0][1][1] == "Tom Hall?"


def test_a_clock_that_goes_back_in_autumn_ends_no_conversation(tmp_path: Path) -> None:
    path = tmp_path / "chat.txt"
    times = [
        ("25.10.26, 02:58", "Tom"),
        ("25.10.26, 02:59", "Lena"),
        ("25.10.26, 02:01", "Tom"),
        ("25.10.26, 02:02", "Lena"),
    ]
    path.write_text("\n".join(f"{time} - {who}: {i}" for i, (time, who) in enumerate(times)), encoding="utf-8")
    assert talks(path, chat_name="whatsapp", me="Lena", gap="30m") == [
        [("user", "0"), ("assistant", "1"), ("user", "2"), ("assistant", "3")]
    ]


def telegram(**more: Any) -> dict[str, Any]:
    return {
        "id": 1,
        "type": "message",
        "date": "2026-01-01T10:00:00",
        "from": "Tom",
        "from_id": "user1",
        "text": "",
    } | more


def test_telegram_is_read_in_order_of_instants_without_services_forwards_bots_and_quotes(tmp_path: Path) -> None:
    messages = [
        telegram(id=1, type="service", action="pin_message", actor="Tom"),
        telegram(id=3, date_unixtime="1767261720", **{"from": "Lena"}, text="Nine."),
        telegram(id=2, date_unixtime="1767261660", text=["How many? ", {"type": "bold", "text": "planets"}]),
        telegram(id=4, date_unixtime="1767261780", text="NEWS!", forwarded_from="A channel"),
        telegram(id=5, date_unixtime="1767261790", **{"from": "Lena"}, text="wow"),
        telegram(id=6, date_unixtime="1767261800", text="Sure?"),
        telegram(id=7, date_unixtime="1767261810", **{"from": "WeatherBot"}, text="It rains"),
        telegram(id=8, date_unixtime="1767261815", photo="(File not included)"),
        telegram(
            id=9, date_unixtime="1767261820", **{"from": "Lena"},
            text=[{"type": "blockquote", "text": "How many?"}, "Eight, in fact."], reply_to_message_id=2,
        ),
        telegram(id=10, date_unixtime="1767261830", text=[{"type": "bot_command", "text": "/start"}]),
    ]  # fmt: skip
    path, ledger = tmp_path / "result.json", Ledger()
    path.write_text(
        json.dumps({"name": "Tom", "type": "personal_chat", "id": 7, "messages": messages}), encoding="utf-8"
    )
    assert talks(path, ledger, chat_name="telegram", me="Lena") == [
        [("user", "How many? planets"), ("assistant", "Nine.")],
        [("user", "Sure?"), ("assistant", "Eight, in fact.")],
    ]
    assert notes(ledger, "forwarded")[0][0] == 1 and notes(ledger, "messages of bots")[0][0] == 2
    with pytest.raises(LuthierError, match="a chat as telegram exports it"):
        list(read(str(path)))


def test_of_a_telegram_account_one_chat_is_chosen(tmp_path: Path) -> None:
    chats = [
        {"name": name, "messages": [telegram(text="hi"), telegram(**{"from": "Lena"}, text=name)]} for name in "AB"
    ]
    path = tmp_path / "result.json"
    path.write_text(json.dumps({"personal_information": {}, "chats": {"list": chats}}), encoding="utf-8")
    assert talks(path, chat_name="telegram", me="Lena", chat="B") == [[("user", "hi"), ("assistant", "B")]]
    with pytest.raises(LuthierError, match=r"which chat is meant; .*A \(2\), B \(2\)"):
        talks(path, chat_name="telegram", me="Lena")


def test_discord_orders_by_instant_whatever_the_zone(tmp_path: Path) -> None:
    def said(who: str, time: str, text: str, **more: Any) -> dict[str, Any]:
        return {
            "id": time, "type": "Default", "timestamp": time, "content": text, "author": {"name": who, "isBot": False},
        } | more  # fmt: skip

    messages = [
        said("tom", "2026-10-25T02:59:00.000+02:00", "First?"),
        said("lena", "2026-10-25T02:05:00+01:00", "> First?\nSecond."),
        said("tom", "2026-10-25T02:07:00+01:00", "joined", type="GuildMemberJoin"),
        said("music", "2026-10-25T02:08:00+01:00", "Now playing", author={"name": "music", "isBot": True}),
        said("tom", "2026-10-25T03:06:00+02:00", "before that"),
        said("tom", "2026-10-25T02:09:00+01:00", "", attachments=[{"url": "x"}]),
        said("lena", "2026-10-25T02:10:00+01:00", "", forwardedMessage={"content": "x"}),
    ]
    path = tmp_path / "channel.json"
    path.write_text(json.dumps({"guild": {}, "channel": {}, "messages": messages}), encoding="utf-8")
    assert talks(path, chat_name="discord", me="lena") == [[("user", "First?"), ("assistant", "Second.")]]
    table = tmp_path / "channel.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        rows = [
            ("1", "tom#0001", "2026-10-25T01:00:00+00:00", "Hello,\nyou", ""),
            ("2", "lena", "2026-10-25T01:01:00+00:00", "Hi", ""),
        ]
        csv.writer(file).writerows([("AuthorID", "Author", "Date", "Content", "Attachments"), *rows])
    assert talks(table, chat_name="discord", me="lena") == [[("user", "Hello,\nyou"), ("assistant", "Hi")]]


def test_slack_threads_are_conversations_and_ids_are_names(tmp_path: Path) -> None:
    def said(user: str, ts: str, text: str, **more: Any) -> dict[str, Any]:
        return {"type": "message", "user": user, "ts": ts, "text": text} | more

    channel = tmp_path / "export" / "general"
    channel.mkdir(parents=True)
    users = [{"id": "U1", "profile": {"display_name": "Tom"}}, {"id": "U2", "profile": {"real_name": "Lena"}}]
    (channel.parent / "users.json").write_text(json.dumps(users))
    (channel.parent / "channels.json").write_text("[]")
    first = [
        said("U1", "100.1", "<@U2> joined", subtype="channel_join"),
        said("U1", "101.1", "Where is <https://x.org|the page>, <@U2>?", thread_ts="101.1"),
        said("U1", "102.1", "Lunch &amp; coffee?"),
        said("U9", "102.5", "Build passed", bot_id="B1"),
    ]
    second = [
        said("U2", "103.1", "Yes"),
        said("U2", "104.1", "&gt; Where is\nThere.", thread_ts="101.1"),
        said("U1", "105.1", "", files=[{"name": "x.png"}]),
        said("U1", "106.1", "", attachments=[{"is_share": True}]),
    ]
    (channel / "2026-01-01.json").write_text(json.dumps(first))
    (channel / "2026-01-02.json").write_text(json.dumps(second))
    ledger = Ledger()
    found = talks(channel.parent, ledger, chat_name="slack", me="Lena", names="keep")
    assert found == [
        [("user", "Lunch & coffee?"), ("assistant", "Yes")],
        [("user", "Where is the page, @Lena?"), ("assistant", "There.")],
    ]
    assert notes(ledger, "messages of bots") == [(1, [f"{channel}/2026-01-01.json:4"])]
    with pytest.raises(LuthierError, match="slack exports it"):
        list(read(str(channel)))


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


def test_a_file_that_is_no_export_is_named(tmp_path: Path) -> None:
    for name, path, words in (
        ("whatsapp", tmp_path / "a.txt", "no WhatsApp export"),
        ("qq", tmp_path / "b.txt", "no QQ export"),
        ("telegram", tmp_path / "c.json", "broken JSON"),
        ("wechat", tmp_path / "d.csv", "no known exporter"),
    ):
        path.write_text("Dear all,\n1,2\n", encoding="utf-8")
        if path.suffix == ".csv":
            path.write_text("a,b\n1,2\n", encoding="utf-8")
        with pytest.raises(LuthierError, match=words) as fault:
            talks(path, chat_name=name, me="Lena")
        assert str(path) in str(fault.value)


LONG = ("a." * 50_000, " " * 100_000 + "z", "image " * 20_000, "<a" * 50_000, "\n" * 50_000 + "x",
        "「a：b」\n" + "- " * 50_000)  # fmt: skip


@pytest.mark.parametrize("text", LONG, ids=range(len(LONG)))
def test_no_text_takes_long(text: str, tmp_path: Path) -> None:
    begun = time.process_time()
    programs = {
        "whatsapp": "1.1.26, 10:00 - Tom: {}\n1.1.26, 10:01 - Lena: b",
        "qq": "2026-01-02 03:04:05 Tom(10001)\n{}\n2026-01-02 03:05:05 Lena(10002)\nb",
    }
    for name, program in programs.items():
        path = tmp_path / f"{name}.txt"
        path.write_text(program.format(text), encoding="utf-8")
        talks(path, chat_name=name, me="Lena")
    rows = [{"createTime": 1767261600, "type": "文本消息", "content": text, "isSend": 0, "senderDisplayName": "Tom"}]
    rows += [{"createTime": 1767261601, "type": "文本消息", "content": "b", "isSend": 1}]
    path = tmp_path / "chat.json"
    path.write_text(json.dumps({"messages": rows}), encoding="utf-8")
    talks(path, chat_name="wechat", me="me")
    assert time.process_time() - begun < 2  # quadratic time would be minutes
