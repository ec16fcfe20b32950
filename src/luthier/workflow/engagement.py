"""`luthier engagement`: what a log of conversations says of models, and of their responses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.data.ledger import SHOWN, Ledger
from luthier.errors import LuthierError
from luthier.recipe.engagement import Engagement
from luthier.recipe.engagement import engagement as keys_of
from luthier.workflow.screen import console, say

if TYPE_CHECKING:
    from luthier.data.logs.reading import Conversation
    from luthier.evaluate.lengths import Length, Lengths


def engagement(logs: Sequence[str], out: Path | None = None, overrides: Sequence[str] = ()) -> dict[str, Length]:
    """Show how long users talk with each model of these logs; write the labelled responses into the folder `out`.

    `overrides`: the keys of `recipe.engagement.Engagement` by dotted names. Raises LuthierError for whatever the user
    can mend.
    """
    from luthier.data.logs import reading, rows
    from luthier.evaluate import lengths

    keys, ledger, found = keys_of(overrides), Ledger(), lengths.Lengths()
    end = reading.ends(logs, keys)
    watching = _measured(reading.conversations(logs, keys, ledger), keys, end, found)
    if out is not None:
        judged = rows.write(watching, keys, end, out.expanduser(), ledger)
    else:
        judged = None
        for _ in watching:
            pass
    _tell(ledger, logs)
    if judged is not None:
        for line in judged.lines():
            say(line)
        say(f"the rows: {out}; `objective: outcome_reward` learns from them")
    compared = found.compared(keys.baseline, keys.seed)
    console().print(lengths.table(compared, keys.count))
    for line in lengths.lines(found):
        say(line)
    return compared


def parted(given: Sequence[str]) -> tuple[list[str], list[str]]:
    """Logs and keys out of what was typed. Raises LuthierError where there is no log."""
    logs = [each for each in given if "=" not in each or Path(each).exists()]
    if not logs:
        raise LuthierError(
            "there is no log to read", where=" ".join(given), fix="name a file: luthier engagement logs.jsonl"
        )
    return logs, [each for each in given if each not in logs]


def _measured(
    read: Iterator[Conversation], keys: Engagement, end: float | None, found: Lengths
) -> Iterator[Conversation]:
    """The conversations as they come, the length of each added where it is known."""
    from luthier.data.logs.labels import HOUR, shown, spoken, watched

    for conversation in read:
        start = conversation.messages[0].time
        if watched(conversation, start, keys, end):
            until = None if start is None else start + keys.within * HOUR
            seen = [one for one in shown(conversation.messages) if until is None or (one.time or 0) <= until]
            both = sum(one.role == "user" or one.answers for one in seen)
            found.add(conversation.model, conversation.user, spoken(seen, until) if keys.count == "turns" else both)
        else:
            found.unwatched += 1
        yield conversation


def _tell(ledger: Ledger, logs: Sequence[str]) -> None:
    """Say what was read, and what was not. Raises LuthierError where nothing could be."""
    for reason, lost in ledger.main_reasons():
        named = ", ".join(lost.rows[:SHOWN]) + (" …" if lost.count > SHOWN else "")
        say(f"dropped {lost.count:,} of {ledger.rows_read:,} conversations: {reason} ({named})")
    for what, entry in ledger.notes.items():
        say(what + (f" ({entry.count:,}×, first {entry.rows[0]})" if entry.rows else ""))
    if not ledger.rows_kept:
        reason, lost = ledger.main_reasons()[0]
        raise LuthierError(
            f"no conversation could be read: {reason}",
            where=lost.rows[0] if lost.rows else ", ".join(logs),
            fix=lost.fix or "docs/engagement.md says what a log must hold",
        )


__all__ = ["engagement", "parted"]
