"""Stand-ins for the names of people who did not ask to be in a model.

A stand-in hangs on the name and a salt alone, so it is the same in every file. Names in texts are replaced, too, where
they are told from words: whole names always, a first name alone unless it is a word as well.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable

WORDS = frozenset(
    [
        "Art",
        "April",
        "August",
        "Bill",
        "Bob",
        "Carol",
        "Chance",
        "Christian",
        "Daisy",
        "Dawn",
        "Faith",
        "Frank",
        "Grace",
        "Grant",
        "Hope",
        "Ivy",
        "Jack",
        "Joy",
        "June",
        "Lily",
        "Mark",
        "Max",
        "May",
        "Nick",
        "Pat",
        "Penny",
        "Ray",
        "Rich",
        "Rob",
        "Rose",
        "Ruby",
        "Sue",
        "Summer",
        "Sunny",
        "Violet",
        "Will",
        "Young",
    ]
)
"""First names that are words as well."""
UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0e7f]")
"""Scripts in which no space stands round a name."""


class StandIns:
    """The names of a chat's other people, and what stands for them."""

    def __init__(self, names: Iterable[str], salt: str, kept: Iterable[str] = ()) -> None:
        self._salt = salt
        self._of = {name: self._drawn(name) for name in names}
        self._in_texts = {form: stand for name, stand in self._of.items() for form in _forms(name)}
        for name in kept:
            for form in _forms(name):
                self._in_texts.pop(form, None)
        forms = sorted(self._in_texts, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(_bounded, forms))) if forms else None

    def _drawn(self, name: str) -> str:
        return "Person " + hmac.new(self._salt.encode(), name.encode(), hashlib.sha256).hexdigest()[:6]

    def of(self, name: str) -> str:
        """What stands for a speaker."""
        return self._of.get(name, name)

    def put_into(self, text: str) -> str:
        """The text with stand-ins for names."""
        return self._pattern.sub(lambda found: self._in_texts[found[0]], text) if self._pattern else text


def _forms(name: str) -> list[str]:
    """How a name is written in texts."""
    digits = re.sub(r"\D", "", name)
    if len(digits) >= 7 and not re.search(r"[^\W\d]", name):
        return [name, "+" + digits, digits]  # a number that is in nobody's address book
    forms = [name] if len(name) > 2 or (len(name) == 2 and UNSPACED.search(name)) else []
    first = name.split()[0] if name.split() else ""
    if len(first) > 2 and first != name and first[0].isupper() and first not in WORDS:
        forms.append(first)
    return [form for form in forms if form not in WORDS]


def _bounded(form: str) -> str:
    if UNSPACED.search(form):
        return re.escape(form)
    return rf"(?<!\w){re.escape(form)}(?!\w)"


__all__ = ["StandIns"]
