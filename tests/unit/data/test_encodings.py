"""Text that is not UTF-8: the error names the encoding it has, and the command that mends it does so."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest

from luthier.data import read
from luthier.data.reading.encodings import likely
from luthier.errors import LuthierError

TEXTS = [
    ("GB18030", "你好，世界"),
    ("GB18030", "天空是什么颜色？蓝色。请用一句话回答我的问题，谢谢。"),
    ("BIG5", "天空是什麼顏色？藍色。請用一句話回答"),
    ("SHIFT_JIS", "空は何色ですか？青い色です。"),
    ("EUC-JP", "空は何色ですか？青い色です。"),
    ("EUC-KR", "하늘은 무슨 색입니까? 파란색입니다."),
    ("CP949", "하늘은 무슨 색입니까? 똠방각하."),
    ("CP1251", "Какого цвета небо? Голубого."),
    ("KOI8-R", "Какого цвета небо? Голубого."),
    ("CP866", "Какого цвета небо? Голубого."),
    ("CP1252", "Où est le café de l’élève? Là-bas, déjà."),
    ("CP1252", "Größe und Übermut"),
    ("CP1252", "café"),
    ("CP1252", "¿Dónde está el niño?"),
    ("CP1252", "Það er gott veður í dag, þú ættir að fara út á morgun"),
    ("CP1250", "Příliš žluťoučký kůň úpěl ďábelské ódy"),
    ("CP1250", "Zażółć gęślą jaźń"),
    ("CP1253", "Ποιο είναι το χρώμα του ουρανού;"),
    ("CP1254", "Gökyüzünün rengi nedir? Mavi işte, ağaç ışık"),
    ("CP1255", "מה צבע השמיים? כחול"),
    ("CP1256", "ما هو لون السماء؟ أزرق"),
    ("CP1257", "Kokios spalvos dangus? Mėlynas, žalias, šįryt"),
    ("CP874", "ท้องฟ้าสีอะไร สีฟ้า"),
]


@pytest.mark.parametrize(("name", "text"), TEXTS)
@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv", ".txt"])
def test_the_likely_encoding_is_named(name: str, text: str, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    row = {"prompt": f"Say\n{text}", "completion": text}
    lines = {".csv": f'prompt,completion\nSay,"{text}"\n', ".txt": f"{text}\n"}
    path.write_bytes(lines.get(ending, json.dumps(row, ensure_ascii=False)).encode(name))
    with pytest.raises(LuthierError, match=rf"(?s)not UTF-8 text: byte 0x.*seems to be {name}\).*iconv -f {name} -t"):
        list(read([str(path)]))
    path.write_bytes(path.read_bytes().decode(name).encode())  # what the command does
    (example,) = read([str(path)])
    assert text in example.responses[0].turns[0].text


@pytest.mark.parametrize("name", ["UTF-16LE", "UTF-16BE"])
def test_wide_characters_without_a_mark_and_without_ascii_at_the_beginning(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("天空是什么颜色？\n蓝色。\n".encode(name))
    with pytest.raises(LuthierError, match=rf"seems to be {name}\)"):
        list(read([str(tmp_path / "a.txt")]))


def test_one_broken_byte_in_utf8_is_no_other_encoding(tmp_path: Path) -> None:
    lines = [json.dumps({"text": "天空是什么颜色"}, ensure_ascii=False).encode()] * 3
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([*lines, lines[0].replace("空".encode(), b"\xe7\xa9")]))
    with pytest.raises(LuthierError, match=r"(?s)a.jsonl:4: .*most of the file is UTF-8.*mend or delete that line"):
        list(read([str(tmp_path / "a.jsonl")]))


def test_a_long_line_and_ascii_before_it(tmp_path: Path) -> None:
    content = b'{"text": "a"}\n' * 5000 + ('{"text": "' + "天空是什么颜色，" * 5000 + '"}\n').encode("gbk")
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(LuthierError, match=r"a.jsonl:5001: .*seems to be GB18030"):
        list(read([str(tmp_path / "a.jsonl")]))


def test_noise_is_no_encoding() -> None:
    noise = random.Random(0)
    assert [likely(noise.randbytes(400)) for _ in range(20)] == [None] * 20


def test_real_rows_in_gbk(tmp_path: Path) -> None:
    shared = Path(os.environ.get("LUTHIER_SHARED", Path(__file__).parents[4] / "shared"))
    file = shared / "data/alpaca-zh-carbonz0/zh-data-part-00.json"
    if not file.is_file():
        pytest.skip("no shared data")
    rows = json.loads(file.read_text(encoding="utf-8"))[:300]
    contents = [json.dumps(row, ensure_ascii=False).encode("gb18030") for row in rows]
    assert [row for row, content in zip(rows, contents, strict=True) if likely(content) not in ("GB18030", None)] == []
