"""Telegram, Discord and Slack: instants, threads, names, what is no speech."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from exported_chats import notes, talks

from luthier.data import Ledger, read
from luthier.errors import LuthierError


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
