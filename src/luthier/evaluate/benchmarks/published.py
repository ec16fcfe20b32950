"""The files of a benchmark in their published format: a split of a folder, one file, or the hub."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from luthier.errors import LuthierError
from luthier.types import Source

SHOWN = 5
HEADERLESS = (".csv", ".tsv")


def split_files(path: str, splits: Sequence[str], title: str) -> list[Path]:
    """The files of the first of these splits that there is; of a file, itself. A file belongs to a split by a part of
    its name (`anatomy_dev.csv`, `test-00000-of-00001.parquet`) or by its folder.

    Raises LuthierError where none does.
    """
    root = Path(path).expanduser()
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise LuthierError(f"{title}: there is no such file or folder", where=path, fix="mend `path:`")
    known = _data_files(root)
    for split in splits:
        found = [file for file in known if _is_of(file, root, split)]
        if found:
            return found
    held = ", ".join(str(file.relative_to(root)) for file in known[:SHOWN]) or "nothing that is read"
    raise LuthierError(
        f"{title}: no file of the split {' or '.join(repr(one) for one in splits)} (the folder holds {held})",
        where=path,
        fix=f"name the files by their split, as published ({splits[0]}.jsonl, or a folder {splits[0]}/)",
    )


def _data_files(root: Path) -> list[Path]:
    from luthier.data.reading.sources import READERS, suffix

    readable = (file for file in root.rglob("*") if file.is_file() and suffix(file) in READERS)
    return sorted(file for file in readable if not any(part.startswith(".") for part in file.relative_to(root).parts))


def _is_of(file: Path, root: Path, split: str) -> bool:
    folders = file.relative_to(root).parts[:-1]
    return split in folders or bool(re.search(rf"(^|[-_.]){re.escape(split)}([-_.]|$)", file.name))


def without_split(file: Path, splits: Sequence[str]) -> str:
    """What a file is about: `anatomy_dev.csv` and `anatomy/dev-00000.parquet` are anatomy."""
    words = [word for word in re.split(r"[-.]", file.name.split(".")[0]) if word]
    name = "_".join(words)
    for split in splits:
        name = re.sub(rf"(^|_){split}(_\d+(_of_\d+)?)?$", "", name)
    return name or file.parent.name


def rows(
    path: str | None, splits: Sequence[str], title: str, *, hub: str = "", config: str | None = None
) -> Iterator[tuple[Source, Mapping[str, Any]]]:
    """The rows of a split, each with its place; from the hub where there is no path."""
    if path is None:
        yield from hub_rows(hub, config, splits[0], title)
        return
    for file in split_files(path, splits, title):
        yield from file_rows(file)


def file_rows(file: Path) -> Iterator[tuple[Source, Mapping[str, Any]]]:
    """The rows of a file with a header, or of one whose rows name their columns."""
    from luthier.data.reading.sources import READERS, suffix

    for number, row in READERS[suffix(file)](file):
        yield Source(str(file), number), row


def hub_rows(hub: str, config: str | None, split: str, title: str) -> Iterator[tuple[Source, Mapping[str, Any]]]:
    """The rows of a split of a hub data set. Raises LuthierError where the hub cannot be asked."""
    from luthier.data.reading.feeds import feed
    from luthier.recipe import Source as Entry

    if not hub:
        raise LuthierError(f"{title} is read from files alone", fix="give them as `path:`")
    for part in feed(Entry(hub=hub, name=config, split=split)).parts:
        yield from part.read(lambda _, __: None)


def headerless(file: Path, names: Sequence[str]) -> Iterator[tuple[Source, Mapping[str, Any]]]:
    """The rows of a table whose first line is a row already; with a header that has these names, as any other."""
    separator = "\t" if file.suffix == ".tsv" else ","
    with file.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.reader(lines, delimiter=separator)
        for fields in reader:
            where = Source(str(file), reader.line_num)
            if not fields or [one.strip().lower() for one in fields[: len(names)]] == [n.lower() for n in names]:
                continue
            if len(fields) != len(names):
                raise LuthierError(
                    f"the row has {len(fields)} fields, and {len(names)} are published: {', '.join(names)}",
                    where=str(where),
                    fix="take the published file",
                )
            yield where, dict(zip(names, fields, strict=True))


def need(row: Mapping[str, Any], names: Sequence[str], where: Source, title: str) -> list[Any]:
    """The values of columns that must be there. Raises LuthierError that names those that are not."""
    lacking = [name for name in names if row.get(name) is None]
    if lacking:
        raise LuthierError(
            f"{title}: the row lacks {', '.join(lacking)} (it has {', '.join(row)})",
            where=str(where),
            fix=f"take the published file: its columns are {', '.join(names)}",
        )
    return [row[name] for name in names]


def place_of(answer: Any, labels: Sequence[str], where: Source, title: str) -> int:
    """Which of the labels an answer is: by itself (`B`), or by number from 0. Raises LuthierError for another."""
    text = str(answer).strip()
    if text in labels:
        return labels.index(text)
    if text.isdigit() and int(text) < len(labels):
        return int(text)
    raise LuthierError(
        f"{title}: the answer is {answer!r}, none of {', '.join(labels)}", where=str(where), fix="mend the row"
    )
