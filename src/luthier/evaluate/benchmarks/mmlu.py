"""MMLU: 57 subjects from school to profession."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from luthier.evaluate.benchmarks.published import file_rows, headerless, hub_rows
from luthier.evaluate.benchmarks.subjects import Subjects
from luthier.types import Source


@dataclass(frozen=True)
class MMLU(Subjects):
    """Which of four answers is right, in 57 subjects from abstract algebra to world religions."""

    title: ClassVar[str] = "MMLU"
    paper: ClassVar[str] = "https://arxiv.org/abs/2009.03300"
    licence: ClassVar[str] = "MIT"
    hub: ClassVar[str] = "cais/mmlu"

    def described(self, subject: str) -> str:
        about = subject.replace("_", " ")
        return f"The following are multiple choice questions (with answers) about {about}.\n\n"

    def from_hub(self, splits: Sequence[str]) -> Iterator[tuple[Source, Mapping[str, Any]]]:
        return hub_rows(self.hub, "all", splits[0], self.title)

    def from_file(self, file: Path) -> Iterator[tuple[Source, Mapping[str, Any]]]:
        return headerless(file, self.columns) if file.suffix in (".csv", ".tsv") else file_rows(file)
