"""Tables, lists in JSON and parquet in pieces: the rows, their numbers and their faults are those of the whole file."""

from __future__ import annotations

import csv
import gzip
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from luthier.data import Ledger
from luthier.data.reading.cutting import places
from luthier.data.reading.feeds import feed
from luthier.errors import LuthierError
from luthier.recipe import Source as Entry

NASTY = [
    'a "quoted" word',
    "two\nlines",
    "back\\slash \\\\",
    'end\\"',
    "[{,}]",
    "你好，",
    "",
    'a,"b",c',
    "tab\tand\r\nline",
]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(places, "BLOCK", 61)
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))


def rows(count: int = 60) -> list[dict[str, str]]:
    rng = random.Random(2)
    return [
        {"prompt": f"{i} {rng.choice(NASTY)}", "completion": " ".join(rng.choices(NASTY, k=rng.randrange(1, 4))) + "."}
        for i in range(count)
    ]


def told(path: Path, pieces: int | None) -> list[Any]:
    whole = feed(Entry(path=str(path)))
    feeds = [whole] if pieces is None else whole.pieces(pieces)
    assert pieces is None or len(feeds) > 2, "it was not cut"
    return [(one.source, one.prompt, one.responses) for piece in feeds for one in piece.examples(Ledger())]


def write(path: Path, given: list[dict[str, str]], **more: Any) -> None:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(given), path, row_group_size=7)
    elif path.suffix == ".json":
        path.write_text(more.get("ahead", "") + json.dumps(given, ensure_ascii=False, indent=more.get("indent")))
    else:
        with path.open("w", newline="", encoding=more.get("encoding", "utf-8")) as file:
            table = csv.DictWriter(file, ["prompt", "completion"], delimiter="\t" if path.suffix == ".tsv" else ",")
            table.writeheader()
            table.writerows(given)


@pytest.mark.parametrize("size", [150, 400, 1000])
@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("a.csv", {}),
        ("a.csv", {"encoding": "utf-8-sig"}),
        ("a.tsv", {}),
        ("a.json", {}),
        ("a.json", {"indent": 2}),
        ("a.json", {"ahead": "\ufeff \n"}),
        ("a.parquet", {}),
    ],
)
def test_the_pieces_are_the_file(name: str, more: dict[str, Any], size: int, tmp_path: Path) -> None:
    write(tmp_path / name, rows(), **more)
    if name == "a.parquet":
        size //= 4
    assert told(tmp_path / name, size) == told(tmp_path / name, None)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'prompt,completion\n5" nails,are long\n' * 40),
        ("a.csv", 'prompt,completion\n"open,never closed\n' + "a,b\n" * 200),
        ("a.json", '{"data": [' + '{"prompt": "a", "completion": "b"},' * 60 + '{"prompt": "a", "completion": "b"}]}'),
        ("a.json", "[" + '{"prompt": "a", "completion": "b"},' * 60 + '{"prompt": "a"}] x'),
        ("a.json", "[" + '{"prompt": "a", "completion": "b"},' * 60),
    ],
)
def test_what_cannot_be_cut_is_one_piece(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    one = feed(Entry(path=str(tmp_path / name)))
    assert one.pieces(100) == [one]
    (why,) = one.whole_parts(100)
    assert why[0].endswith(name) and why[1]


def test_what_is_packed_says_so(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows(200)))
    one = feed(Entry(path=str(tmp_path / "a.jsonl.gz")))
    assert one.pieces(100) == [one] and "only be read from its beginning" in next(one.whole_parts(100))[1]


@pytest.mark.parametrize("fault", ['{"prompt": "a" "completion": "b"}', '{"prompt": "a", "prompt": "b"}', ""])
def test_a_fault_is_told_as_of_the_whole_file(fault: str, tmp_path: Path) -> None:
    good = ['{"prompt": "a", "completion": "b"}'] * 60
    (tmp_path / "a.json").write_text("[\n" + ",\n".join([*good, fault]) + "\n]")
    faults = []
    for size in (None, 200):
        with pytest.raises(LuthierError) as caught:
            told(tmp_path / "a.json", size)
        faults.append(str(caught.value))
    assert faults[0] == faults[1] and "a.json:6" in faults[0]


def test_where_a_large_file_is_cut_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from luthier.data.reading.cutting import pieces

    monkeypatch.setattr(pieces, "KEPT", 100)
    write(tmp_path / "a.json", rows())
    first = told(tmp_path / "a.json", 300)
    monkeypatch.setattr(places, "of_list", None)
    assert told(tmp_path / "a.json", 300) == first
    assert len(list((tmp_path / "cache" / "cuts").iterdir())) == 1
