"""Keys that had another name one version ago: they are still read, with a word on screen."""

from __future__ import annotations

from dataclasses import replace

from luthier.errors import LuthierError
from luthier.recipe.document import Key, Node, Override, dotted

FORMER: dict[Key, str] = {
    ("train", "score"): "loss_on",
    ("reference", "keep"): "cache",
    ("adapt", "freeze", "cache_trunk"): "cache_backbone",
}
"""Where a key stood, entries of lists left out, and what it is called now. Emptied with the next version."""


def current(node: Node, told: list[str], key: Key = ()) -> Node:
    """`node` with keys by their names of today; `told` takes a line for each that had an old one.

    Raises LuthierError where a key stands under both names.
    """
    if isinstance(node.value, list):
        return Node([current(child, told, key) for child in node.value], node.origin)
    if not isinstance(node.value, dict):
        return node
    found: dict[str, Node] = {}
    for name, child in node.value.items():
        now = FORMER.get((*key, name)) or name
        if now != name:
            if now in node.value:
                raise LuthierError(
                    f"{dotted((*key, name))} is the old name of {dotted((*key, now))}, and both are given",
                    where=str(child.origin),
                    fix=f"keep {now}",
                )
            told.append(_line(key, name, now, str(child.origin)))
        found[now] = current(child, told, (*key, name))
    return Node(found, node.origin)


def overrides(parsed: list[Override], told: list[str]) -> list[Override]:
    """As `current`, for what the command line sets."""
    found = []
    for one in parsed:
        parts, above = list(one.key), [part for part in one.key if not part.isdigit()]
        now = FORMER.get(tuple(above))
        if now is not None:
            told.append(_line(tuple(above[:-1]), above[-1], now, str(one.node.origin)))
            parts[-1] = now
        found.append(replace(one, key=tuple(parts), node=current(one.node, told, tuple(above))))
    return found


def _line(key: Key, name: str, now: str, where: str) -> str:
    return (
        f"{dotted((*key, name))} is called {dotted((*key, now))} now ({where}); the old name goes with the next version"
    )
