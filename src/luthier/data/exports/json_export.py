"""JSON that a program has exported: read whole, its faults named."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from luthier.data.reading.text_files import whole_text
from luthier.errors import LuthierError


def content(path: Path, program: str) -> Any:
    """What the file holds. Raises LuthierError for broken JSON."""
    try:
        return json.loads(whole_text(path))
    except json.JSONDecodeError as error:
        raise LuthierError(
            f"broken JSON: {error.msg} (column {error.colno})",
            where=f"{path}:{error.lineno}",
            fix=f"export it from {program} again; the file may be cut short",
        ) from None
    except RecursionError:
        raise LuthierError("the JSON is nested too deeply to be read", where=str(path), fix="export it again") from None


def objects(value: Any, where: str, what: str) -> list[Mapping[str, Any]]:
    """A list of objects. Raises LuthierError for anything else."""
    if not isinstance(value, list) or not all(isinstance(each, Mapping) for each in value):
        raise LuthierError(f"{what} is no list of objects", where=where, fix="give the export as the program wrote it")
    return value


def text(value: Any) -> str:
    """A text; '' for what is none."""
    return value if isinstance(value, str) else ""


def name(value: Any) -> str:
    """A name, which may be a number; '' for what is none."""
    return str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""


__all__ = ["content", "name", "objects", "text"]
