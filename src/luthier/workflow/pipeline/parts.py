"""Files of a stage that are there whole, or not at all: written beside their names, put in place at the end."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TextIO


def begun(path: Path) -> TextIO:
    """A file that will be `path`, open for writing."""
    return path.with_name(f"{path.name}.part").open("w", encoding="utf-8", errors="backslashreplace")


def settled(*files: TextIO) -> None:
    """What was written lies on the disk when this returns."""
    for file in files:
        file.flush()
        os.fsync(file.fileno())


def put(path: Path) -> None:
    """The part is `path` from now on."""
    path.with_name(f"{path.name}.part").replace(path)
