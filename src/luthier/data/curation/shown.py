"""What steps did, for the screen: a table of all, changes in colour, the life of one row."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from luthier.data.tally import Reason, StepTally

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

GONE, NEW = "red strike", "bold green"
PIECES = re.compile(r"\s+|\w+|[^\w\s]")
SHOWN = 3


def table(steps: Sequence[StepTally]) -> RenderableType:
    """Each step on a line: what it saw, changed, dropped and made, how fast, and its commonest reason."""
    from rich.table import Table
    from rich.text import Text

    made = Table(title="Steps", title_justify="left", header_style="bold")
    made.add_column("step", overflow="fold")
    for heading in ("seen", "changed", "dropped", "made", "rows/s"):
        made.add_column(heading, justify="right")
    made.add_column("reasons", overflow="fold")
    for one in steps:
        figures = (_count(one.seen), _count(one.changed), _count(one.dropped), _count(one.made), rate(one))
        counts = (f"{count:,}× {note}" for note, count in sorted(one.counts.items(), key=lambda item: -item[1]))
        why = "\n".join([*(_reason(*reason) for reason in one.main_reasons()[:SHOWN]), *one.notes, *counts])
        made.add_row(Text(f"{one.at} {one.name}"), *figures, Text(why))
    return made


def rate(one: StepTally) -> str:
    """Rows a second of one processor."""
    return f"{one.seen / one.seconds:,.0f}" if one.seconds > 0 else "–"


def _count(number: int) -> str:
    return f"{number:,}" if number else "–"


def _reason(reason: str, entry: Reason) -> str:
    first = entry.rows[0] if entry.rows else ""
    return f"{entry.count:,}× {reason} ({first})"


def samples(steps: Sequence[StepTally], count: int) -> Iterator[RenderableType]:
    """The first changes of each step, what was there in red and what is there now in green, and the first rows that it
    dropped."""
    from rich.panel import Panel
    from rich.text import Text

    for one in steps:
        for change in one.samples[:count]:
            title = f"{one.at} {one.name} · {change['source']} {change['place']}".rstrip()
            yield Panel(_difference(change["before"], change["after"]), title=Text(title), title_align="left")
        for reason, entry in one.main_reasons():
            rows = ", ".join(entry.rows[:count])
            more = " …" if entry.count > count else ""
            yield Text(f"{one.at} {one.name} dropped {entry.count:,}: {reason} ({rows}{more})", "yellow")


def _difference(before: str | None, after: str) -> Text:
    """The text with what went and what came; of what is not to be shown, only what came."""
    from rich.text import Text

    if before is None:
        return Text(after)
    return coloured(PIECES.findall(before), PIECES.findall(after))


def coloured(before: Sequence[str], after: Sequence[str]) -> Text:
    """Two texts in pieces as one, with their differences."""
    from rich.text import Text

    text = Text()
    for kind, i, k, j, m in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if kind == "equal":
            text.append("".join(before[i:k]))
            continue
        text.append(_visible("".join(before[i:k])), GONE)
        text.append(_visible("".join(after[j:m])), NEW)
    return text


def _visible(text: str) -> str:
    """White space and characters without a picture as what they are: else a change of them would not be seen."""
    return "".join(f"\\u{ord(mark):04x}" if not mark.isprintable() and mark != "\n" else mark for mark in text)


def life(told: Sequence[Mapping[str, Any]]) -> Iterator[RenderableType]:
    """What became of one row, a line a step."""
    from rich.text import Text

    for event in told:
        line = Text()
        line.append(f"{event.get('step', 'result')}: ", "bold")
        if "dropped" in event:
            detail = f" ({event['detail']})" if event.get("detail") else ""
            line.append(f"left out: {event['dropped']}{detail}", "yellow")
        elif "made" in event:
            line.append(f"{event['made']} rows were made of it")
        elif "edits" in event:
            line.append("changed")
            for place, start, old, new in event["edits"]:
                line.append(f"\n  {place or 'row'} at {start}: ")
                line.append(_visible(old) if isinstance(old, str) else f"[{old} characters]", GONE)
                line.append(_visible(new), NEW)
        else:
            line.append(str(event["kept"]))
        yield line


__all__ = ["coloured", "life", "rate", "samples", "table"]
