"""Rows without what tells who somebody is."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field

from luthier.data.cleaning import apply
from luthier.data.pii import KINDS, find, masked, pseudonyms
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


@dataclass(frozen=True)
class Pii(RowStep):
    """Finds e-mail addresses, numbers of telephones, cards, accounts and persons, addresses of machines, keys and
    passwords, and takes them out. What was found is counted by its kind; the values are written down nowhere. Names
    and postal addresses are not found: that takes a model."""

    private: ClassVar[bool] = True
    secret: ClassVar[bytes] = b""

    action: Literal["mask", "pseudonym", "drop", "report"] = "mask"
    """`mask`: `[EMAIL]`; `pseudonym`: `[EMAIL-…]`, the same letters for the same value in the whole set, by a key;
    `drop`: the row goes; `report`: it is counted, and nothing changes."""
    kinds: Annotated[tuple[Kind, ...], BeforeValidator(listed), Field(min_length=1)] = KINDS  # type: ignore[assignment]
    """What to look for."""
    regions: Annotated[tuple[Region, ...], BeforeValidator(listed)] | None = None
    """Whose telephone and identity numbers. Default: all known. International forms are found everywhere."""
    key: str | None = None
    """For `pseudonym`: a file with the key. Default: the environment variable `LUTHIER_PII_KEY`."""

    def apply(self, example: Example, tools: Tools) -> Outcome:
        notes: list[str] = []
        made = rewritten(example, lambda text: self._scrubbed(text, notes))
        made = self._with_calls(made, notes)
        if not notes:
            return example
        if self.action == "drop":
            told = ", ".join(f"{kind} {notes.count(kind)}" for kind in dict.fromkeys(notes))
            return Dropped("tells who somebody is", told)
        return Noted(made, tuple(notes))

    def _scrubbed(self, text: str, notes: list[str]) -> str:
        found = find(text, self.kinds, None if self.regions is None else frozenset(self.regions))
        if not found:
            return text
        notes += [one.kind for one in found]
        if self.action == "mask":
            return apply(text, masked(text, found))
        return apply(text, pseudonyms(text, found, self.secret)) if self.action == "pseudonym" else text

    def _with_calls(self, example: Example, notes: list[str]) -> Example:
        """The same in what tools are called with, and in what else a message holds; JSON stays JSON."""

        def change(text: str) -> str:
            return self._scrubbed(text, notes)

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

    def ready(self, tools: Tools) -> Self:
        return self.holding(secret=self._secret()) if self.action == "pseudonym" else self

    def identity(self) -> Any:
        return hashlib.sha256(b"luthier pii " + self._secret()).hexdigest()[:16] if self.action == "pseudonym" else None

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
