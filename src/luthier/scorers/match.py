"""Scorers that look for the reference itself: the whole answer, a part cut out of it, or the reference within it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import ClassVar

from luthier.errors import LuthierError
from luthier.scorers.metric import Metric, reference, text
from luthier.types import Example, Response


def number(text: str) -> Decimal | None:
    """The number a text is, or None: `$1,000.50`, `72.`, `−3` and `5 %` are 1000.50, 72, −3 and 5."""
    bare = text.strip().replace("−", "-").lstrip("$€£¥ ").rstrip("%°. ").replace(",", "")
    try:
        value = Decimal(bare)
    except InvalidOperation:
        return None
    return value if value.is_finite() else None


@dataclass(frozen=True)
class ExactMatch(Metric):
    """1 when the response equals the reference, otherwise 0."""

    strip: bool = True
    """Ignore white space at both ends."""
    casefold: bool = False
    """Ignore case."""
    regex: str | None = None
    """Compare only what this finds: its last match, in it the first group if there is one. GSM8K: '#### *(\\S+)'.
    A response without a match scores 0; a reference without one is taken whole."""
    numeric: bool = False
    """Compare as numbers where both are numbers: 1,000 = 1000.0."""

    def __post_init__(self) -> None:
        if self.regex is not None:
            try:
                re.compile(self.regex)
            except re.error as error:
                raise LuthierError(
                    f"scorer 'exact_match', key 'regex': not a regular expression: {error}",
                    where=repr(self.regex),
                    fix="mend it; in YAML put it in single quotes",
                ) from error

    def __call__(self, example: Example, response: Response) -> float | None:
        expected = reference(example)
        if expected is None:
            return None
        found = self._extract(text(response))
        if found is None:
            return 0.0
        extracted = self._extract(expected)
        return float(self._equal(expected if extracted is None else extracted, found))

    def _extract(self, text: str) -> str | None:
        if self.regex is None:
            return text
        matches = list(re.finditer(self.regex, text))
        if not matches:
            return None
        return matches[-1].group(1 if matches[-1].re.groups else 0) or ""

    def _equal(self, left: str, right: str) -> bool:
        if self.numeric:
            numbers = number(left), number(right)
            if None not in numbers:
                return numbers[0] == numbers[1]
        if self.strip:
            left, right = left.strip(), right.strip()
        return left.casefold() == right.casefold() if self.casefold else left == right


@dataclass(frozen=True)
class Contains(Metric):
    """1 when the response contains the reference, otherwise 0."""

    casefold: bool = True
    """Ignore case."""
    whole_words: bool = False
    """Not inside a longer word or number: 5 is not in 15. For scripts that put spaces between words."""

    def lacks(self, example: Example) -> str | None:
        return None if (reference(example) or "").strip() else "no `answer` that says anything"

    def __call__(self, example: Example, response: Response) -> float | None:
        expected = (reference(example) or "").strip()
        if not expected:  # nothing is contained in everything
            return None
        said = text(response)
        if self.casefold:
            expected, said = expected.casefold(), said.casefold()
        if self.whole_words:
            return float(re.search(rf"(?<!\w){re.escape(expected)}(?!\w)", said) is not None)
        return float(expected in said)


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
