"""HumanEval and MBPP: programs, run against their tests in the sandbox of the scorer `code`; pass@k."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from luthier.errors import LuthierError
from luthier.evaluate.benchmarks.benchmark import Benchmark, Item, Tell
from luthier.evaluate.benchmarks.published import need, rows
from luthier.scorers.code import Code
from luthier.scorers.metric import Metric
from luthier.scorers.pass_at_k import Once, PassAtK
from luthier.types import Sampling, Source


@dataclass(frozen=True)
class Programs(Benchmark):
    """What the sets of programs have in common: one greedy answer, or several drawn ones for pass@k."""

    max_new_tokens: Annotated[int, Field(gt=0)] = 512
    """Longest answer, in tokens."""
    samples: Annotated[int, Field(gt=0)] = 1
    """Answers to each task. pass@k is estimated from all of them, without bias."""
    temperature: Annotated[float, Field(ge=0)] | None = None
    """Default: 0 for one sample, 0.2 for several."""
    k: tuple[Annotated[int, Field(gt=0)], ...] = (1,)
    """For which k pass@k is told; at most `samples`. The first is the headline."""
    seconds: Annotated[float, Field(gt=0, le=3600)] = 5.0
    """CPU time that a program may use."""
    walls: Literal["required", "best"] = "required"
    """As of the scorer `code`."""

    def __post_init__(self) -> None:
        too_many = [k for k in self.k if k > self.samples]
        if too_many or not self.k:
            raise ValueError(f"k={list(self.k)} cannot be told from {self.samples} samples of each task")
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("several samples need a temperature above 0: greedily drawn answers are all the same")

    def metrics(self) -> dict[str, Metric]:
        code = Once(Code(seconds=self.seconds, walls=self.walls))
        return {f"pass@{k}": PassAtK(code, k) for k in self.k}

    @property
    @abstractmethod
    def stop(self) -> tuple[str, ...]:
        """What ends an answer in plain text."""

    @property
    def sampling(self) -> Sampling:
        temperature = self.temperature if self.temperature is not None else (0.2 if self.samples > 1 else 0.0)
        stop = () if self.template else self.stop
        return Sampling(max_new_tokens=self.max_new_tokens, temperature=temperature, stop=stop, seed=self.seed)

    @property
    def draws(self) -> int:
        return self.samples


@dataclass(frozen=True)
class HumanEval(Programs):
    """164 functions to complete from their signature and docstring."""

    title: ClassVar[str] = "HumanEval"
    paper: ClassVar[str] = "https://arxiv.org/abs/2107.03374"
    licence: ClassVar[str] = "MIT"
    hub: ClassVar[str] = "openai/openai_humaneval"
    ASKS: ClassVar[str] = "Complete this function. Answer with the whole function in one block of code."

    @property
    def stop(self) -> tuple[str, ...]:
        return ("\nclass", "\ndef", "\n#", "\nif", "\nprint")

    def items(self, tell: Tell) -> list[Item]:
        found = []
        for where, row in rows(self.path, ("test", "HumanEval"), self.title, hub=self.hub):
            begins, test, entry = map(str, need(row, ("prompt", "test", "entry_point"), where, self.title))
            asked = begins
            if self.template:
                asked = f"{self.ASKS}\n\n```python\n{begins.strip()}\n```"
            meta = {"tests": test, "begins": begins, "entry_point": entry.strip(), "task": row.get("task_id")}
            found.append(Item(asked, str(row.get("canonical_solution") or ""), source=where, meta=meta))
        return found


@dataclass(frozen=True)
class MBPP(Programs):
    """500 short tasks in words, each with three asserts that the prompt shows (task ids 11 to 510 of the file)."""

    title: ClassVar[str] = "MBPP"
    paper: ClassVar[str] = "https://arxiv.org/abs/2108.07732"
    licence: ClassVar[str] = "CC BY 4.0"
    hub: ClassVar[str] = "google-research-datasets/mbpp"
    between: ClassVar[str] = ""
    SHOTS: ClassVar[tuple[int, ...]] = (2, 3, 4)
    SCORED: ClassVar[range] = range(11, 511)

    shots: Annotated[int, Field(ge=0, le=3)] = 3
    """So many of the authors' three solved tasks (ids 2, 3 and 4) stand before each."""

    @property
    def stop(self) -> tuple[str, ...]:
        return ("[DONE]",)

    def items(self, tell: Tell) -> list[Item]:
        return [item for number, item in self._numbered if number in self.SCORED]

    def shots_of(self, item: Item) -> Sequence[Item]:
        known = dict(self._prompts)
        lacking = [number for number in self.SHOTS[: self.shots] if number not in known]
        if lacking:
            what = f"{self.title}: the tasks {', '.join(map(str, lacking))}, which stand before each, are not here"
            raise LuthierError(what, where=self.path, fix="take the whole published file, or set shots=0")
        return [known[number] for number in self.SHOTS[: self.shots]]

    @cached_property
    def _numbered(self) -> list[tuple[int, Item]]:
        return self._read(("test", "mbpp"))

    @cached_property
    def _prompts(self) -> list[tuple[int, Item]]:
        """The hub has the solved tasks in a split of their own."""
        return self._read(("prompt",)) if self.path is None else self._numbered

    def _read(self, splits: Sequence[str]) -> list[tuple[int, Item]]:
        read = rows(self.path, (*splits, "test", "mbpp"), self.title, hub=self.hub, config="full")
        return [self._item(row, where) for where, row in read]

    def _item(self, row: Mapping[str, Any], where: Source) -> tuple[int, Item]:
        number, text, code, tests = need(row, ("task_id", "text", "code", "test_list"), where, self.title)
        shown = "\n".join(map(str, tests))
        asked = (
            f"You are an expert Python programmer, and here is your task: {text} Your code should pass these tests:"
            f"\n\n{shown}\n"
        )
        meta = {"tests": list(tests), "setup": str(row.get("test_setup_code") or ""), "solution": str(code)}
        answer = f"{code}\n[DONE]"
        if self.template:
            asked, answer = asked + "\nAnswer with one block of code.", f"```python\n{code}\n```"
        else:
            asked += "[BEGIN]\n"
        return int(number), Item(asked, answer, source=where, meta=meta)
