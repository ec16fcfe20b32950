"""Rows without what tells who somebody is."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field

from luthier.data.cleaning import apply
from luthier.data.pii import KINDS, Names, Recogniser, as_names, find, joined, masked, pseudonyms
from luthier.data.pii.found import Kind
from luthier.data.steps.step import Dropped, Noted, Outcome, RowStep
from luthier.data.steps.texts.rewriting import rewritten
from luthier.data.steps.tools import Tools
from luthier.errors import LuthierError
from luthier.recipe.keys import listed
from luthier.types import Example, Turn

Region = Literal[
    "us", "cn", "gb", "fr", "de", "es", "it", "nl", "pl", "se", "fi", "be", "pt", "at", "ie", "dk", "br", "in"
]
KEY = "LUTHIER_PII_KEY"
"""The environment variable with the key of pseudonyms."""
SHORTEST = 8
Named = Mapping[str, Sequence[tuple[int, int, str]]]
"""What a recogniser found in each text."""


@dataclass(frozen=True)
class Pii(RowStep):
    """Finds e-mail addresses, numbers of telephones, cards, accounts and persons, addresses of machines, keys and
    passwords, and takes them out. What was found is counted by its kind; the values are written down nowhere. Names
    and postal addresses take a model: `names`."""

    private: ClassVar[bool] = True
    secret: ClassVar[bytes] = b""
    recogniser: ClassVar[Recogniser | None] = None

    action: Literal["mask", "pseudonym", "drop", "report"] = "mask"
    """`mask`: `[EMAIL]`; `pseudonym`: `[EMAIL-…]`, the same letters for the same value in the whole set, by a key;
    `drop`: the row goes; `report`: it is counted, and nothing changes."""
    kinds: Annotated[tuple[Kind, ...], BeforeValidator(listed), Field(min_length=1)] = KINDS  # type: ignore[assignment]
    """What to look for."""
    regions: Annotated[tuple[Region, ...], BeforeValidator(listed)] | None = None
    """Whose telephone and identity numbers. Default: all known. International forms are found everywhere."""
    key: str | None = None
    """For `pseudonym`: a file with the key. Default: the environment variable `LUTHIER_PII_KEY`."""
    names: Annotated[Names | None, BeforeValidator(as_names)] = None
    """What finds names and postal addresses, too: the folder of a model that labels tokens, or {spacy: PIPELINE}.
    Default: nothing does."""

    @property
    def wants(self) -> frozenset[str]:  # type: ignore[override]
        """A recogniser of names, where one is asked for."""
        return frozenset() if self.names is None else frozenset({"engine"})

    def apply(self, example: Example, tools: Tools) -> Outcome:
        return self.apply_all([example], tools)[0]

    def apply_all(self, batch: Sequence[Example], tools: Tools) -> Sequence[Outcome]:
        named = {} if self.recogniser is None else self._named(batch, self.recogniser)
        return [self._applied(example, named) for example in batch]

    def _named(self, batch: Sequence[Example], recogniser: Recogniser) -> Named:
        """What the recogniser finds in all texts of the rows, each looked at once."""
        texts: dict[str, None] = {}

        def look(text: str) -> str:
            texts[text] = None
            return text

        for example in batch:
            _with_calls(rewritten(example, look), look)
        return dict(zip(texts, recogniser(list(texts)), strict=True))

    def _applied(self, example: Example, named: Named) -> Outcome:
        notes: list[str] = []

        def change(text: str) -> str:
            return self._scrubbed(text, notes, named)

        made = _with_calls(rewritten(example, change), change)
        if not notes:
            return example
        if self.action == "drop":
            told = ", ".join(f"{kind} {notes.count(kind)}" for kind in dict.fromkeys(notes))
            return Dropped("tells who somebody is", told)
        return Noted(made, tuple(notes))

    def _scrubbed(self, text: str, notes: list[str], named: Named) -> str:
        found = find(text, self.kinds, None if self.regions is None else frozenset(self.regions))
        if named.get(text):
            found = joined(text, found, named[text])
        if not found:
            return text
        notes += [one.kind for one in found]
        if self.action == "mask":
            return apply(text, masked(text, found))
        return apply(text, pseudonyms(text, found, self.secret)) if self.action == "pseudonym" else text

    def ready(self, tools: Tools) -> Self:
        made = self.holding(secret=self._secret()) if self.action == "pseudonym" else self
        return made if self.names is None else made.holding(recogniser=tools.recogniser(self.names))

    def identity(self) -> Any:
        told = None
        if self.action == "pseudonym":
            told = hashlib.sha256(b"luthier pii " + self._secret()).hexdigest()[:16]
        return told if self.recogniser is None else [told, self.recogniser.identity]

    def _secret(self) -> bytes:
        try:
            secret = os.environ.get(KEY, "").encode() if self.key is None else Path(self.key).expanduser().read_bytes()
        except OSError as error:
            raise LuthierError(
                f"the key of pseudonyms cannot be read ({error})", where=self.key, fix="name a file"
            ) from error
        if len(secret.strip()) < SHORTEST:
            raise LuthierError(
                f"pseudonyms need a key of at least {SHORTEST} characters: whoever has it can try values out",
                where=self.key or KEY,
                fix=f"export {KEY}=$(openssl rand -hex 16) and keep it, or name a file: pii: {{action: "
                f"pseudonym, key: FILE}}",
            )
        return secret.strip()


def _with_calls(example: Example, change: Callable[[str], str]) -> Example:
    """The same in what tools are called with, and in what else a message holds; JSON stays JSON."""

    def turned(turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
        if not any(turn.calls or turn.extra for turn in turns):
            return turns
        return tuple(
            replace(turn, calls=_within(turn.calls, change), extra=_within(turn.extra, change)) for turn in turns
        )

    prompt = turned(example.prompt)
    responses = tuple(
        one if (turns := turned(one.turns)) == one.turns else replace(one, turns=turns, ids=None, logp=None)
        for one in example.responses
    )
    if prompt == example.prompt and responses == example.responses:
        return example
    return replace(example, prompt=prompt, responses=responses)


def _within(value: Any, change: Callable[[str], str]) -> Any:
    """The same structure with its texts changed; a number that is found becomes another number. A text that is JSON
    itself stays JSON."""
    if isinstance(value, str):
        return _json(value, change) if value[:1] in ("{", "[") else change(value)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        told = change(f"[{value}]")  # as it stands in JSON
        return json.loads(told)[0] if told != f"[{value}]" else value
    if isinstance(value, Mapping):
        made = {key: _within(one, change) for key, one in value.items()}
        return value if made == value else made
    if isinstance(value, list | tuple):
        return type(value)(_within(one, change) for one in value)
    return value


def _json(text: str, change: Callable[[str], str]) -> str:
    try:
        value = json.loads(text)
    except ValueError:
        return change(text)
    made = _within(value, change)
    return text if made == value else json.dumps(made, ensure_ascii=False)


__all__ = ["Pii"]
