"""Names and postal addresses: rules cannot find them, so a recogniser is handed in, typed by a protocol."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from luthier.data.pii.finding import settled
from luthier.data.pii.found import NAMED, Found
from luthier.errors import LuthierError


class Recogniser(Protocol):
    """Finds persons, addresses and organisations. A model of the user's, spaCy's, or a language model that is asked."""

    def __call__(self, texts: Sequence[str]) -> Sequence[Sequence[tuple[int, int, str]]]:
        """For each text (start, end, kind), the kinds being those of `NAMED`."""
        ...


def joined(text: str, found: Iterable[Found], named: Iterable[tuple[int, int, str]]) -> list[Found]:
    """What rules found and what a recogniser did; where both want a place, the rules have it.

    Raises LuthierError for a kind that is not known and a place that is not in the text.
    """
    told = []
    for start, end, kind in named:
        if kind not in NAMED or not 0 <= start < end <= len(text):
            raise LuthierError(
                f"a recogniser of names gave {kind!r} from {start} to {end} of a text of {len(text):,} characters",
                fix=f"kinds are {', '.join(NAMED)}, places are within the text",
            )
        told.append(Found(start, end, kind, kind))
    return settled(text, [*found, *told])
