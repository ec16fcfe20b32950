"""A row as a line of JSON and back, and what a change of it looks like."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from curated import ROWS, write

from luthier.data import FORMATS, read
from luthier.data.curation import lines
from luthier.data.curation.stored import changes
from luthier.data.reading.formats.shape import BadRow
from luthier.data.reading.text_files import Span, cut
from luthier.data.reading.text_files import lines as lines_of
from luthier.types import RAW, Example, Response, Source, Turn


@pytest.fixture
def rows(tmp_path: Path) -> list[Example]:
    return list(read(write(tmp_path)))


def test_every_row_comes_back_as_it_was(rows: list[Example]):
    assert len(rows) == sum(map(len, ROWS.values()))
    for row in rows:
        written = lines.line(row)
        assert written.endswith(b"\n") and len(written.splitlines()) == 1
        assert lines.read(written) == row and lines.source_of(written) == row.source
        assert lines.read(lines.as_example(written)) == row


def test_all_that_a_row_may_hold_comes_back():
    judged = Response((Turn("assistant", "a", 0.5),), 1.0, (1.0, 0.0), (-0.5, -1.0), "me", (1, 2))
    spoken = (Turn("system", "s"), Turn("user", "look", media=("a.png",), extra={"name": "Eva"}))
    meta = {"margin": 2.0, "made": {"from": "x:1", "by": "chunk", "part": 0}}
    row = Example(
        spoken, (judged, Response((Turn("assistant", "b"),))), "4", ({"function": {"name": "f"}},), Source("x", 3), meta
    )
    assert lines.read(lines.line(row)) == row
    text = Example((), (Response((Turn(RAW, "once"),)),), source=Source('a", "source": ["b', 7))
    assert lines.read(lines.line(text)) == text and lines.source_of(lines.line(text)) == text.source


def test_a_conversation_is_written_as_messages_that_are_read_as_the_same(rows: list[Example], tmp_path: Path):
    plain = [row for row in rows if lines.is_plain(row)]
    kinds = {Path(row.source.path).stem for row in plain if row.source}
    assert kinds >= {"english", "chinese", "unicode", "turns", "tasks"}
    assert not kinds & {"judged", "labelled", "stepwise", "texts"}
    (tmp_path / "out.jsonl").write_bytes(b"".join(map(lines.line, plain)))
    again = list(read(str(tmp_path / "out.jsonl")))
    assert [replace(row, source=None) for row in again] == [replace(row, source=None) for row in plain]


def test_rows_of_every_other_shape_are_written_whole_and_read_as_the_same(rows: list[Example], tmp_path: Path):
    (tmp_path / "out.jsonl").write_bytes(b"".join(lines.as_example(lines.line(row)) for row in rows))
    again = list(read(str(tmp_path / "out.jsonl")))
    assert [replace(row, source=None) for row in again] == [replace(row, source=None) for row in rows]


@pytest.mark.parametrize(
    "broken", [{}, {"prompt": 4}, {"prompt": [{"role": "user"}]}, {"prompt": [], "responses": [4]}]
)
def test_an_example_that_is_none_is_told(broken: dict[str, Any]):
    with pytest.raises(BadRow, match="luthier curate"):
        FORMATS.build("curated").read({"example": broken})


def test_where_a_row_came_from_is_no_part_of_what_it_is():
    row = Example((Turn("user", "2+2?"),), (Response((Turn("assistant", "4"),)),), source=Source("a", 1))
    assert lines.key_of(row) == lines.key_of(replace(row, source=Source("b", 9), meta={"made": {"from": "a:1"}}))
    assert lines.key_of(row) != lines.key_of(replace(row, answer="4"))


def test_a_change_is_the_shortest_span():
    row = Example((Turn("user", "Call 555 1234 now"),), (Response((Turn("assistant", "ok"),)),))
    changed = replace(row, prompt=(Turn("user", "Call PHONE now"),))
    assert changes.edits(row, changed) == [changes.Edit("prompt.0", 5, "555 1234", "PHONE")]
    assert changes.undone(changed, changes.edits(row, changed)) == row
    assert changes.edits(row, row) == []
    assert changes.written(changes.edits(row, changed), private=True) == [["prompt.0", 5, 8, "PHONE"]]


@pytest.mark.parametrize(
    ("old", "new"), [("aaa", "aa"), ("", "x"), ("x", ""), ("abab", "ab"), ("🙂a", "a🙂"), ("ab", "ba")]
)
def test_any_change_of_a_text_is_undone(old: str, new: str):
    row = Example((Turn("user", old),), answer=new)
    changed = Example((Turn("user", new),), answer=old)
    assert changes.undone(changed, changes.edits(row, changed)) == row


def test_a_change_of_more_than_texts_keeps_the_whole_row(rows: list[Example]):
    for row in rows:
        changed = replace(row, prompt=(Turn("system", "new"), *row.prompt), answer="other")
        made = changes.edits(row, changed)
        assert [one.place for one in made] == [changes.WHOLE]
        assert changes.undone(changed, made) == row


def test_texts_are_put_back_where_they_stood(rows: list[Example]):
    for row in rows:
        texts = [text for _, text in changes.texts(row)]
        assert changes.with_texts(row, texts) is row
        other = changes.with_texts(row, [f"{text}!" for text in texts])
        assert [text for _, text in changes.texts(other)] == [f"{text}!" for text in texts]


def test_a_changed_step_stays_a_piece_of_its_response(rows: list[Example]):
    (row,) = (one for one in rows if "steps" in one.meta)
    places = [place for place, _ in changes.texts(row)]
    assert places == ["prompt.0", "steps.0", "steps.1"]
    changed = changes.with_texts(row, ["2+2?", "First, two", "Then two more: that makes four."])
    assert changed.responses[0].turns[0].text == "First, two\nThen two more: that makes four."
    assert changed.meta["steps"] == ("First, two", "Then two more: that makes four.")
    made = changes.edits(row, changed)
    assert [one.place for one in made] == ["steps.0"] and changes.undone(changed, made) == row
    torn = replace(changed, meta=row.meta)  # a step that changes the text and not what it is made of
    assert [one.place for one in changes.edits(row, torn)] == [changes.WHOLE]


@pytest.mark.parametrize("size", [1, 7, 30, 1000])
@pytest.mark.parametrize("end", ["", "\n"])
def test_the_pieces_of_a_file_are_the_file(tmp_path: Path, size: int, end: str):
    path = tmp_path / "rows.txt"
    path.write_bytes(("\n".join(f"line {n} \u2028 é" for n in range(30)) + end).encode())
    spans = cut(path, size)
    assert [span.start for span in spans[1:]] == [span.end for span in spans[:-1]]
    assert (spans[0].start, spans[-1].end) == (0, path.stat().st_size)
    assert [line for span in spans for line in lines_of(path, span)] == list(lines_of(path))
    assert len(spans) > 1 or size == 1000


def test_an_empty_file_has_no_pieces(tmp_path: Path):
    (tmp_path / "empty").write_bytes(b"")
    assert cut(tmp_path / "empty", 10) == []
    assert Span(0, 1, 1).line == 1
