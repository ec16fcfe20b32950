"""Pages of keys and values: who holds which, and what lies in those that may be read again.

A full page is known by what it holds: its tokens, and the page before it, back to a root that stands for the weights
and the adapter. So a prefix that was read once is found by whoever begins with it, and by nobody else.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from luthier.models.decode.step import PAGE

Node = int
"""What a page holds and all before it; a number that is never used twice."""


@dataclass
class _Page:
    holders: int = 0
    key: tuple[Node, tuple[int, ...]] | None = None


class Pages:
    """Hands out pages, at most `most` of them at a time; they are numbered from 0 as memory is first asked for.

    A page that nobody holds any more but whose content is known is kept until its place is needed, the longest unused
    first.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._pages: list[_Page] = []
        self._free: list[int] = []
        self._unheld: OrderedDict[int, None] = OrderedDict()
        self._known: dict[tuple[Node, tuple[int, ...]], tuple[int, Node]] = {}
        self._roots: dict[Hashable, Node] = {}
        self._nodes = 0
        self.evicted = 0
        """How often a content was forgotten because its place was needed."""

    @property
    def made(self) -> int:
        """Pages that have been handed out at some time: so many need memory."""
        return len(self._pages)

    @property
    def held(self) -> int:
        """Pages that somebody holds."""
        return len(self._pages) - len(self._free) - len(self._unheld)

    @property
    def left(self) -> int:
        """Pages that can still be taken."""
        return self.most - self.held

    def root(self, key: Hashable) -> Node:
        """Where sequences begin that are read by the same weights and the same adapter."""
        if key not in self._roots:
            self._roots[key] = self._node()
        return self._roots[key]

    def match(self, root: Node, ids: Sequence[int]) -> tuple[list[int], Node]:
        """The pages that hold the beginning of `ids`, now held by the caller, too; at least one token stays unread."""
        found, node = [], root
        for start in range(0, (len(ids) - 1) // PAGE * PAGE, PAGE):
            hit = self._known.get((node, tuple(ids[start : start + PAGE])))
            if hit is None:
                break
            page, node = hit
            found.append(page)
        self.hold(found)
        return found, node

    def hold(self, pages: Iterable[int]) -> None:
        """One holder more for each of these."""
        for page in pages:
            self._pages[page].holders += 1
            self._unheld.pop(page, None)

    def take(self) -> int | None:
        """A page for the caller alone; None where all are held."""
        if self._free:
            page = self._free.pop()
        elif len(self._pages) < self.most:
            page = len(self._pages)
            self._pages.append(_Page())
        elif self._unheld:
            page, _ = self._unheld.popitem(last=False)
            self._forget(page)
            self.evicted += 1
        else:
            return None
        self._pages[page].holders = 1
        return page

    def publish(self, page: int, before: Node, tokens: Sequence[int]) -> Node:
        """Say what a full page holds. Returns the node for what follows."""
        key = before, tuple(tokens)
        known = self._known.get(key)
        if known is not None:
            return known[1]  # read twice at the same time: the other page is the one to be found
        node = self._node()
        self._known[key] = page, node
        self._pages[page].key = key
        return node

    def release(self, pages: Sequence[int]) -> None:
        """One holder less for each; the end of a sequence goes before its beginning when places are needed."""
        for page in reversed(pages):
            entry = self._pages[page]
            entry.holders -= 1
            if entry.holders:
                continue
            if entry.key is None:
                self._free.append(page)
            else:
                self._unheld[page] = None

    def clear(self) -> None:
        """Forget what all pages hold: the weights are new."""
        self._roots.clear()
        self._known.clear()
        for entry in self._pages:
            entry.key = None
        self._free.extend(self._unheld)
        self._unheld.clear()

    def _forget(self, page: int) -> None:
        key = self._pages[page].key
        if key is not None:
            del self._known[key]
            self._pages[page].key = None

    def _node(self) -> Node:
        self._nodes += 1
        return self._nodes
