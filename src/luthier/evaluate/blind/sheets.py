"""Sheets of a blind comparison for people who judge on paper or in a spreadsheet, one a rater."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from luthier.errors import LuthierError
from luthier.evaluate.blind.folder import Blind, Said, verdict_of
from luthier.run import write_atomically

COLUMNS = ("sheet", "item", "prompt", "answer 1", "answer 2", "verdict")
MARKS = {"1": "left", "2": "right", "0": "tie", "tie": "tie", "=": "tie", "平": "tie", "平局": "tie"}
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet would take for a formula when a text begins with it."""


def write(blind: Blind, raters: int) -> list[Path]:
    """So many sheets, `rater-1.csv` and on; each has an order of its own, and says in each row which sheet it is, so
    that the file may be renamed. One that is there stays as it is."""
    found = []
    for number in range(1, raters + 1):
        rater = f"rater-{number}"
        path = blind.sheets / f"{rater}.csv"
        found.append(path)
        if path.exists():
            continue
        lines = io.StringIO()
        sheet = csv.writer(lines)
        sheet.writerow(COLUMNS)
        for name in blind.order(rater):
            item = blind.items[name]
            prompt = "\n\n".join(text if role == "user" else f"[{role}] {text}" for role, text in item.prompt)
            first, second = (item.x, item.y) if blind.left(rater, name) == "x" else (item.y, item.x)
            sheet.writerow([rater, name, *map(_plain, (prompt, first, second)), ""])
        write_atomically(path, "\ufeff" + lines.getvalue())  # the mark by which spreadsheets know UTF-8
    return found


def read(blind: Blind) -> dict[str, dict[str, Said]]:
    """What each rater has said, by item; rows without a verdict are not judged. Raises LuthierError, with file and
    line, for a verdict that is none."""
    found: dict[str, dict[str, Said]] = {}
    for path in sorted(blind.sheets.glob("*.csv")) if blind.sheets.is_dir() else ():
        said: dict[str, Said] = {}
        for line, row in _rows(path):
            mark = (row.get("verdict") or "").strip().strip(".").casefold()
            name = (row.get("item") or "").strip()
            name = name if name in blind.items else _padded(blind, name)
            if name not in blind.items:
                what = f"the sheet names the item {row.get('item')!r}, which is not there"
                raise LuthierError(what, where=f"{path}:{line}", fix="leave the column `item` as it was")
            if not mark:
                continue
            if mark not in MARKS:
                raise LuthierError(
                    f"the verdict is {row.get('verdict')!r}",
                    where=f"{path}:{line}",
                    fix="write 1, 2, 0 (a tie), or nothing",
                )
            said[name] = verdict_of(blind.left((row.get("sheet") or "").strip(), name), MARKS[mark])
        if said:
            found[path.stem] = said
    return found


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """The rows with their lines, whatever divides them: spreadsheets of many countries write semicolons."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise LuthierError("the sheet is not in UTF-8", where=str(path), fix="save it as CSV UTF-8") from error
    head = text.partition("\n")[0]
    divider = max(",;\t", key=head.count)
    reader = csv.DictReader(io.StringIO(text), delimiter=divider)
    if not {"sheet", "item", "verdict"} <= set(reader.fieldnames or ()):
        raise LuthierError(
            "the sheet lacks a column (sheet, item, verdict)", where=str(path), fix="leave its first line as it was"
        )
    return [(reader.line_num, row) for row in reader]


def _padded(blind: Blind, name: str) -> str:
    """Spreadsheets take noughts off numbers: 7 is 07."""
    width = len(next(iter(blind.items), ""))
    return name.zfill(width) if name.isdigit() else name


def _plain(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA) else text
