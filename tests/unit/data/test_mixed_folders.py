"""Folders in which materials of several kinds lie, and files without a row beside others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from luthier.data import Ledger, read
from luthier.data.reading.feeds import feed
from luthier.errors import LuthierError
from luthier.recipe import Source as Entry

ROW = json.dumps({"prompt": "What is tea?", "completion": "A drink."}) + "\n"
WHATSAPP = "[31.12.25, 22:15:03] Tom: Are you there?\n[31.12.25, 22:16:03] Lena: Yes!\n"
TELEGRAM = {
    "name": "Tom",
    "type": "personal_chat",
    "id": 1,
    "messages": [
        {"id": 1, "type": "message", "date_unixtime": "1767261600", "from_id": "user1", "from": "Tom", "text": "Hello"}
    ],
}


def mixed(folder: Path) -> Path:
    folder.mkdir()
    (folder / "rows.jsonl").write_text(ROW)
    (folder / "chat.txt").write_text(WHATSAPP)
    (folder / "result.json").write_text(json.dumps(TELEGRAM))
    (folder / "page.html").write_text("<p>Hello")
    return folder


def test_a_folder_of_mixed_materials_says_how_each_is_named(tmp_path: Path) -> None:
    folder = mixed(tmp_path / "mixed")
    with pytest.raises(LuthierError, match="materials of several kinds lie together") as caught:
        list(read(str(folder)))
    assert "rows (rows.jsonl)" in caught.value.what and "whatsapp (chat.txt)" in caught.value.what
    fix = str(caught.value.fix)
    for source in (
        f"{{path: {folder}/rows.jsonl}}",
        f"{{path: {folder}/chat.txt, format: {{whatsapp: {{me: NAME}}}}}}",
        f"{{path: {folder}/result.json, format: {{telegram: {{me: NAME}}}}}}",
        f"{{path: {folder}/page.html, format: pages}}",
    ):
        assert source in fix
    (one,) = read([Entry(path=str(folder / "chat.txt"), format={"whatsapp": {"me": "Lena"}})])
    assert one.responses[0].turns[0].text == "Yes!"
    (one,) = read([Entry(path=str(folder), format={"whatsapp": {"me": "Lena"}})])  # one kind of the folder, named


def test_chats_of_one_kind_are_asked_about_as_ever(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(WHATSAPP)
    with pytest.raises(LuthierError, match="seems to be a chat as whatsapp exports it"):
        list(read(str(tmp_path)))


@pytest.mark.parametrize("empty", ["a.jsonl", "z.jsonl"])
def test_an_empty_file_beside_good_ones_is_said_and_not_fatal(empty: str, tmp_path: Path) -> None:
    for name in ("a.jsonl", "m.jsonl", "z.jsonl"):
        (tmp_path / name).write_text("" if name == empty else ROW)
    ledger = Ledger()
    assert len(list(read(str(tmp_path), ledger))) == 2
    assert list(ledger.notes) == [f"{tmp_path}/{empty}: this file is empty, and nothing was read from it"]
    apart, ledger = feed(Entry(path=str(tmp_path))).pieces(1 << 20), Ledger()
    assert len(apart) == 3 and sum(len(list(one.examples(ledger))) for one in apart) == 2
    assert list(ledger.notes) == [f"{tmp_path}/{empty}: this file is empty, and nothing was read from it"]


def test_nothing_but_empty_files_is_an_error(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text("\n")
    with pytest.raises(LuthierError, match=r"a.jsonl: the data is empty: no rows"):
        list(read(str(tmp_path)))
    with pytest.raises(LuthierError, match="the data is empty: no rows"):
        for one in feed(Entry(path=str(tmp_path))).pieces(1 << 20):
            list(one.examples(Ledger()))
