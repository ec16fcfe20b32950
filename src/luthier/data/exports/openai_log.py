"""Logs of a server in OpenAI's shape: conversations, labels out of thumbs, pairs out of retries and edits.

Each request sends the whole conversation again, so a log of n turns holds the first of them n times. A turn is known by
all that stands before it, and trains once. What became of an answer is read out of the requests that follow: one that
is asked for again was retried, one that stands in the history in other words was edited, and of neither it is said that
it was bad, unless the user went on with another.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from luthier.data.exports.log_records import ENDED, Answer, Record, Said, records
from luthier.data.reading.json_files import read_json, read_jsonl
from luthier.data.reading.materials import Material, PlacedRow, Tell, ending
from luthier.types import Source

CUT = "an answer was cut (finish_reason: {})"
DOWN = "an answer has a thumb down"
RETRIED = "an answer was retried: another one took its place"
EDITED = "an answer was edited: the history goes on with other words"
EMPTY = "an answer is empty"
UNLOGGED = "a turn of the assistant is no answer of this log: it is read, and does not train"


@dataclass(eq=False)
class _Node:
    """An answer at its place in a conversation."""

    record: Record
    answer: Answer
    key: bytes
    fault: str | None = None


@dataclass
class _Log:
    """The records of a log, and what of each prefix is known."""

    asked: dict[bytes, list[_Node]] = field(default_factory=dict)
    """The answers to each conversation so far."""
    nodes: dict[bytes, _Node] = field(default_factory=dict)
    history: set[bytes] = field(default_factory=set)
    """Every beginning of every request: what was gone on with."""
    edits: dict[bytes, tuple[Record, int, _Node]] = field(default_factory=dict)
    """Turns in other words than the log's: the record and place where they stand, and the answer that they replace."""


@dataclass(frozen=True, kw_only=True)
class OpenAILog(Material):
    """Requests and responses, one or both a line (jsonl)."""

    rows: Literal["conversations", "labels", "pairs"] = "conversations"
    """conversations: each turn once. labels: answers with a thumb. pairs: answers beside those that replaced them."""

    endings: ClassVar = (".jsonl", ".ndjson", ".json")
    gives: ClassVar = "`rows`: conversations, thumbs as labels, or retries and edits as pairs"

    def gather(self, files: Sequence[Path]) -> list[tuple[Path, tuple[Path, ...]]]:
        """A conversation may go on in the next file."""
        return [(files[0] if len(files) == 1 else files[0].parent, tuple(files))]

    def read(self, files: Sequence[Path], tell: Tell) -> Iterator[PlacedRow]:
        numbered = (
            (Source(str(file), number), row)
            for file in files
            for number, row in (read_json if ending(file) == ".json" else read_jsonl)(file)
        )
        read: list[Record] = []
        for one in records(numbered, tell):
            if isinstance(one, Record):
                read.append(one)
            else:
                yield one
        log = _understood(read)
        make = {"conversations": _conversations, "labels": _labels, "pairs": _pairs}[self.rows]
        yield from make(read, log, tell)


def _digest(before: bytes, message: Said) -> bytes:
    """What a conversation is known by with one more message. White space at the ends is no difference."""
    content = message.get("content")
    bare = {**message, "content": content.strip()} if isinstance(content, str) else dict(message)
    written = json.dumps(bare, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.blake2b(before + written.encode("utf-8", "replace"), digest_size=16).digest()


def _chain(messages: Sequence[Said]) -> list[bytes]:
    """What a conversation is known by before each of its messages, and behind the last."""
    chain = [b""]
    for message in messages:
        chain.append(_digest(chain[-1], message))
    return chain


def _understood(read: Sequence[Record]) -> _Log:
    """Which answers were gone on with, retried, edited, cut."""
    log = _Log()
    for record in read:
        chain = _chain(record.asked)
        log.history.update(chain)
        for answer in record.answers:
            node = _Node(record, answer, _digest(chain[-1], answer.said))
            known = log.nodes.setdefault(node.key, node)
            if known is node:
                log.asked.setdefault(chain[-1], []).append(node)
            else:
                known.record.thumbs |= record.thumbs  # the same answer twice
            node.fault = _fault(node)
    for record in read:
        chain = _chain(record.asked)
        for place, message in enumerate(record.asked):
            if message["role"] == "assistant" and chain[place] in log.asked and chain[place + 1] not in log.nodes:
                log.edits.setdefault(chain[place + 1], (record, place, log.asked[chain[place]][-1]))
    for _, _, replaced in log.edits.values():
        replaced.fault = replaced.fault or EDITED
    for nodes in log.asked.values():
        went_on = [node for node in nodes if node.key in log.history]
        for node in nodes if len(nodes) > 1 else ():
            if node not in (went_on or nodes[-1:]):
                node.fault = node.fault or RETRIED
    return log


def _fault(node: _Node) -> str | None:
    if node.answer.ended not in ENDED:
        return CUT.format(node.answer.ended)
    if not (str(node.answer.said.get("content") or "").strip() or node.answer.said.get("tool_calls")):
        return EMPTY
    return None


def _conversations(read: Sequence[Record], log: _Log, tell: Tell) -> Iterator[PlacedRow]:
    """The longest of the conversations that begin alike; each good answer trains in the first of them."""
    for node in log.nodes.values():
        if node.fault is None and False in node.record.thumbs:
            node.fault = DOWN
        if node.fault:
            tell(node.fault, node.record.place)
    paths: dict[bytes, tuple[Record, list[Said]]] = {}
    for record in read:
        for answer in record.answers:
            messages = [*record.asked, answer.said]
            chain = _chain(messages)
            while messages and not _trains(messages[-1], chain[len(messages)], log):
                messages.pop()
            if messages:
                paths.setdefault(chain[len(messages)], (record, messages))
    within = {key for _, messages in paths.values() for key in _chain(messages)[:-1]}
    trained: set[bytes] = set()
    for key, (record, messages) in paths.items():
        if key not in within:
            yield record.place, _weighed(record, messages, log, trained, tell)


def _trains(message: Said, key: bytes, log: _Log) -> bool:
    """Is this an answer of the log that is worth learning, or what a user made of one?"""
    if message["role"] != "assistant":
        return False
    return key in log.edits or (key in log.nodes and log.nodes[key].fault is None)


def _weighed(record: Record, messages: Sequence[Said], log: _Log, trained: set[bytes], tell: Tell) -> dict[str, Any]:
    """A conversation as a row, whose turns train that are good and have not trained before."""
    chain, said = _chain(messages), []
    for place, message in enumerate(messages):
        key = chain[place + 1]
        if message["role"] == "assistant" and (key in trained or not _trains(message, key, log)):
            if key not in log.nodes and key not in log.edits:
                tell(UNLOGGED, record.place)
            message = {**message, "weight": 0}
        elif message["role"] == "assistant":
            trained.add(key)
        said.append(dict(message))
    return {"messages": said, **_tools(record)}


def _labels(read: Sequence[Record], log: _Log, tell: Tell) -> Iterator[PlacedRow]:
    """Answers with a thumb."""
    for node in log.nodes.values():
        thumbs = node.record.thumbs
        if len(thumbs) > 1:
            tell("the thumbs of an answer point both ways", node.record.place)
        elif len(node.record.answers) > 1 and thumbs:
            tell("a thumb is for several answers at once", node.record.place)
        elif not thumbs:
            tell("an answer has no thumb: nothing is known of it", node.record.place)
        elif node.fault == EMPTY:
            tell(EMPTY, node.record.place)
        else:
            messages = [*node.record.asked, node.answer.said]
            yield (
                node.record.place,
                {"messages": [dict(one) for one in messages], "label": True in thumbs, **_tools(node.record)},
            )


def _pairs(read: Sequence[Record], log: _Log, tell: Tell) -> Iterator[PlacedRow]:
    """Answers that the user went on with, or liked, or wrote, beside those that they replaced."""
    for nodes in log.asked.values():
        better = [node for node in nodes if node.key in log.history]
        if not better:
            better = [node for node in nodes if node.record.thumbs == {True}]
        worse = [node for node in nodes if node not in better and node.fault in (None, RETRIED)]
        if len(nodes) < 2 or not worse:
            continue
        if len(better) != 1 or better[0].fault not in (None, RETRIED):
            tell(
                "answers to one prompt, none of which (or several) the user went on with: no pair",
                nodes[0].record.place,
            )
            continue
        for node in worse:
            yield better[0].record.place, _pair(node.record, node.record.asked, better[0].answer.said, node.answer.said)
    for record, place, replaced in log.edits.values():
        yield record.place, _pair(record, record.asked[:place], record.asked[place], replaced.answer.said)


def _pair(record: Record, asked: Sequence[Said], better: Said, worse: Said) -> dict[str, Any]:
    return {
        "prompt": [dict(one) for one in asked],
        "chosen": [dict(better)],
        "rejected": [dict(worse)],
        **_tools(record),
    }


def _tools(record: Record) -> dict[str, Any]:
    return {"tools": record.tools} if record.tools else {}


__all__ = ["OpenAILog"]
