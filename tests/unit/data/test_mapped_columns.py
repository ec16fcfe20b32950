"""`columns:` may name a column that some rows lack, where their shape does not need it; never one that no row has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from luthier.data import Ledger, read
from luthier.errors import LuthierError
from luthier.recipe import Source as Entry
from luthier.types import Example


def told(path: Path, rows: list[dict[str, Any]], **entry: Any) -> tuple[list[Example], Ledger]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ledger = Ledger()
    return list(read([Entry(path=str(path), **entry)], ledger)), ledger


COLUMNS = {"prompt": "q", "completion": "a", "system": "sys"}


@pytest.mark.parametrize("places", [(0,), (1,), (2,), (0, 1), (1, 2)])
@pytest.mark.parametrize("format", [None, "prompt_completion"])
def test_rows_without_an_optional_column_are_read(places: tuple[int, ...], format: str | None, tmp_path: Path) -> None:
    rows = [{"q": f"q{i}", "a": f"a{i}", **({} if i in places else {"sys": "Be brief"})} for i in range(3)]
    examples, ledger = told(tmp_path / "a.jsonl", rows, columns=COLUMNS, format=format)
    assert not ledger.rows_dropped
    assert [len(example.prompt) for example in examples] == [1 if i in places else 2 for i in range(3)]


@pytest.mark.parametrize(
    ("columns", "row"),
    [
        ({"instruction": "i", "output": "o", "input": "more", "history": "past"}, {"i": "a", "o": "b"}),
        ({"messages": "talk", "tools": "functions"}, {"talk": [{"role": "user", "content": "a"}]}),
        ({"prompt": "q", "chosen": "good", "rejected": "bad", "margin": "by"}, {"q": "a", "good": "b", "bad": "c"}),
        ({"prompt": "q", "answer": "gold"}, {"q": "a"}),
    ],
)
def test_optional_columns_of_other_shapes(columns: dict[str, str], row: dict[str, Any], tmp_path: Path) -> None:
    values = {"more": "c", "past": [["d", "e"]], "functions": [{"name": "f"}], "by": 1, "gold": "4"}
    whole = {**row, **{theirs: values[theirs] for theirs in columns.values() if theirs in values}}
    for rows in ([row, whole], [whole, row]):
        examples, ledger = told(tmp_path / "a.jsonl", rows, columns=columns)
        assert len(examples) == 2 and not ledger.rows_dropped


@pytest.mark.parametrize(
    ("columns", "row", "name", "line"),
    [
        (COLUMNS, {"q": "x", "sys": "y"}, "a", 2),
        ({"prompt": "q", "completion": "a", "answer": "gold"}, {"q": "x", "gold": "4"}, "a", 2),
        ({"prompt": "q", "chosen": "good", "rejected": "bad"}, {"good": "I say b", "bad": "I say c"}, "q", 2),
        ({"prompt": "q", "completion": "a", "label": "ok"}, {"q": "x", "a": "y"}, "ok", 2),
    ],
)
def test_a_row_without_a_column_that_its_shape_needs(
    columns: dict[str, str], row: dict[str, Any], name: str, line: int, tmp_path: Path
) -> None:
    whole = {theirs: True if theirs == "ok" else theirs for theirs in columns.values()}
    with pytest.raises(LuthierError, match=rf"a.jsonl:{line}: `columns` names '{name}', but the row has"):
        told(tmp_path / "a.jsonl", [whole, row], columns=columns)
    with pytest.raises(LuthierError, match=rf"a.jsonl:1: `columns` names '{name}', but the row has"):
        told(tmp_path / "a.jsonl", [row, whole], columns=columns)


def test_a_column_that_no_row_has_is_an_error(tmp_path: Path) -> None:
    rows = [{"q": f"q{i}", "a": f"a{i}", "system_prompt": "Be brief"} for i in range(3)]
    with pytest.raises(LuthierError, match=r"(?s)a.jsonl:1: `columns` names 'sys'.*no row has it") as caught:
        told(tmp_path / "a.jsonl", rows, columns=COLUMNS)
    assert "system_prompt" in caught.value.what
