"""Saved web pages and archives of them: what a page is about, as text, or its questions with their answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from luthier.data.pages.archives import crawled
from luthier.data.pages.markup import decoded, tree, without_programs
from luthier.data.pages.questions import questions
from luthier.data.reading.formats.shape import BadRow
from luthier.data.reading.materials import Material, PlacedRow, Tell, ending
from luthier.data.reading.unpacking import opened
from luthier.errors import missing_extra
from luthier.types import Source

ARCHIVES = (".warc", ".wet")
NO_TEXT = "the page holds no text"
NO_QUESTIONS = "the page marks no questions with answers"


@dataclass(frozen=True, kw_only=True)
class Pages(Material):
    """Web pages (saved HTML; WARC and WET files)."""

    rows: Literal["auto", "text", "questions"] = "auto"
    """auto: questions with their answers where a page marks them as such, else its text; or one of the two alone."""

    endings: ClassVar = (".html", ".htm", ".xhtml", ".warc", ".wet")
    gives: ClassVar = "questions with their answers where a page marks them, else its text without menus and the like"
    mixed: ClassVar = True

    def read(self, files: Sequence[Path], tell: Tell) -> Iterator[PlacedRow]:
        for file in files:
            if ending(file) not in ARCHIVES:
                with opened(file) as content:
                    yield from self.rows_of(content.read(), Source(str(file), 1))
                continue
            for page in crawled(file):
                place = Source(str(file), page.number)
                if page.plain:
                    text = decoded(page.content, page.charset).strip()
                    yield place, {"text": text} if text else BadRow(NO_TEXT)
                else:
                    yield from self.rows_of(page.content, place, page.charset)

    def rows_of(self, content: bytes, place: Source, charset: str | None = None) -> Iterator[PlacedRow]:
        """The rows of one page. Its questions have the lines on which they stand."""
        page = tree(decoded(content, charset)) if content.strip() else None
        asked = questions(page) if page is not None and self.rows != "text" else []
        for one in asked:
            yield place, {"question": one.question, "answer": one.answer}
        if asked:
            return
        if self.rows == "questions":
            yield place, BadRow(NO_QUESTIONS, "read it with `rows: auto`, or leave the page out")
            return
        text = main_text(page) if page is not None else ""
        yield place, {"text": text} if text else BadRow(NO_TEXT)


def main_text(page: Any) -> str:
    """What a page is about, without menus, advertisements and what else stands on every page of a site."""
    try:
        import trafilatura
    except ImportError:
        raise missing_extra("trafilatura", "web", "reading web pages") from None
    return (trafilatura.extract(without_programs(page), fast=True, include_comments=False) or "").strip()


__all__ = ["Pages", "main_text"]
