"""OpenAssistant's trees of messages: a prompt, several answers to it, several questions after each, and so on.

Trees are read as they are exported (one a line, with replies in replies) or as messages that name their parent (as
the hub has them). Of a tree its best path trains, or all of them, or answers are ranked beside one another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from luthier.data.reading.formats.shape import BadRow
from luthier.data.reading.json_files import read_json, read_jsonl
from luthier.data.reading.materials import Material, PlacedRow, Tell, ending
from luthier.data.reading.sources import READERS
from luthier.errors import LuthierError
from luthier.types import Source

ROLES = {"prompter": "user", "assistant": "assistant", "user": "user"}
IDS = ("message_id", "user_message_id", "id")
PARENTS = ("parent_id", "parent_message_id")
DELETED = "a message was deleted or refused in review: what follows it is left out, too"
UNRANKED = "answers to one prompt that nobody has ranked are no pair"
NO_ANSWER = "the tree has no answer"


@dataclass
class _Node:
    """A message and the replies to it."""

    place: int | Source
    role: str
    text: str
    rank: float | None
    language: str | None
    replies: list[_Node] = field(default_factory=list)

    @property
    def size(self) -> int:
        return 1 + sum(reply.size for reply in self.replies)


@dataclass(frozen=True, kw_only=True)
class Oasst(Material):
    """OpenAssistant's trees (OASST1, OASST2, and the files of its exports)."""

    paths: Literal["best", "all", "ranked"] = "best"
    """best: of each tree the conversation whose answers were ranked first. all: every conversation in it, each answer
    trained once. ranked: the answers to each prompt beside one another, by their ranks."""
    language: str | None = None
    """Trees of this language alone, as the data names it (en, zh, pt-BR). An error where it has none of it."""

    endings: ClassVar = (".jsonl", ".json", ".parquet", ".arrow")
    gives: ClassVar = "`paths`: the best conversation of each tree, all of them, or answers with their ranks"

    def gather(self, files: Sequence[Path]) -> list[tuple[Path, tuple[Path, ...]]]:
        """All together: a file may have no tree of the language that another is in."""
        return [(files[0], tuple(files))]

    def read(self, files: Sequence[Path], tell: Tell) -> Iterator[PlacedRow]:
        known: Counter[str] = Counter()
        for file in files:
            reader = {".json": read_json, ".jsonl": read_jsonl}.get(ending(file)) or READERS[ending(file)]
            rows = ((Source(str(file), number), row) for number, row in reader(file))
            yield from self._of_trees(rows, tell, known)
        self._check(known, ", ".join(map(str, files)))

    def over(self, rows: Iterator[PlacedRow], tell: Tell) -> Iterator[PlacedRow]:
        known: Counter[str] = Counter()
        yield from self._of_trees(rows, tell, known)
        self._check(known, None)

    def _check(self, known: Counter[str], where: str | None) -> None:
        """Raises LuthierError where there are trees, and none in the language that was asked for."""
        if self.language is None or not known or known[self.language]:
            return
        there = ", ".join(f"{name or 'none named'} ({count:,})" for name, count in known.most_common(12))
        raise LuthierError(
            f"no tree is in the language {self.language!r}", where=where, fix=f"the languages of the trees: {there}"
        )

    def _of_trees(self, rows: Iterator[PlacedRow], tell: Tell, known: Counter[str]) -> Iterator[PlacedRow]:
        make = {"best": _best, "all": _all, "ranked": _ranked}[self.paths]
        for tree in _trees(rows, tell):
            if isinstance(tree, tuple):
                yield tree
                continue
            known[tree.language or ""] += 1
            if self.language is not None and tree.language != self.language:
                tell(f"trees of other languages than {self.language!r} are left out (`language:`)", _source(tree.place))
            else:
                found = list(make(tree, tell))
                if not found and not any(reply.role == "assistant" for reply in tree.replies):
                    tell(NO_ANSWER, _source(tree.place))
                yield from found


def _trees(rows: Iterator[PlacedRow], tell: Tell) -> Iterator[_Node | tuple[int | Source, BadRow]]:
    """The trees in order. Messages that name their parent may come in any order."""
    known: dict[str, _Node | None] = {}
    waiting: list[tuple[str, _Node]] = []
    roots: list[_Node] = []
    for place, row in rows:
        try:
            if not isinstance(row, Mapping):
                raise BadRow("the row is no object")
            prompt = row.get("prompt")
            given: Mapping[str, Any] = prompt if isinstance(prompt, Mapping) else row
            node = _node(given, place, tell)
        except BadRow as fault:
            yield place, fault
            continue
        parent = next((given[key] for key in PARENTS if given.get(key)), None)
        name = next((str(given[key]) for key in IDS if given.get(key)), "")
        known[name] = node
        if node is None:
            continue
        if parent is None:
            roots.append(node)
        else:
            waiting.append((str(parent), node))
    for parent, node in waiting:
        above = known.get(parent)
        if above is not None:
            above.replies.append(node)
        elif parent not in known:
            tell("a message answers one that the data does not hold", _source(node.place))
    yield from roots


def _node(given: Any, place: int | Source, tell: Tell) -> _Node | None:
    """A message with its replies, None for one that was deleted. Raises BadRow."""
    role, text = given.get("role"), given.get("text")
    if role not in ROLES:
        raise BadRow("a message's role is neither prompter nor assistant")
    if not isinstance(text, str):
        raise BadRow("a message has no text")
    if given.get("deleted") or given.get("review_result") is False or not text.strip():
        tell(DELETED, _source(place))
        return None
    rank = given.get("rank")
    ranked = float(rank) if isinstance(rank, int | float) and not isinstance(rank, bool) and rank == rank else None
    replies = given.get("replies")
    below = [_node(one, place, tell) for one in (replies if isinstance(replies, list | tuple) else ())]
    return _Node(place, ROLES[role], text.strip(), ranked, given.get("lang"), [one for one in below if one is not None])


def _source(place: int | Source) -> Source | None:
    return place if isinstance(place, Source) else None


def _first(replies: Sequence[_Node]) -> _Node:
    """The best of several: the first by rank; among unranked ones (questions) the one that went on longest."""
    return min(replies, key=lambda one: (one.rank is None, one.rank or 0.0, -one.size))


def _best(tree: _Node, tell: Tell) -> Iterator[PlacedRow]:
    path = [tree]
    while path[-1].replies:
        path.append(_first(path[-1].replies))
    while path and path[-1].role != "assistant":
        path.pop()
    if path:
        yield tree.place, {"messages": [_message(one) for one in path]}


def _all(tree: _Node, tell: Tell) -> Iterator[PlacedRow]:
    """Every path to an answer that no other answer follows."""
    trained: set[int] = set()
    for path in _paths([tree]):
        messages = []
        for one in path:
            again = one.role == "assistant" and id(one) in trained
            messages.append(_message(one) | ({"weight": 0} if again else {}))
            trained.add(id(one))
        yield tree.place, {"messages": messages}


def _paths(path: list[_Node]) -> Iterator[list[_Node]]:
    deeper = False
    for reply in path[-1].replies:
        for found in _paths([*path, reply]):
            deeper = True
            yield found
    if not deeper and path[-1].role == "assistant":
        yield path


def _ranked(tree: _Node, tell: Tell) -> Iterator[PlacedRow]:
    """The answers to each question of the tree, with their ranks (1 is the best)."""
    open_paths = [[tree]]
    while open_paths:
        path = open_paths.pop()
        answers = [reply for reply in path[-1].replies if reply.role == "assistant"]
        judged = [reply for reply in answers if reply.rank is not None]
        if len(answers) > 1 and len({reply.rank for reply in judged}) > 1:
            said, ranks = [one.text for one in judged], [float(one.rank or 0) + 1 for one in judged]
            place = path[-1].place
            yield place, {"prompt": [_message(one) for one in path], "responses": said, "ranks": ranks}
        elif len(answers) > 1:
            tell(UNRANKED, _source(path[-1].place))
        open_paths += [[*path, reply] for reply in reversed(path[-1].replies)]


def _message(node: _Node) -> dict[str, Any]:
    return {"role": node.role, "content": node.text}


__all__ = ["Oasst"]
