"""Rows that `luthier curate` has written whole, because messages could not say all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from luthier.data.reading.formats.shape import BadRow, Row, Shape, kind
from luthier.types import Example


@dataclass(frozen=True)
class Curated(Shape):
    """What `luthier curate` writes of rows that messages cannot say: judged ones, plain texts, tests of programs."""

    needs: ClassVar = (("example",),)
    gives: ClassVar = "the row as it was: prompt, responses with what is known of them, answer, tools"

    def read(self, row: Row) -> Example:
        from luthier.data.curation.lines import of_row

        if not isinstance(row["example"], dict):
            raise BadRow(f"'example' is {kind(row['example'])}, not an object")
        return of_row({"example": row["example"]})
