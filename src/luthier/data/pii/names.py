"""Names and postal addresses: rules cannot find them, so a recogniser is handed in, typed by a protocol."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, Protocol

from pydantic import BeforeValidator, ConfigDict, Field

from luthier.data.pii.finding import settled
from luthier.data.pii.found import NAMED, Found
from luthier.errors import LuthierError
from luthier.recipe.keys import listed

NamedKind = Literal["person", "address", "organisation"]
USUAL: Mapping[str, str] = {
    **dict.fromkeys(("PER", "PERSON", "NAME", "PERSON_NAME", "FIRSTNAME", "LASTNAME"), "person"),
    **dict.fromkeys(("ADDRESS", "STREET", "STREET_ADDRESS", "STREETADDRESS", "POSTAL_ADDRESS"), "address"),
    **dict.fromkeys(("ORG", "ORGANIZATION", "ORGANISATION", "COMPANY"), "organisation"),
}
"""What labels of recognisers usually mean. Places (LOC, GPE) are none: not each Paris is somebody's address."""
_STAND_IN = re.compile(rf"\[(?:{'|'.join(kind.upper() for kind in NAMED)})(?:-[b-z]{{8}})?\]")


@dataclass(frozen=True)
class Names:
    """Who finds names, and which. `names: FOLDER` is `names: {model: FOLDER}`."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    model: str | None = None
    """The folder of a model that labels tokens (transformers' token classification: BERT and its kin)."""
    spacy: str | None = None
    """Or an installed pipeline of spaCy's (extra `names`), by its name, or its folder."""
    find: Annotated[tuple[NamedKind, ...], BeforeValidator(listed), Field(min_length=1)] = ("person", "address")
    """What is looked for."""
    labels: dict[str, NamedKind] = field(default_factory=dict)
    """What further labels of the recogniser mean: `{GPE: address}`. PER, PERSON, ADDRESS, ORG and their like are
    known."""
    least: Annotated[float, Field(gt=0, le=1)] = 0.5
    """How sure a model must be of a word's label; spaCy does not say."""

    def __post_init__(self) -> None:
        if (self.model is None) == (self.spacy is None):
            raise ValueError("give one of model and spacy: who finds names")

    def meaning(self, labels: Iterable[str], where: str) -> dict[str, str]:
        """What each of a recogniser's labels (without B-, I-) means, of those that are looked for. Raises LuthierError
        where there is none."""
        labels = sorted(set(labels))
        known = {**USUAL, **{label.upper(): kind for label, kind in self.labels.items()}}
        found: dict[str, str] = {
            label: kind for label in labels if (kind := known.get(label.upper())) is not None and kind in self.find
        }
        if not found:
            raise LuthierError(
                f"the recogniser has no label that means {' or '.join(self.find)}: its labels are {', '.join(labels)}",
                where=where,
                fix="say what they mean, for instance `pii: {names: {…, labels: {GPE: address}}}`",
            )
        return found


def as_names(value: Any) -> Any:
    """A bare folder is a model's."""
    return {"model": value} if isinstance(value, str) else value


class Recogniser(Protocol):
    """Finds persons, addresses and organisations. A model of the user's, spaCy's, or a language model that is asked."""

    @property
    def identity(self) -> str:
        """What its findings hang on: weights, version. Known without opening it."""
        ...

    def __call__(self, texts: Sequence[str]) -> Sequence[Sequence[tuple[int, int, str]]]:
        """For each text (start, end, kind), the kinds being those of `NAMED`."""
        ...


def joined(text: str, found: Iterable[Found], named: Iterable[tuple[int, int, str]]) -> list[Found]:
    """What rules found and what a recogniser did; where both want a place, the rules have it. Our own stand-ins are no
    names.

    Raises LuthierError for a kind that is not known and a place that is not in the text.
    """
    told, hidden = [], [match.span() for match in _STAND_IN.finditer(text)]
    for start, end, kind in named:
        if kind not in NAMED or not 0 <= start < end <= len(text):
            raise LuthierError(
                f"a recogniser of names gave {kind!r} from {start} to {end} of a text of {len(text):,} characters",
                fix=f"kinds are {', '.join(NAMED)}, places are within the text",
            )
        if not any(start < last and first < end for first, last in hidden):
            told.append(Found(start, end, kind, kind))
    return settled(text, [*found, *told])
