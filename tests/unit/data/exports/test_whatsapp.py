"""WhatsApp: dates of every locale, notices, media, clocks."""

from __future__ import annotations

from pathlib import Path

import pytest
from exported_chats import notes, talks

from luthier.data import Ledger
from luthier.errors import LuthierError

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
