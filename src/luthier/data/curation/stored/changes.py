"""What a step changed of a row, as spans that can be undone; and what became of a row, as lines of a log."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from luthier.data.curation.lines import MADE, body, of_row
from luthier.types import Example, Response, Turn

STEPS = "steps"
"""Where `meta` has the texts of judged steps, which are pieces of the response."""
WHOLE = ""
"""The place of a change that is not one of texts alone: the whole row as JSON."""
LONGEST = 2000
"""Characters of a text that a sample holds."""


@dataclass(frozen=True)
class Edit:
    """In the text at `place`, `old` stood from `start` on, and now `new` does."""

    place: str
    """prompt.0, responses.0.turns.1, steps.2, answer; "" for the whole row."""
    start: int
    old: str
    new: str


def edits(before: Example, after: Example) -> list[Edit]:
    """What was changed: a span for each text that differs, or the whole row where more than texts does."""
    old, new = list(texts(before)), list(texts(after))
    if [place for place, _ in old] != [place for place, _ in new] or not _alike(
        with_texts(before, (text for _, text in new)), after
    ):
        return [Edit(WHOLE, 0, body(before), body(after))]
    return [_span(place, a, b) for (place, a), (_, b) in zip(old, new, strict=True) if a != b]


def texts(example: Example) -> Iterator[tuple[str, str]]:
    """All texts of a row, with their places. A response whose steps are judged is told step by step."""
    for index, turn in enumerate(example.prompt):
        yield f"prompt.{index}", turn.text
    if STEPS in example.meta and len(example.responses) == 1:
        yield from ((f"steps.{index}", text) for index, text in enumerate(example.meta[STEPS]))
    else:
        for number, response in enumerate(example.responses):
            for index, turn in enumerate(response.turns):
                yield f"responses.{number}.turns.{index}", turn.text
    if example.answer is not None:
        yield "answer", example.answer


def with_texts(example: Example, new: Iterable[str]) -> Example:
    """The row with other texts, in the order of `texts`; the very row where all are as they were."""
    given = iter(new)
    prompt, meta = _spoken(example.prompt, given), example.meta
    if STEPS in meta and len(example.responses) == 1:
        steps = tuple(next(given) for _ in meta[STEPS])
        same = steps == tuple(meta[STEPS])
        responses: tuple[Response, ...] = (
            example.responses if same else (_stepped(example.responses[0], meta[STEPS], steps),)
        )
        meta = meta if same else {**meta, STEPS: steps}
    else:
        made = ((one, _spoken(one.turns, given)) for one in example.responses)
        responses = tuple(one if turns is one.turns else replace(one, turns=turns) for one, turns in made)
    answer = example.answer if example.answer is None else next(given)
    same = prompt is example.prompt and answer == example.answer and meta is example.meta
    if same and all(a is b for a, b in zip(responses, example.responses, strict=True)):
        return example
    return replace(example, prompt=prompt, responses=responses, answer=answer, meta=meta)


def _spoken(turns: tuple[Turn, ...], given: Iterator[str]) -> tuple[Turn, ...]:
    made = tuple(turn if (text := next(given)) == turn.text else replace(turn, text=text) for turn in turns)
    return turns if all(a is b for a, b in zip(made, turns, strict=True)) else made


def _stepped(response: Response, old: Sequence[str], new: Sequence[str]) -> Response:
    """A response with other steps; what divides them stays."""
    *before, last = response.turns
    pieces, at = [], 0
    for was, now in zip(old, new, strict=True):
        start = last.text.find(was, at)
        start = at if start < 0 else start
        pieces += [last.text[at:start], now]
        at = start + len(was)
    return replace(response, turns=(*before, replace(last, text="".join([*pieces, last.text[at:]]))))


def _alike(a: Example, b: Example) -> bool:
    """Are they the same row, whatever made it and wherever it came from?"""
    known = [{key: value for key, value in one.meta.items() if key != MADE} for one in (a, b)]
    return known[0] == known[1] and replace(a, source=None, meta={}) == replace(b, source=None, meta={})


def _span(place: str, old: str, new: str) -> Edit:
    """The shortest span round all that differs."""
    longest = min(len(old), len(new))
    start = next((i for i in range(longest) if old[i] != new[i]), longest)
    end = next((i for i in range(longest - start) if old[-1 - i] != new[-1 - i]), longest - start)
    return Edit(place, start, old[start : len(old) - end], new[start : len(new) - end])


def undone(after: Example, made: Sequence[Edit]) -> Example:
    """The row as it was before these changes."""
    for edit in reversed(made):
        if edit.place == WHOLE:
            after = replace(of_row(json.loads(edit.old)), source=after.source)
            continue
        known = dict(texts(after))
        text = known[edit.place]
        known[edit.place] = text[: edit.start] + edit.old + text[edit.start + len(edit.new) :]
        after = with_texts(after, known.values())
    return after


def written(made: Sequence[Edit], *, private: bool) -> list[list[Any]]:
    """The changes as JSON. Of what is `private`, only how long it was."""
    return [[one.place, one.start, len(one.old) if private else one.old, one.new] for one in made]


def sample(source: str, made: Sequence[Edit], before: Example, after: Example, *, private: bool) -> dict[str, Any]:
    """The first change, to be looked at: the whole text before and after."""
    first = made[0]
    old, new = (
        (first.old, first.new) if first.place == WHOLE else (dict(texts(one))[first.place] for one in (before, after))
    )
    from_here = max(0, first.start - LONGEST // 4)
    old, new = (text[from_here : from_here + LONGEST] for text in (old, new))
    return {"source": source, "place": first.place, "before": None if private else old, "after": new}


__all__ = ["WHOLE", "Edit", "edits", "sample", "texts", "undone", "with_texts", "written"]
