"""GSM8K: sums in words, for grade school."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar

from pydantic import Field

from luthier.evaluate.benchmarks.benchmark import Benchmark, Item, Tell, drawn
from luthier.evaluate.benchmarks.published import need, rows
from luthier.scorers.maths import Maths
from luthier.scorers.metric import Metric
from luthier.types import Sampling


@dataclass(frozen=True)
class GSM8K(Benchmark):
    """Sums in words with worked solutions: is the number at the end right?"""

    title: ClassVar[str] = "GSM8K"
    paper: ClassVar[str] = "https://arxiv.org/abs/2110.14168"
    licence: ClassVar[str] = "MIT"
    hub: ClassVar[str] = "openai/gsm8k"

    shots: Annotated[int, Field(ge=0)] = 5
    """Worked sums before each, the same before all, drawn by seed from the training split."""
    max_new_tokens: Annotated[int, Field(gt=0)] = 256
    """Longest answer, in tokens."""

    def metrics(self) -> dict[str, Metric]:
        return {"maths": Maths(symbolic=False)}

    @property
    def sampling(self) -> Sampling:
        return Sampling(max_new_tokens=self.max_new_tokens, stop=() if self.template else ("Question:",))

    def items(self, tell: Tell) -> list[Item]:
        return self._of_split("test")

    def shots_of(self, item: Item) -> Sequence[Item]:
        return self._shots

    @cached_property
    def _shots(self) -> Sequence[Item]:
        return drawn(self._of_split("train"), self.shots, self.seed) if self.shots else ()

    def _of_split(self, split: str) -> list[Item]:
        found = []
        for where, row in rows(self.path, (split,), self.title, hub=self.hub, config="main"):
            question, answer = need(row, ("question", "answer"), where, self.title)
            found.append(Item(f"Question: {question}\nAnswer:", str(answer), source=where))
        return found


@dataclass(frozen=True)
class Math500(Benchmark):
    """500 problems of MATH, competition mathematics: is the expression that the solution ends with equal to the known
    one? The problem is put with an instruction of ours, through the chat template."""

    title: ClassVar[str] = "MATH-500"
    paper: ClassVar[str] = "https://arxiv.org/abs/2103.03874"
    hub: ClassVar[str] = "HuggingFaceH4/MATH-500"
    ASKS: ClassVar[str] = "Solve the problem step by step. Write the final answer in \\boxed{}."

    template: bool = True
    """Ask through the chat template. false: as `Problem: …`, `Solution:` in plain text."""
    max_new_tokens: Annotated[int, Field(gt=0)] = 1024
    """Longest answer, in tokens."""

    def metrics(self) -> dict[str, Metric]:
        return {"maths": Maths()}

    @property
    def sampling(self) -> Sampling:
        return Sampling(max_new_tokens=self.max_new_tokens, stop=() if self.template else ("Problem:",))

    def items(self, tell: Tell) -> list[Item]:
        found = []
        for where, row in rows(self.path, ("test",), self.title, hub=self.hub):
            problem, answer = need(row, ("problem", "answer"), where, self.title)
            asked = f"{problem}\n\n{self.ASKS}" if self.template else f"Problem:\n{problem}\n\nSolution:"
            about = str(row.get("subject") or "")
            found.append(Item(asked, str(answer), subject=about, source=where))
        return found
