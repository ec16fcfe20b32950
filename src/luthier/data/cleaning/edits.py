"""What a rule does to a text: pieces taken out and put in, so that every change can be shown and taken back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Edit(NamedTuple):
    """At `start` of the text before, `old` stood, and `new` is put there. Lists of edits are in order, and apart."""

    start: int
    old: str
    new: str

    @property
    def end(self) -> int:
        """Where the old piece ends."""
        return self.start + len(self.old)


def apply(text: str, edits: Sequence[Edit]) -> str:
    """The text after the edits."""
    if not edits:
        return text
    pieces, at = [], 0
    for start, old, new in edits:
        pieces += [text[at:start], new]
        at = start + len(old)
    return "".join([*pieces, text[at:]])


def inverse(edits: Sequence[Edit]) -> list[Edit]:
    """The edits that give back the text before: `apply(apply(text, edits), inverse(edits)) == text`."""
    back, moved = [], 0
    for start, old, new in edits:
        back.append(Edit(start + moved, new, old))
        moved += len(new) - len(old)
    return back


def compose(text: str, first: Sequence[Edit], second: Sequence[Edit]) -> list[Edit]:
    """One list of edits of `text` for two, one after the other. The second speaks of the text after the first."""
    if not first or not second:
        return list(first or second)
    middle = apply(text, first)
    both = [(edit, True) for edit in inverse(first)] + [(edit, False) for edit in second]
    both.sort(key=lambda one: (one[0].start, one[0].end))
    made, moved, at = [], 0, 0
    while at < len(both):
        start, end, grown = both[at][0].start, both[at][0].end, 0
        later: list[Edit] = []
        while at < len(both) and both[at][0].start <= end:  # what overlaps or touches becomes one
            edit, was_first = both[at]
            end, at = max(end, edit.end), at + 1
            if was_first:
                grown += len(edit.old) - len(edit.new)
            else:
                later.append(edit._replace(start=edit.start - start))
        old, new = text[start - moved : end - moved - grown], apply(middle[start:end], later)
        if old != new:
            made.append(trimmed(Edit(start - moved, old, new)))
        moved += grown
    return made


def trimmed(edit: Edit) -> Edit:
    """The same change without what is equal at both of its ends."""
    start, old, new = edit
    head = 0
    while head < len(old) and head < len(new) and old[head] == new[head]:
        head += 1
    tail = 0
    while tail < len(old) - head and tail < len(new) - head and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    return Edit(start + head, old[head : len(old) - tail], new[head : len(new) - tail])


def changed(text: str, after: str) -> list[Edit]:
    """The edits between two texts of one length, run by run; between others, one edit for the whole."""
    if text == after:
        return []
    if len(text) != len(after):
        return [trimmed(Edit(0, text, after))]
    edits, start = [], None
    for place, (one, other) in enumerate(zip(text, after, strict=True)):
        if one != other and start is None:
            start = place
        elif one == other and start is not None:
            edits.append(Edit(start, text[start:place], after[start:place]))
            start = None
    return edits if start is None else [*edits, Edit(start, text[start:], after[start:])]


def outside(edits: Iterable[Edit], spans: Sequence[tuple[int, int]]) -> list[Edit]:
    """The edits that touch nothing of the spans (in order, and apart)."""
    kept, at = [], 0
    for edit in edits:
        while at < len(spans) and spans[at][1] <= edit.start:
            at += 1
        if at == len(spans) or edit.end <= spans[at][0] or (edit.start == edit.end == spans[at][0]):
            kept.append(edit)
    return kept
