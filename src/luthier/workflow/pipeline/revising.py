"""A stage that has answers criticised and written anew: rows to learn from, and what became of each answer.

What is said is kept on disk as it is said (`scorers.judges.asking`), so that a stage that was stopped asks again only
for what it has not heard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from luthier.data import Ledger, read
from luthier.errors import LuthierError
from luthier.run import json_line, naming
from luthier.scorers.judges.asking import voice
from luthier.scorers.judges.constitution import constitution
from luthier.scorers.judges.revising import Lost, Revised, revised
from luthier.types import Example, Response, Sampling, Turn
from luthier.workflow.pipeline.answered import Answered, with_system
from luthier.workflow.pipeline.parts import begun, put, settled
from luthier.workflow.pipeline.stages import LEDGER, ROWS, Rewriting

AT_ONCE = 256
"""Answers that are revised together."""


def revise(work: Rewriting, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Write `rows.jsonl` and `ledger.jsonl` into the folder; how many there are of what. Rows are whole or not there.

    Raises LuthierError where nothing is left to learn from.
    """
    from luthier.workflow.speaker import Speaker

    keys, ledger = work.keys, Ledger()
    by, written = voice(keys.model, keys.engine), constitution(keys.constitution)
    sampling = Sampling(keys.max_new_tokens, keys.temperature, seed=keys.seed)
    sources = with_system(keys.data, Speaker(work.speaker).system)
    every = read(sources, ledger) if keys.answers is None else _answers(Answered(Path(keys.answers), sources, ledger))
    folder.mkdir(parents=True, exist_ok=True)
    made, lost = 0, Counter[str]()
    with naming(folder), ExitStack() as stack:
        rows, told = (stack.enter_context(begun(folder / name)) for name in (ROWS, LEDGER))
        while examples := list(islice(every, AT_ONCE)):
            for example, one in zip(examples, revised(examples, by, written, keys.rounds, sampling), strict=True):
                told.write(json_line(_line(example, one)))
                if isinstance(one, Lost):
                    lost[str(one)] += 1
                else:
                    rows.write(json_line({**one.row(), **({"tools": list(example.tools)} if example.tools else {})}))
                    made += 1
        settled(rows, told)
    put(folder / LEDGER)
    unread = sum(reason.count for reason in ledger.reasons.values())
    count = made + lost.total()
    why = ", ".join(f"{reason} ({number:,})" for reason, number in lost.most_common())
    if not made:
        raise LuthierError(
            f"none of {count:,} answers is revised: {why}" if count else "there is nothing to revise",
            where=str(folder / LEDGER),
            fix="raise `max_new_tokens`, or take an instruct model that ends its answers",
        )
    put(folder / ROWS)
    left = f"; {lost.total():,} left out: {why}" if lost else ""
    unreadable = f"; {unread:,} rows could not be read" if unread else ""
    say(f"{made:,} of {count:,} answers are revised in {keys.rounds:,} rounds{left}{unreadable}")
    return {"answers": count, "rows": made, "rounds": keys.rounds, "unread": unread}


def _answers(answered: Answered) -> Iterator[Example]:
    """Each answer as the response of its row."""
    for group in answered.groups():
        for answer in group.answers:
            if answer.text.strip() and answer.finish not in ("length", "filtered"):
                yield replace(group.prompt.example, responses=(Response((Turn("assistant", answer.text),)),))


def _line(example: Example, one: Revised | Lost) -> dict[str, Any]:
    """The ledger's, of one answer."""
    source = str(example.source) if example.source else None
    if isinstance(one, Lost):
        return {"source": source, "kept": False, "at": one.at, "why": one.why}
    return {"source": source, "kept": True, "principles": [round_.principle for round_ in one.revisions]}
