"""From logs to rows of judged responses, in two files whose users are never the same."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from luthier.data.ledger import Ledger
from luthier.data.logs.labels import Unknown, label, shown
from luthier.data.logs.reading import Conversation, Message
from luthier.data.tally import LISTED, Reason
from luthier.errors import LuthierError
from luthier.recipe.engagement import Engagement
from luthier.run import write_atomically

SIDES = ("train", "test")
LEDGER = "ledger.json"
MENDED = "what a user edited has no text in the log: later prompts hold what the model had said"


@dataclass
class Side:
    """The rows of one file."""

    good: int = 0
    bad: int = 0
    users: set[str] = field(default_factory=set)

    def to_json(self) -> dict[str, int]:
        """Counts."""
        return {"rows": self.good + self.bad, "good": self.good, "bad": self.bad, "users": len(self.users)}


@dataclass
class Judged:
    """What became of the responses of a log."""

    ledger: Ledger
    """Of its rows are conversations; of its reasons and notes, too."""
    responses: int = 0
    left_out: dict[str, Reason] = field(default_factory=dict)
    """Responses without a label, by reason."""
    sides: dict[str, Side] = field(default_factory=lambda: {side: Side() for side in SIDES})
    shared: int = 0
    """Rows of the test whose very words train, too, said to another user."""

    def leave_out(self, reason: str, where: str) -> None:
        """One more response has no label."""
        entry = self.left_out.setdefault(reason, Reason())
        entry.count += 1
        if len(entry.rows) < LISTED:
            entry.rows.append(where)

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""

        def told(reasons: Mapping[str, Reason]) -> dict[str, Any]:
            return {what: {"count": one.count, "rows": one.rows} for what, one in reasons.items()}

        return {
            "conversations": {
                "read": self.ledger.rows_read,
                "kept": self.ledger.rows_kept,
                "dropped": told(self.ledger.reasons),
            },
            "responses": {"read": self.responses, "left_out": told(self.left_out)},
            "notes": told(self.ledger.notes),
            **{side: one.to_json() for side, one in self.sides.items()},
            "test_rows_whose_words_train": self.shared,
        }

    def lines(self) -> Iterator[str]:
        """In words."""
        for side, one in self.sides.items():
            count = one.good + one.bad
            share = f", {one.good / count:.1%} of them good" if count else ""
            yield f"{side}.jsonl: {count:,} responses of {len(one.users):,} users{share}"
        for reason, entry in sorted(self.left_out.items(), key=lambda item: -item[1].count):
            yield f"left out {entry.count:,} of {self.responses:,} responses: {reason} (first {entry.rows[0]})"
        if self.shared:
            yield f"{self.shared:,} rows of the test hold the very words of a row that trains, said to another user"


def pseudonym(user: str, salt: str) -> str:
    """A name that tells who is who in the rows, and to nobody without the salt who that is."""
    return hashlib.sha256(f"{salt}\0{user}".encode()).hexdigest()[:16]


def tested_on(user: str, keys: Engagement) -> bool:
    """Do the rows of this user go into the test? It hangs on the name and the salt alone, in every log alike."""
    digest = hashlib.sha256(f"split\0{keys.salt}\0{user}".encode()).digest()
    return int.from_bytes(digest[:8]) < keys.test * 2**64


def write(read: Iterable[Conversation], keys: Engagement, end: float | None, out: Path, ledger: Ledger) -> Judged:
    """Write train.jsonl, test.jsonl and ledger.json into a folder, whole or not at all. `end`: when the log ends.

    Raises LuthierError for a folder that holds anything else, and where no response has a label.
    """
    _must_be_ours(out)
    judged = Judged(ledger)
    out.mkdir(parents=True, exist_ok=True)
    parts = {side: out / f".{side}.jsonl.{os.getpid()}" for side in SIDES}
    words: dict[str, set[bytes]] = {side: set() for side in SIDES}
    twins: list[bytes] = []
    try:
        with ExitStack() as stack:
            files: dict[str, IO[str]] = {
                side: stack.enter_context(part.open("w", encoding="utf-8")) for side, part in parts.items()
            }
            for conversation in read:
                side = "test" if tested_on(conversation.user, keys) else "train"
                for row in _rows(conversation, keys, end, judged):
                    files[side].write(json.dumps(row, ensure_ascii=False) + "\n")
                    one = judged.sides[side]
                    one.good, one.bad = one.good + row["label"], one.bad + (not row["label"])
                    one.users.add(row["user"])
                    digest = hashlib.blake2b(repr(row["messages"]).encode("utf-8", "replace"), digest_size=16).digest()
                    words[side].add(digest)
                    twins += [digest] if side == "test" else []
        judged.shared = sum(digest in words["train"] for digest in twins)
        _must_hold_some(judged, out)
        for side, part in parts.items():
            part.replace(out / f"{side}.jsonl")
        write_atomically(out / LEDGER, json.dumps(judged.to_json(), indent=2, ensure_ascii=False) + "\n")
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
    return judged


def _rows(conversation: Conversation, keys: Engagement, end: float | None, judged: Judged) -> Iterator[dict[str, Any]]:
    """A row for each response that has a label."""
    if any("edited" in one.events and one.mended is None for one in conversation.messages):
        judged.ledger.note(MENDED, conversation.source)
    for place, message in enumerate(conversation.messages):
        if not message.answers:
            continue
        judged.responses += 1
        found = label(conversation, place, keys, end)
        if isinstance(found, Unknown):
            judged.leave_out(found.reason, f"{conversation.source}, message {place + 1}")
            continue
        yield {
            "messages": [*_prompt(conversation.messages[: place + 1], keys.context), dict(message.said)],
            "label": found,
            "user": pseudonym(conversation.user, keys.salt),
            "model": conversation.model,
            "source": f"{conversation.source}, message {place + 1}",
        }


def _prompt(messages: Sequence[Message], context: int | None) -> list[Mapping[str, Any]]:
    """What stood before the last of these messages, cut to the last few, but for the system's in front."""
    before = shown(messages)[:-1]
    head = [one for one in before[:1] if one.role in ("system", "developer")]
    rest = before[len(head) :]
    if context is not None and len(rest) > context:
        rest = rest[-context:]
        # a tool's result means nothing without its call, and a prompt begins with the user
        start = next((place for place, one in enumerate(rest) if one.role == "user"), None)
        rest = rest if start is None else rest[start:]
    return [one.kept for one in (*head, *rest)]


def _must_be_ours(out: Path) -> None:
    """Raises LuthierError for a folder with anything that this does not write."""
    ours = (LEDGER, *(f"{side}.jsonl" for side in SIDES), *(f".{side}.jsonl" for side in SIDES))
    others = [each.name for each in out.iterdir() if not each.name.startswith(ours)] if out.is_dir() else []
    if out.is_file() or others:
        what = "is a file" if out.is_file() else f"holds {min(others)}, which is not written here"
        raise LuthierError(f"the folder {what}", where=f"--out {out}", fix="name a new folder, or an empty one")


def _must_hold_some(judged: Judged, out: Path) -> None:
    if any(one.good + one.bad for one in judged.sides.values()):
        return
    reasons = {**judged.ledger.reasons, **judged.left_out}
    most = max(reasons, key=lambda reason: reasons[reason].count) if reasons else "there are none"
    raise LuthierError(
        f"no response in the log has a label: {most}",
        where=reasons[most].rows[0] if reasons else str(out),
        fix=(reasons[most].fix if reasons else None)
        or "docs/engagement.md says what a log must hold; `within`, `until`, `events` and `columns` say how to read it",
    )


__all__ = ["Judged", "pseudonym", "tested_on", "write"]
