"""Raw material that holds no rows yet (chats, logs, pages, trees of answers), and what makes rows of it.

A row format reads one row. A material reads whole files, several together where they belong together, and gives rows of
the known shapes: a chat becomes conversations, a page questions with their answers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, cast

from luthier.data.reading.formats.shape import BadRow
from luthier.data.reading.unpacking import opened, unpacked_name
from luthier.errors import LuthierError
from luthier.registry import Registry
from luthier.types import Source

PlacedRow = tuple[int | Source, Any]
"""A row (or a BadRow, to be dropped with its reason) and its place: a line, or a line of one of several files."""
Tell = Callable[[str, Source | None], None]
"""Takes what the ledger is to say, and the row that it says it of."""
BEGINNING = 1 << 16
"""Bytes of a file that tell what it is."""

MATERIALS: Registry = Registry(
    "material",
    {
        "whatsapp": "luthier.data.exports.whatsapp:WhatsApp",
        "wechat": "luthier.data.exports.wechat:WeChat",
        "telegram": "luthier.data.exports.telegram:Telegram",
        "slack": "luthier.data.exports.slack:Slack",
        "discord": "luthier.data.exports.discord:Discord",
        "qq": "luthier.data.exports.qq:QQ",
        "openai_log": "luthier.data.exports.openai_log:OpenAILog",
        "oasst": "luthier.data.reading.trees:Oasst",
        "pages": "luthier.data.pages.pages:Pages",
        "links": "luthier.data.pages.links:Links",
        "documents": "luthier.data.pages.documents:Documents",
    },
)
CHATS = ("whatsapp", "wechat", "telegram", "slack", "discord", "qq")
"""Those that are known by what they look like: their files are never taken for rows."""
BY_ENDING = {
    ".html": "pages",
    ".htm": "pages",
    ".xhtml": "pages",
    ".warc": "pages",
    ".wet": "pages",
    ".pdf": "documents",
    ".docx": "documents",
}
"""Endings of files that are read as a material without being told."""


class Material(ABC):
    """Files of one kind. A frozen dataclass, whose fields are the keys under its name in `format:`."""

    endings: ClassVar[tuple[str, ...]]
    """Which files of a folder it reads."""
    gives: ClassVar[str]
    """What becomes of its files, for the documentation."""
    mixed: ClassVar[bool] = False
    """May rows of different shapes come from one file?"""

    @abstractmethod
    def read(self, files: Sequence[Path], tell: Tell) -> Iterator[PlacedRow]:
        """The rows of files that belong together. Raises LuthierError."""

    def gather(self, files: Sequence[Path]) -> list[tuple[Path, tuple[Path, ...]]]:
        """Which files belong together, each group with a name: by itself each, where nothing else is said."""
        return [(file, (file,)) for file in files]

    @classmethod
    def recognises(cls, path: Path, text: str) -> bool:
        """Do files of this kind begin like this?"""
        return False

    def over(self, rows: Iterator[PlacedRow], tell: Tell) -> Iterator[PlacedRow]:
        """Rows of rows that come from elsewhere (the hub). Raises LuthierError where this needs files."""
        raise LuthierError(f"{type(self).__name__.lower()} reads files, not a hub data set", fix="give a `path:`")


def ending(path: Path) -> str:
    """What a file's name ends with, that of compression taken off."""
    return unpacked_name(path).suffix.lower()


def known_by(path: Path) -> str | None:
    """Which chat export a file looks like; None where it looks like none."""
    kind = ending(path)
    if kind not in (".txt", ".json", ".csv"):
        return None
    told = path.stat()
    return _recognised(path, kind, told.st_size, told.st_mtime_ns)


@lru_cache(1 << 16)
def _recognised(path: Path, kind: str, size: int, time: int) -> str | None:
    """`size`, `time`: a file that has been written anew is looked at anew."""
    with opened(path) as file:
        text = file.read(BEGINNING).decode("utf-8-sig", "ignore")
    return next((name for name in CHATS if kind in _kind(name).endings and _kind(name).recognises(path, text)), None)


def _kind(name: str) -> type[Material]:
    return cast(type[Material], MATERIALS.get(name))


def materials_table() -> str:
    """The materials as a Markdown table, for the documentation."""
    lines = ["| material | files | gives |", "|---|---|---|"]
    for name in MATERIALS.names():
        kind = _kind(name)
        lines.append(f"| `{name}` | {', '.join(kind.endings)} | {kind.gives} |")
    return "\n".join(lines) + "\n"


__all__ = ["BY_ENDING", "MATERIALS", "BadRow", "Material", "PlacedRow", "Tell", "ending", "known_by", "materials_table"]
