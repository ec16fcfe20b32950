"""What the tests of chat exports share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier.data import Ledger, read
from luthier.recipe import Source as Entry

Talks = list[list[tuple[str, str]]]


def talks(path: Path, ledger: Ledger | None = None, **keys: Any) -> Talks:
    """The conversations of a file as pairs of role and text. The key that is no key of a chat is its name."""
    name = keys.pop("chat_name")
    found = read([Entry(path=str(path), format={name: keys})], ledger)
    return [[(t.role, t.text) for t in (*e.prompt, *(t for r in e.responses for t in r.turns))] for e in found]


def notes(ledger: Ledger, words: str) -> list[tuple[int, list[str]]]:
    return [(reason.count, reason.rows) for what, reason in ledger.notes.items() if words in what]
