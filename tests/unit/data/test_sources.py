"""Files, folders and globs of every kind into examples; bad input into one clear message."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from luthier.data import Ledger, read
from luthier.errors import LuthierError
from luthier.recipe import Source as Entry
from luthier.types import RAW, Example

ROWS = [{"prompt": "2+2?", "completion": "4"}, {"prompt": 'say\n"é"', "completion": "é, 🙂"}]


def jsonl(path: Path) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), encoding="utf-8")


def table(separator: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        quoted = ['"' + value.replace('"', '""') + '"' for row in ROWS for value in row.values()]
        lines = [separator.join(("prompt", "completion")), separator.join(quoted[:2]), separator.join(quoted[2:])]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")

    return write


def arrow(path: Path) -> None:
    with pa.ipc.new_file(str(path), (data := pa.Table.from_pylist(ROWS)).schema) as writer:
        writer.write_table(data)


WRITERS: dict[str, Callable[[Path], None]] = {
    "a.jsonl": jsonl,
    "a.ndjson": jsonl,
    "a.json": lambda path: path.write_text(json.dumps(ROWS)) and None,
    "lines.json": jsonl,
    "wrapped.json": lambda path: path.write_text(json.dumps({"version": 1, "data": ROWS})) and None,
    "named.json": lambda path: path.write_text(json.dumps({"version": 1, "rows": ROWS})) and None,
    "a.csv": table(","),
    "a.tsv": table("\t"),
    "a.parquet": lambda path: pq.write_table(pa.Table.from_pylist(ROWS), path),
    "a.arrow": arrow,
    "a.jsonl.gz": lambda path: path.write_bytes(
        gzip.compress(json.dumps(ROWS[0]).encode() + b"\n" + json.dumps(ROWS[1]).encode())
    ),  # type: ignore[func-returns-value]
}


def texts(examples: list[Example]) -> list[dict[str, str]]:
    return [{"prompt": e.prompt[0].text, "completion": e.responses[0].turns[0].text} for e in examples]


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    examples = list(read([str(tmp_path / name)]))
    assert texts(examples) == ROWS
    assert {e.source.path for e in examples if e.source} == {str(tmp_path / name)}


def test_rows_are_numbered_by_line_or_place(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.json", "a.parquet"):
        WRITERS[name](tmp_path / name)
        assert [e.source.row for e in read([str(tmp_path / name)]) if e.source] == [1, 2]
    (tmp_path / "b.csv").write_text('prompt,completion\n"a\nb",c\nd,e\n')
    assert [e.source.row for e in read([str(tmp_path / "b.csv")]) if e.source] == [2, 4]  # the lines where they begin


def test_folders_and_globs_take_data_files_alone(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    jsonl(tmp_path / "deep" / "b.jsonl")
    jsonl(tmp_path / "a.jsonl")
    (tmp_path / "README.md").write_text("no data")
    (tmp_path / ".hidden.jsonl").write_text("{")
    names = [Path(e.source.path).name for e in read([str(tmp_path)]) if e.source]
    assert names == ["a.jsonl", "a.jsonl", "b.jsonl", "b.jsonl"]
    assert len(list(read([str(tmp_path / "*.jsonl")]))) == 2
    assert len(list(read([str(tmp_path / "**" / "*.jsonl")]))) == 4


def test_text_files_are_documents(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One.\n\nTwo.\n")
    (example,) = read([str(tmp_path / "a.txt")])
    assert example.prompt == () and example.responses[0].turns[0].role == RAW
    assert example.responses[0].turns[0].text == "One.\n\nTwo.\n"


def test_columns_limit_system_and_chat(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"query": f"q{i}", "reply": f"r{i}", "n": i}) + "\n" for i in range(5)))
    columns = {"prompt": "query", "completion": "reply"}
    with pytest.raises(LuthierError, match=r"columns: \{prompt: query, completion: reply\}"):
        list(read([str(path)]))
    plain = list(read([Entry(path=str(path), columns=columns, limit=2, system="Be brief")]))
    assert [[turn.role for turn in e.prompt] for e in plain] == [["system", "user"]] * 2
    raw = list(read([Entry(path=str(path), columns=columns, chat=False, system="Be brief")]))
    assert [(e.prompt[0].role, e.prompt[0].text) for e in raw] == [(RAW, f"q{i}") for i in range(5)]
    with pytest.raises(LuthierError, match="`columns` names 'ask', but the row has query, reply, n"):
        list(read([Entry(path=str(path), columns={"prompt": "ask", "completion": "reply"})]))
    named = list(read([Entry(path=str(path), columns={"text": "reply"}, format="text")]))
    assert named[0].responses[0].turns[0].text == "r0"


def test_chat_false_drops_conversations(tmp_path: Path) -> None:
    row = {"instruction": "a", "output": "b", "history": [["c", "d"]]}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    ledger = Ledger()
    assert not list(read([Entry(path=str(tmp_path / "a.jsonl"), chat=False)], ledger))
    assert "chat: false" in next(iter(ledger.reasons))


BROKEN: dict[str, tuple[str, bytes, str]] = {
    "json": ("a.json", b'[{"prompt": "a",\n "completion" "b"}]', r"a.json:2: broken JSON: Expecting ':'"),
    "jsonl": ("a.jsonl", b'{"text": "a"}\n{"text": \n', r"a.jsonl:2: broken JSON"),
    "empty": ("a.jsonl", b"", r"a.jsonl: the data is empty"),
    "blank": ("a.json", b" \n", r"a.json: the data is empty"),
    "no rows": ("a.json", b"[]", r"a.json: the data is empty"),
    "header only": ("a.csv", b"prompt,completion\n", r"a.csv: the data is empty"),
    "not utf-8 lines": ("a.jsonl", b'{"text": "a"}\n{"text": "\xe9"}\n', "l:2: not UTF-8 text: byte 0xe9 at offset 24"),
    "not utf-8 whole": ("a.json", b'[{"text":\n "caf\xe9"}]', r"a.json:2: not UTF-8 text: byte 0xe9 at offset 15"),
    "utf-16 lines": ("a.jsonl", '{"text": "a"}\n'.encode("utf-16"), r"(?s)l:1: .*seems to be UTF-16.*iconv -f UTF-16"),
    "utf-16 whole": ("a.json", '[{"text": "a"}]'.encode("utf-16"), r"(?s)n:1: .*seems to be UTF-16.*iconv -f UTF-16"),
    "utf-16 without a mark": ("a.jsonl", '{"text": "é"}'.encode("utf-16-be"), r"(?s)l:1: .*be UTF-16BE.*-f UTF-16BE"),
    "utf-16 all ASCII": ("a.jsonl", '{"text": "a"}'.encode("utf-16-le"), r"(?s)seems to be UTF-16LE.*-f UTF-16LE"),
    "utf-32": ("a.json", '[{"text": "a"}]'.encode("utf-32"), r"(?s)n:1: .*seems to be UTF-32.*iconv -f UTF-32 "),
    "deep lines": ("a.jsonl", b'{"text": "a"}\n' + b"[" * 100_000, r"l:2: the JSON is nested too deeply"),
    "deep whole": ("a.json", b"[" * 100_000 + b"]" * 100_000, r"a.json: the JSON is nested too deeply"),
    "not utf-8 csv": ("a.csv", b"text\ncaf\xe9\n", r"a.csv:2: not UTF-8"),
    "wrong columns": ("a.jsonl", b'{"colour": 1, "size": 2}\n', r"(?s)l: the columns are colour, size.*columns: \{p"),
    "near columns": ("a.csv", b"question,reply\na,b\n", r"(?s)nearest shape is 'prompt_completion'.*answer: reply"),
    "mixed shapes": (
        "a.jsonl",
        b'{"text": "a"}\n{"text": "b"}\n{"prompt": "a", "completion": "b"}\n',
        r"a.jsonl:3: mixed shapes in one file: the rows before are 'text', this one has the shape 'prompt_completion'",
    ),
    "no object": ("a.jsonl", b'{"text": "a"}\n["b"]\n', r"a.jsonl:2: the row is not an object"),
    "no list": ("a.json", b'{"a": 1}', r"a.json: the file holds one object with no lists of rows"),
    "short row": ("a.csv", b"prompt,completion\na\n", r"a.csv:2: the row has fewer fields than the header's 2"),
    "long row": ("a.csv", b"prompt,completion\na,b,c\n", r"a.csv:2: the row has more fields than the header's 2"),
    "bad quotes": ("a.csv", b'prompt,completion\n"a"x,b\n', r"a.csv:2: broken table"),
    "bad parquet": ("a.parquet", b"PAR1 no", r"a.parquet: cannot be read as parquet"),
    "unknown kind": ("a.xlsx", b"PK", r"(?s)a.xlsx: unknown kind of file '.xlsx'.*jsonl"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_have_one_clear_message(case: str, tmp_path: Path) -> None:
    name, content, message = BROKEN[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LuthierError, match=message):
        list(read([str(tmp_path / name)]))


def test_missing_files_name_their_neighbours(tmp_path: Path) -> None:
    jsonl(tmp_path / "train.jsonl")
    with pytest.raises(LuthierError, match=r"(?s)trian.jsonl: no such file.*did you mean train.jsonl"):
        list(read([str(tmp_path / "trian.jsonl")]))
    with pytest.raises(LuthierError, match="its folder does not exist"):
        list(read([str(tmp_path / "nowhere" / "a.jsonl")]))
    with pytest.raises(LuthierError, match="no data file matches"):
        list(read([str(tmp_path / "*.csv")]))
    (tmp_path / "hollow").mkdir()
    with pytest.raises(LuthierError, match="the folder holds no data files"):
        list(read([str(tmp_path / "hollow")]))


def test_streaming_reads_no_further_than_asked(tmp_path: Path) -> None:
    """Line by line: a fault far behind is not met when the first rows are enough."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n' * 1000 + "broken\n")
    assert len(list(read([Entry(path=str(path), limit=1000)]))) == 1000
    with pytest.raises(LuthierError, match=r"a.jsonl:1001: broken JSON"):
        list(read([str(path)]))


def test_a_hub_data_set_through_datasets(tmp_path: Path) -> None:
    """`datasets` takes a folder for a data set, so the way is tested without a network."""
    jsonl(tmp_path / "train.jsonl")
    for streaming in (False, True):
        examples = list(read([Entry(hub=str(tmp_path), streaming=streaming)]))
        assert texts(examples) == ROWS
        assert [e.source.row for e in examples if e.source] == [1, 2]
    with pytest.raises(LuthierError, match="the hub data set cannot be loaded"):
        list(read([Entry(hub=str(tmp_path), split="nonsense")]))
