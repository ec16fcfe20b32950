"""Names twice, names with white space, true line numbers, one object a file, line separators that are none."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from luthier.data import Ledger, read
from luthier.errors import LuthierError
from luthier.recipe import Source as Entry
from luthier.types import Example

SEPARATORS = "a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg\x1dh\x1ei"
"""What Python's str.splitlines divides, newlines apart."""


def told(path: Path, content: str | bytes = b"", **entry: object) -> tuple[list[Example], Ledger]:
    if content:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    ledger = Ledger()
    return list(read([Entry(path=str(path), **entry)], ledger)), ledger


def replies(examples: list[Example]) -> list[str]:
    return [example.responses[0].turns[0].text for example in examples]


def rows(examples: list[Example]) -> list[int]:
    return [example.source.row for example in examples if example.source]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "prompt,completion,completion\na,b,c\n", r"a.csv:1: two columns are called 'completion'"),
        ("a.csv", "\nprompt,completion, completion\na,b,c\n", r"a.csv:2: two columns are called 'completion'"),
        ("a.tsv", "prompt\tcompletion\tprompt\na\tb\tc\n", r"a.tsv:1: two columns are called 'prompt'"),
        (
            "a.jsonl",
            '{"text": "a"}\n{"text": "b", "text": "c"}\n',
            r"a.jsonl:2: two keys of one object are called 'text'",
        ),
        ("a.jsonl", '{"text": "a", " text": "c"}\n', r"a.jsonl:1: two columns are called 'text'"),
        (
            "a.jsonl",
            '{"messages": [{"role": "user", "content": "a", "content": "b"}]}\n',
            r"a.jsonl:1: two keys of one object are called 'content'",
        ),
        ("a.json", '[{"text": "a"},\n {"text": "b"},\n\n {"text": "c", "text": "d"}]', r"a.json:4: two keys"),
        ("a.json", '{"data": [{"text": "b", "text": "c"}]}', r"a.json: two keys of one object are called 'text'"),
        ("a.json", '{"text": "a"}\n{"text": "b", "text": "c"}\n', r"a.json:2: two keys of one object"),
    ],
)
def test_two_columns_or_keys_of_one_name(name: str, content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(LuthierError, match=message) as caught:
        told(tmp_path / name, content)
    assert caught.value.fix


def test_two_entries_of_one_name_in_a_listing(tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text('{"mine": {"file_name": "a.json"}, "mine": {"file_name": "b.json"}}')
    with pytest.raises(LuthierError, match=r"dataset_info.json: two keys of one object are called 'mine'"):
        list(read([Entry(llamafactory=str(tmp_path), name="mine")]))


def test_two_columns_of_one_name_in_columnar_files(tmp_path: Path) -> None:
    table = pa.table([pa.array(["a"]), pa.array(["b"]), pa.array(["c"])], names=["prompt", "completion", "prompt"])
    pq.write_table(table, tmp_path / "a.parquet")
    for name, make in (("a.arrow", pa.ipc.new_file), ("b.arrow", pa.ipc.new_stream)):
        with make(str(tmp_path / name), table.schema) as writer:
            writer.write_table(table)
    for name in ("a.parquet", "a.arrow", "b.arrow"):
        with pytest.raises(LuthierError, match=f"{name}: two columns are called 'prompt'"):
            told(tmp_path / name)


def test_columns_without_a_name_may_come_twice(tmp_path: Path) -> None:
    examples, _ = told(tmp_path / "a.csv", "prompt,completion,,\na,b,,\n")
    assert replies(examples) == ["b"]


@pytest.mark.parametrize(
    ("content", "reply", "said"),
    [
        ("prompt, completion\na, b\n", "b", "(' completion'), and cells without the spaces"),
        ('prompt, completion\na, "b, c"\n', "b, c", "(' completion'), and cells"),
        ("prompt,completion \na, b\n", " b", "('completion ')"),
        (" prompt ,completion\na,b\n", "b", "(' prompt ')"),
    ],
)
def test_white_space_around_names_of_columns_is_left_out_and_said(
    content: str, reply: str, said: str, tmp_path: Path
) -> None:
    examples, ledger = told(tmp_path / "a.csv", content)
    assert replies(examples) == [reply]
    (note,) = ledger.notes
    assert f"a.csv: column names are read without the white space around them {said}" in note
    assert ("cells" in note) == ((", b" in content and reply != " b") or '"' in content)
    console = Console(width=400, record=True, file=io.StringIO())
    console.print(ledger.table())
    assert note in console.export_text()
    assert Ledger.from_json(json.loads(json.dumps(ledger.to_json()))) == ledger


def test_other_files_too_and_the_mapping_may_name_either(tmp_path: Path) -> None:
    for mapped in (" q", "q"):
        columns = {"prompt": mapped, "completion": "a"}
        examples, ledger = told(tmp_path / "a.jsonl", '{" q": "x", "a": "y"}\n' * 2, columns=columns)
        assert replies(examples) == ["y", "y"]
        ((note, entry),) = ledger.notes.items()
        assert "without the white space" in note and entry.count == 2 and entry.rows[0].endswith("a.jsonl:1")
    assert not told(tmp_path / "b.csv", "prompt,completion\na,b\n")[1].notes


def test_the_row_number_of_a_table_is_its_line(tmp_path: Path) -> None:
    content = '\n\nprompt,completion\n\na,b\n\n\n"c\n\nd",e\n"f","g"\n\nh,\n'
    examples, ledger = told(tmp_path / "a.csv", content)
    assert rows(examples) == [5, 8, 11]
    (reason,) = ledger.reasons.values()
    assert reason.rows[0].endswith("a.csv:13")
    for fault, message in (("i\n", "14: the row has fewer"), ('"i"j,k\n', "14: broken"), ('i,"j\n\n\n', "14: broken")):
        with pytest.raises(LuthierError, match=f"a.csv:{message}"):
            told(tmp_path / "a.csv", content + fault)
    two_lines = 'prompt,completion,"more\nof it"\na,b,c\nd\n'
    with pytest.raises(LuthierError, match=r"a.csv:4: the row has fewer"):
        told(tmp_path / "a.csv", two_lines)


USER, REPLY = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER, REPLY]},
        {"messages": [USER, REPLY], "tools": [{"name": "f"}], "images": []},
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
        {"prompt": "a", "completion": "b"},
        {"prompt": [USER], "completion": [REPLY]},
        {"chosen": [USER, REPLY], "rejected": [USER, {"role": "assistant", "content": "c"}]},
        {"prompt": "a", "responses": ["b", "c"], "scores": [1, 0]},
        {"instruction": "a", "output": "b", "history": [["c", "d"]]},
    ],
)
def test_a_file_of_one_object_that_is_a_row(row: dict[str, object], tmp_path: Path) -> None:
    examples, _ = told(tmp_path / "a.json", json.dumps(row, indent=1))
    assert rows(examples) == [1] and replies(examples) == ["b"]


def test_a_file_of_one_object_that_holds_rows(tmp_path: Path) -> None:
    inner = [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"}]
    for content in ({"data": inner}, {"messages": inner}, {"prompt": "all", "rows": inner}, {"data": [], "text": "a"}):
        if content.get("text"):
            with pytest.raises(LuthierError, match="the data is empty"):
                told(tmp_path / "a.json", json.dumps(content))
        else:
            assert replies(told(tmp_path / "a.json", json.dumps(content))[0]) == ["b", "d"]
    columns = {"messages": "talk"}
    examples, _ = told(tmp_path / "a.json", json.dumps({"talk": [USER, REPLY]}), columns=columns)
    assert replies(examples) == ["b"]


def test_a_text_with_any_line_separator_stays_one_row(tmp_path: Path) -> None:
    line = json.dumps({"prompt": "x", "completion": SEPARATORS}, ensure_ascii=False)
    for name, content in (
        ("a.jsonl", line + "\n" + line + "\n"),
        ("a.json", f"[{line},\n{line}]"),
        ("lines.json", line + "\n" + line + "\n"),
        ("a.csv", f'prompt,completion\nx,"{SEPARATORS}"\nx,{SEPARATORS}\n'),
        ("a.tsv", f"prompt\tcompletion\nx\t{SEPARATORS}\nx\t{SEPARATORS}\n"),
    ):
        examples, ledger = told(tmp_path / name, content)
        assert replies(examples) == [SEPARATORS] * 2, name
        assert ledger.rows_read == 2
    (document,), _ = told(tmp_path / "a.txt", SEPARATORS + "\n" + SEPARATORS)
    assert document.responses[0].turns[0].text == SEPARATORS + "\n" + SEPARATORS
    listing = {"mine": {"file_name": "a.txt", "columns": {"prompt": "text"}}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(listing))
    texts = list(read([Entry(llamafactory=str(tmp_path), name="mine")]))
    assert replies(texts) == [SEPARATORS] * 2
