"""Compressed, columnar and text files that are cut short, damaged or something else: one sentence with the file."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from luthier.data import read
from luthier.errors import LuthierError

ROWS = [{"prompt": f"What is {i}?", "completion": f"It is {i * i}."} for i in range(200)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstd,
}


def count(path: Path) -> int:
    return len(list(read([str(path)])))


@pytest.mark.parametrize("ending", PACKERS)
def test_compressed_files_are_read_and_their_faults_told(ending: str, tmp_path: Path) -> None:
    path, packed = tmp_path / f"a.jsonl{ending}", PACKERS[ending](LINES)
    path.write_bytes(packed)
    assert count(path) == len(ROWS)
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(LuthierError, match=rf"a.jsonl\{ending}: the \w+-compressed file is cut short"):
        count(path)
    path.write_bytes(packed[:40] + bytes(byte ^ 0xFF for byte in packed[40:80]) + packed[80:])
    with pytest.raises(LuthierError, match=rf"a.jsonl\{ending}: the \w+-compressed file is (damaged: \w+|cut short)"):
        count(path)
    path.write_bytes(LINES)
    with pytest.raises(LuthierError, match=rf"(?s)a.jsonl\{ending}: the file is not \w+-compressed.*call it a.jsonl"):
        count(path)
    path.write_bytes(b"")
    with pytest.raises(LuthierError, match="the data is empty"):
        count(path)


@pytest.mark.parametrize(("begin", "kind"), [(zstd(LINES), "zstd-compressed data"), (b"PK\x03\x04" + LINES, "a zip")])
def test_a_file_packed_otherwise_than_its_name_says(begin: bytes, kind: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(begin)
    with pytest.raises(LuthierError, match=f"not gzip-compressed, though .*: it seems to be {kind}"):
        count(tmp_path / "a.jsonl.gz")


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt"])
@pytest.mark.parametrize(("content", "kind"), [(gzip.compress(LINES), "gzip"), (b"PK\x03\x04\x14\0\xff", "zip")])
def test_no_text_under_the_name_of_text(name: str, content: bytes, kind: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LuthierError, match=rf"{name}:\d: not UTF-8 text: .*the file seems to be .*{kind}"):
        count(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"prompt,completion\na,b\nc,d\0e\n"),
        ("a.tsv", b"prompt\tcompletion\na\tb\nc\td\0e\n"),
        ("a.txt", b"one\ntwo\nthr\0ee\n"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "b"}\n{"text": "\0"}\n'),
        ("a.json", b'[{"text": "a"},\n{"text": "b"},\n{"text": "\0"}]\n'),
    ],
)
def test_zero_bytes_are_told_with_their_line(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LuthierError, match=rf"{name}:3: the line holds a zero byte"):
        count(tmp_path / name)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "stream.arrow"])
def test_columnar_files_cut_short(name: str, share: float, tmp_path: Path) -> None:
    path, table = tmp_path / name, pa.Table.from_pylist(ROWS)
    if name == "a.parquet":
        pq.write_table(table, path)
    else:
        make = pa.ipc.new_stream if name == "stream.arrow" else pa.ipc.new_file
        with make(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=20)
    assert count(path) == len(ROWS)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(LuthierError, match=rf"{name}: cannot be read as {path.suffix[1:]}: \S"):
        count(path)


def test_a_columnar_file_packed_once_more_and_one_with_bytes_for_text(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    (tmp_path / "a.parquet.gz").write_bytes(gzip.compress((tmp_path / "a.parquet").read_bytes()))
    with pytest.raises(LuthierError, match=r"(?s)a.parquet.gz: a parquet file cannot be read through .gz.*unpack it"):
        count(tmp_path / "a.parquet.gz")
    gbk = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xc4\xe3")])
    pq.write_table(pa.table({"text": gbk}), tmp_path / "b.parquet")
    with pytest.raises(LuthierError, match=r"b.parquet: cannot be read as parquet: a text in it is not UTF-8"):
        count(tmp_path / "b.parquet")


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt", "a.parquet", "a.arrow"])
def test_pointers_that_git_lfs_leaves_and_pdfs(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n")
    with pytest.raises(LuthierError, match=rf"{name}: .*a pointer of Git LFS \(`git lfs pull`"):
        count(tmp_path / name)
    (tmp_path / name).write_bytes(b"%PDF-1.7\n\xe2\xe3")
    with pytest.raises(LuthierError, match=rf"{name}: .*a PDF"):
        count(tmp_path / name)


def test_archives_and_sheets_are_named_with_what_to_do(tmp_path: Path) -> None:
    for name, fix in (("a.zip", "unpack it"), ("a.tar.gz", "unpack it"), ("a.xlsx", "save the sheet as .csv")):
        (tmp_path / name).write_bytes(b"PK")
        with pytest.raises(LuthierError, match=f"(?s){name}: unknown kind of file.*{fix}"):
            count(tmp_path / name)


def test_a_number_too_long_to_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": ' + "1" * 5000 + "}\n")
    with pytest.raises(LuthierError, match=r"a.jsonl:2: the JSON cannot be read: .*digits"):
        count(tmp_path / "a.jsonl")
