"""What holds for all chats: who is the assistant, who gets a stand-in, what is no export."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from exported_chats import notes, talks

from luthier.data import Ledger, read
from luthier.errors import LuthierError


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
