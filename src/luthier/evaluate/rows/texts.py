"""Texts of rows as a page shows them: cut, with what came and went marked, and without what tells who somebody is."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from luthier.data.cleaning import apply
from luthier.data.pii import find, masked
from luthier.types import Example

SHOWN = 700
"""Characters of a text."""
PIECES = re.compile(r"\n|[^\S\n]+|\w+|[^\w\s]")


def said(example: Example) -> str:
    """All that a row says."""
    return "\n".join(text for _, text in turns(example))


def turns(example: Example) -> Iterator[tuple[str, str]]:
    """Each turn with who says it."""
    for turn in example.prompt:
        yield turn.role, turn.text
    for number, response in enumerate(example.responses, 1):
        for turn in response.turns:
            yield (turn.role if len(example.responses) == 1 else f"response {number}"), turn.text


def hidden(text: str) -> str:
    """Without telephone numbers, addresses, keys and what else the step `pii` finds: a page is passed on."""
    found = find(text)
    return apply(text, masked(text, found)) if found else text


def shown(text: str, longest: int = SHOWN) -> str:
    """As it stands on the page."""
    text = "".join(mark if mark.isprintable() or mark in "\n\t" else f"\\u{ord(mark):04x}" for mark in hidden(text))
    return text if len(text) <= longest else f"{text[:longest]} … {len(text) - longest:,} more"


def row(example: Example, source: str, detail: str = "") -> dict[str, Any]:
    """A row for the page."""
    return {"source": source, "detail": detail, "turns": [(role, shown(text)) for role, text in turns(example)]}


def difference(change: Mapping[str, Any]) -> str:
    """A change as HTML, escaped: what went and what came. Of what is not to be shown, only what came."""
    before, after = change["before"], hidden(change["after"])
    if before is None:
        return escape(shown(after))
    old, new = (PIECES.findall(shown(text)) for text in (hidden(before), after))
    parts = []
    for kind, i, k, j, m in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        gone, come = escape(_seen("".join(old[i:k]), kind)), escape(_seen("".join(new[j:m]), kind))
        if kind == "equal":
            parts.append(gone)
            continue
        parts.append((f"<del>{gone}</del>" if gone else "") + (f"<ins>{come}</ins>" if come else ""))
    return "".join(parts)


def _seen(text: str, kind: str) -> str:
    """White space that came or went, so that it can be seen."""
    return text if kind == "equal" else text.replace(" ", "·").replace("\t", "⇥").replace("\n", "↵\n")


__all__ = ["difference", "hidden", "row", "said", "shown", "turns"]
