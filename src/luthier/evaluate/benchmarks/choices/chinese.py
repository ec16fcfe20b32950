"""CMMLU and C-Eval: examinations in Chinese, subject by subject."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from luthier.evaluate.benchmarks.choices.chinese_names import CEVAL_SUBJECTS, CMMLU_SUBJECTS
from luthier.evaluate.benchmarks.choices.subjects import Subjects
from luthier.evaluate.benchmarks.published import hub_rows
from luthier.types import Source


@dataclass(frozen=True)
class Chinese(Subjects):
    """What the Chinese examinations have in common: the hub has a configuration for each subject."""

    asks: ClassVar[str] = "答案："
    names: ClassVar[Mapping[str, str]]
    """The subjects, and what they are called in the prompt."""

    def from_hub(self, splits: Sequence[str]) -> Iterator[tuple[Source, Mapping[str, Any]]]:
        for subject in self.subjects or self.names:
            for where, row in hub_rows(self.hub, subject, splits[0], self.title):
                yield where, {**row, "subject": subject}

    def named(self, subject: str) -> str:
        """A subject as the prompt calls it."""
        return self.names.get(subject, subject)


@dataclass(frozen=True)
class CMMLU(Chinese):
    """Which of four answers is right, in 67 subjects, many of them particular to China."""

    title: ClassVar[str] = "CMMLU"
    paper: ClassVar[str] = "https://arxiv.org/abs/2306.09212"
    hub: ClassVar[str] = "haonan-li/cmmlu"
    columns: ClassVar[tuple[str, ...]] = ("Question", "A", "B", "C", "D", "Answer")
    names: ClassVar[Mapping[str, str]] = CMMLU_SUBJECTS

    def described(self, subject: str) -> str:
        return f"以下是关于{self.named(subject)}的单项选择题，请直接给出正确答案的选项。\n\n"


@dataclass(frozen=True)
class CEval(Chinese):
    """Which of four answers is right, in 52 subjects from middle school to profession. Answers are public for the
    validation split alone, so that is scored."""

    title: ClassVar[str] = "C-Eval"
    paper: ClassVar[str] = "https://arxiv.org/abs/2305.08322"
    hub: ClassVar[str] = "ceval/ceval-exam"
    splits: ClassVar[tuple[str, ...]] = ("val", "validation")
    names: ClassVar[Mapping[str, str]] = CEVAL_SUBJECTS

    def described(self, subject: str) -> str:
        return f"以下是中国关于{self.named(subject)}的单项选择题，请选出其中的正确答案。\n\n"
