"""IFEval: instructions that a program can check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field

from luthier.errors import LuthierError
from luthier.evaluate.benchmarks.benchmark import Benchmark, Item, Tell
from luthier.evaluate.benchmarks.published import need, rows
from luthier.registry import suggest
from luthier.scorers.instructions import KINDS, Follows
from luthier.scorers.metric import Metric
from luthier.types import Sampling, Source


@dataclass(frozen=True)
class IFEval(Benchmark):
    """541 prompts with one to three instructions each ("no commas", "at least 300 words") that a program checks.
    Strict: the answer as it is; loose: also without its first or last line, and without asterisks."""

    title: ClassVar[str] = "IFEval"
    paper: ClassVar[str] = "https://arxiv.org/abs/2311.07911"
    licence: ClassVar[str] = "Apache-2.0"
    hub: ClassVar[str] = "google/IFEval"

    template: bool = True
    """Ask through the chat template: these are instructions. false: the prompt alone, as plain text."""
    max_new_tokens: Annotated[int, Field(gt=0)] = 1280
    """Longest answer, in tokens."""

    def metrics(self) -> dict[str, Metric]:
        return {
            "prompts, strict": Follows(),
            "prompts, loose": Follows(loose=True),
            "instructions, strict": Follows(each=True),
            "instructions, loose": Follows(loose=True, each=True),
        }

    @property
    def sampling(self) -> Sampling:
        return Sampling(max_new_tokens=self.max_new_tokens)

    def items(self, tell: Tell) -> list[Item]:
        return [
            self._item(row, where)
            for where, row in rows(self.path, ("train", "input_data", "test"), self.title, hub=self.hub)
        ]

    def _item(self, row: Mapping[str, Any], where: Source) -> Item:
        prompt, names, given = need(row, ("prompt", "instruction_id_list", "kwargs"), where, self.title)
        for name in names:
            if name not in KINDS:
                what = f"{self.title} knows no instruction {name!r}"
                raise LuthierError(what, where=str(where), fix=suggest(name, list(KINDS)))
        self._one_each(names, given, where)
        instructions = tuple((name, _given(one)) for name, one in zip(names, given, strict=True))
        return Item(str(prompt), "", source=where, meta={"instructions": instructions})

    def _one_each(self, names: Sequence[str], given: Sequence[Any], where: Source) -> None:
        if len(names) != len(given):
            what = f"{self.title}: {len(names)} instructions, and arguments for {len(given)}"
            raise LuthierError(what, where=str(where), fix="take the published file")


def _given(arguments: Mapping[str, Any] | None) -> dict[str, Any]:
    """The arguments of an instruction; the hub fills those of other kinds with null."""
    return {key: value for key, value in (arguments or {}).items() if value is not None}
