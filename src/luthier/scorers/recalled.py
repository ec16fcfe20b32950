"""How much of what must be in a response is in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from luthier.scorers.metric import Metric, text
from luthier.types import Example, Response


@dataclass(frozen=True)
class Recalled(Metric):
    """The share of the texts in `meta["expected"]` that stand in the response, whatever the case."""

    needs_reference: ClassVar[bool] = False

    def lacks(self, example: Example) -> str | None:
        return None if example.meta.get("expected") else "nothing that is expected"

    def __call__(self, example: Example, response: Response) -> float | None:
        wanted = example.meta.get("expected") or ()
        said = text(response).casefold()
        return sum(str(one).casefold() in said for one in wanted) / len(wanted) if wanted else None
