"""Two texts that begin alike: where their common beginning, the prompt, ends."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import regex

from luthier.data import Ledger, read
from luthier.data.reading.feeds import as_text
from luthier.data.reading.formats.beginnings import last_cut
from luthier.recipe import Source as Entry

CASES = [
    ("问：天空是什么颜色？答：", "蓝色。", "绿色。"),
    ("2+2 is ", "4", "5"),
    ("", "3.14", "3.15"),
    ("", "cat", "car"),
    ("ABC", "蓝", "绿"),
    ("", "ABC蓝", "ABCD"),
    ("答：", "Blue", "Black"),
    ("价格是", "3.14", "3.15"),
    ("你", "好", "好吗"),  # no response is empty
    ("空は何色？", "しゃ", "しゅ"),  # a small kana belongs to what precedes it
    ("ソフトは", "サー", "サイ"),
    ("答", "「青」", "「赤」"),  # no cut behind an opening bracket
    ("", "蓝。", "蓝色"),  # nor before a mark that closes
    ("คำถาม:ท้องฟ้าสีอะไร ตอบ:", "เขียว", "เหลือง"),  # the vowel stands before its consonant
    ("สีอะไร", "เขียว", "เหลือง"),
    ("", "ไก่", "ไก้"),
    ("하늘은 무슨 색? ", "파란색", "파랑"),  # words, where there are spaces
    ("질문:하늘의색은?답:", "파란색", "빨간색"),
    ("天空", "👨‍👩‍👧", "👨‍👩‍👦"),
    ("天空", "🇨🇳🇩🇪", "🇨🇳🇫🇷"),
    ("天空", "👍🏻", "👍🏿"),
    ("色", "e\u0301", "e\u0300"),
    ("한", "\u1100\u1161\u11a8", "\u1100\u1161\u11ab"),
    ("か\u3099", "あ", "い"),
    ("", "か\u3099", "か\u309a"),
    ("葛", "城", "飾"),
    ("", "葛\U000e0100城", "葛\U000e0101飾"),
]


@pytest.mark.parametrize(("prompt", "chosen", "rejected"), CASES)
def test_where_the_common_beginning_is_cut(prompt: str, chosen: str, rejected: str) -> None:
    assert last_cut(prompt + chosen, prompt + rejected) == len(prompt)
    assert last_cut(prompt + rejected, prompt + chosen) == len(prompt)


def test_no_cut_lies_within_a_character() -> None:
    draw = random.Random(0)
    parts = [
        "天",
        "か\u3099",
        "é",
        "e\u0301",
        "👨‍👩‍👧",
        "🇩🇪",
        "👍🏽",
        "กำ",
        "เ",
        "ก่",
        "하",
        "\u1112\u1161\u11ab",
        " ",
        "a",
        "。",
        "「",
    ]
    for _ in range(500):
        first, second = ("".join(draw.choices(parts, k=6)) for _ in range(2))
        common = "".join(draw.choices(parts, k=5))
        cut = last_cut(common + first, common + second)
        for text in (common + first, common + second):
            assert cut in (0, *(match.end() for match in regex.finditer(r"\X", text))), (text, cut)


def pairs(path: Path, rows: list[tuple[str, str]]) -> str:
    lines = [json.dumps({"chosen": better, "rejected": worse}, ensure_ascii=False) for better, worse in rows]
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def test_pairs_without_a_prompt_column(tmp_path: Path) -> None:
    path = pairs(
        tmp_path / "a.jsonl", [("问：天空是什么颜色？答：蓝色。", "问：天空是什么颜色？答：绿色。"), ("蓝色", "绿色")]
    )
    ledger = Ledger()
    (example,) = read([path], ledger)
    assert [turn.text for turn in example.prompt] == ["问：天空是什么颜色？答："]
    assert [response.turns[0].text for response in example.responses] == ["蓝色。", "绿色。"]
    assert list(ledger.reasons) == ["there is no prompt: 'chosen' and 'rejected' do not begin alike"]


def test_without_a_template_the_texts_stay_as_they_stand(tmp_path: Path) -> None:
    rows = [("2+2 is 4", "2+2 is 5"), ("天空是蓝色", "天空是绿色"), ("Sum:\n\n4", "Sum:\n\n5")]
    path = pairs(tmp_path / "a.jsonl", rows)
    raw = list(read([Entry(path=path, chat=False)]))
    for example, row in zip(raw, rows, strict=True):
        prompt = example.prompt[0].text
        assert tuple(prompt + response.turns[0].text for response in example.responses) == row
    assert [as_text(example) for example in read([path])] == raw
