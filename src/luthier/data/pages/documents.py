"""PDF and DOCX files: their text, as far as they hold it as text."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from luthier.data.reading.formats.shape import BadRow
from luthier.data.reading.materials import Material, PlacedRow, Tell, ending
from luthier.errors import LuthierError, missing_extra

HYPHENATED = re.compile(r"(?<=[a-zäöüéè])-\n(?=[a-zäöüéè])")
"""A word that goes on in the next line."""


@dataclass(frozen=True, kw_only=True)
class Documents(Material):
    """PDF and DOCX files, a text each."""

    endings: ClassVar = (".pdf", ".docx")
    gives: ClassVar = "the text of each; pages that are pictures hold none"

    def read(self, files: Sequence[Path], tell: Tell) -> Iterator[PlacedRow]:
        for file in files:
            text = (_pdf if ending(file) == ".pdf" else _docx)(file)
            yield (
                1,
                {"text": text}
                if text
                else BadRow(
                    "the document holds no text", "its pages may be pictures: run a program that reads them (OCR)"
                ),
            )


def _pdf(path: Path) -> str:
    try:
        from pypdf import PdfReader
        from pypdf.errors import PyPdfError
    except ImportError:
        raise missing_extra("pypdf", "documents", "reading PDF files") from None
    logging.getLogger("pypdf").setLevel(logging.ERROR)
    try:
        reader = PdfReader(path)
        if reader.is_encrypted and not reader.decrypt(""):
            raise LuthierError("the PDF is locked by a password", where=str(path), fix="save a copy without one")
        pages = [page.extract_text() for page in reader.pages]
    except (PyPdfError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(path, "PDF", error) from error
    text = "\n\n".join(page.strip() for page in pages if page.strip())
    return HYPHENATED.sub("", text).encode("utf-8", "ignore").decode()


def _docx(path: Path) -> str:
    try:
        import docx
        from docx.opc.exceptions import PackageNotFoundError
    except ImportError:
        raise missing_extra("python-docx", "documents", "reading DOCX files") from None
    import zipfile

    try:
        document: Any = docx.Document(str(path))
    except (PackageNotFoundError, zipfile.BadZipFile, KeyError, ValueError) as error:
        raise _damaged(path, "DOCX", error) from error
    blocks = []
    for block in document.iter_inner_content():
        rows = getattr(block, "rows", None)
        if rows is None:
            blocks.append(block.text.strip())
        else:
            blocks.append("\n".join("\t".join(cell.text.strip() for cell in row.cells) for row in rows))
    return "\n\n".join(block for block in blocks if block)


def _damaged(path: Path, kind: str, error: Exception) -> LuthierError:
    return LuthierError(
        f"the {kind} file cannot be read: {str(error).strip() or type(error).__name__}",
        where=str(path),
        fix="open it in the program that wrote it and save it again",
    )


__all__ = ["Documents"]
