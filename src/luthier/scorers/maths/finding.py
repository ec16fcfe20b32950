"""Where a solution says its final answer.

The marks that leave no doubt (`####`, `\\boxed{}`, `<answer>`) go before words ("the answer is"), and words before the
last number. Of several marks the last is meant: who changes his mind may, and who names every answer gains nothing.
"""

from __future__ import annotations

import re

from luthier.scorers.maths.spelling import groups, plain
from luthier.scorers.maths.values import number

TAIL = 2000
"""So many characters of an unmarked solution's end are looked at."""
DEPTH = 3
"""Marks within marks."""
SHORT = 60
"""Characters below which a whole solution may be one number, spelt in several parts: `1.5 × 10³`."""

_THOUGHT = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
_THINKS = re.compile(r"<think(?:ing)?>", re.IGNORECASE)
_HASHES = re.compile(r"####[ \t]*(?!#)([^\n]*)")
_HEADING = re.compile(r"(?:\d+[.):]\s*)?\**[A-Za-z]{2,}")
_BOX = re.compile(r"\\f?boxed\s*(?=\{)|\\boxed\s+([^\s{}$\\]+)")
_TAGS = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.IGNORECASE | re.DOTALL)
_BETWEEN = re.compile(r"[\s$,;.]*(?:\\text\s*\{\s*(?:and|or)\s*\}|and|or)?[\s$,;]*")
_WORDS = re.compile(
    r"\b(?:the|my|our|final|correct)\s+(?:final\s+|correct\s+)?(?:answer|result)(?:\s+(?:to|of|for)\b[^.\n]{0,80}?)?\s+"
    r"(?:is|are|will be|would be|must be|equals?)\b(?!\s+(?:not|correct|wrong|right|incorrect)\b)[\s*:]*"
    r"|\b(?:final\s+)?answer\s*\**\s*:[\s*]*|^\s*\**A\s*:[\s*]*|答案\s*(?:是|为|為|:|：)[\s*:：]*",
    re.IGNORECASE | re.MULTILINE,
)
_SENTENCE = re.compile(r"\n|[。！]|(?<=[^\d\s])[!?](?=\s|$)|(?<!\b[A-Za-z])\.(?=\s|$|\*)")
_REASON = re.compile(r",?\s+(?:because|since|as|so that|which|where|when|if|after)\b.*", re.IGNORECASE | re.DOTALL)
_WORKING = re.compile(r"\s\([^()]*\d\s*[-+*/=×][^()]*\)\s*$")
_MATHS = re.compile(r"\$\$?([^$\n]+)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<!\d)\.\d+"
NUMBER = re.compile(
    rf"(?:(?<![\w)\]])-\s?|-(?=\$))?\\?\$?\s?-?(?:\d+\s+\d+/\d+|\d+:\d\d|(?:{_DIGITS})(?:\s?/\s?\d+|[eE][+-]?\d+)?|[½⅓⅔¼¾⅛])"
    rf"(?:\s*(?:\\%|%|(?:thousand|million|billion|trillion|percent)\b))?",
    re.IGNORECASE,
)


def final_answer(solution: str, marked: bool = False) -> str | None:
    """What a solution ends up with, as it is written there; None where it says nothing. `marked`: numbers that merely
    come last do not count."""
    said = conclusion(solution)
    answer = by_mark(said)
    if answer is None:
        answer = by_words(said)
    if answer is not None or marked:
        return answer
    return last_value(said)


def conclusion(solution: str) -> str:
    """What is said once the thinking is over; nothing where it never ends."""
    thoughts = list(_THOUGHT.finditer(solution))
    if thoughts:
        return solution[thoughts[-1].end() :]
    opened = _THINKS.search(solution)
    return solution if opened is None else solution[: opened.start()]


def marks(said: str) -> list[tuple[int, int, str]]:
    """The answers that are marked as such: where each begins and ends, and what it says.

    A mark within another is no mark of its own.
    """
    found = [(*tag.span(), *tag.span(1)) for tag in _TAGS.finditer(said)]
    closing = groups(said)
    for box in _BOX.finditer(said):
        if box[1] is not None:
            found.append((*box.span(), *box.span(1)))
        elif box.end() in closing:
            found.append((box.start(), closing[box.end()] + 1, box.end() + 1, closing[box.end()]))
    last = len(said.rstrip())
    for line in _HASHES.finditer(said):
        content = line.start(1) + line[1].rfind("####") + (4 if "####" in line[1] else 1)
        stands = line[1].strip() and _HEADING.match(said[content : line.end()].lstrip()) is None
        if stands or line.end() >= last:
            found.append((*line.span(), content, line.end()))
    outer: list[tuple[int, int, int, int]] = []
    for one in sorted(found):
        if not outer or one[0] >= outer[-1][1]:
            outer.append(one)
    return [(start, end, said[first:after].strip()) for start, end, first, after in outer]


def by_mark(said: str, depth: int = DEPTH) -> str | None:
    """The last marked answer; boxes side by side are one answer of several parts."""
    found = marks(said)
    if not found:
        return None
    parts = [found[-1]]
    for earlier in reversed(found[:-1]):
        between = said[earlier[1] : parts[-1][0]]
        if "boxed" not in said[earlier[0] : earlier[0] + 7] or not _BETWEEN.fullmatch(between) or "\n" in between:
            break
        parts.append(earlier)
    return " , ".join(dict.fromkeys(_inside(content, depth) for _, _, content in reversed(parts)))


def _inside(content: str, depth: int) -> str:
    """A mark's own answer: what a mark or the words within it say, else all of it."""
    inner = by_mark(content, depth - 1) if depth else None
    if inner is None:
        inner = by_words(content)
    return content if inner is None else inner


def by_words(said: str) -> str | None:
    """What the last "the answer is" of a solution says it is."""
    found = list(_WORDS.finditer(said))
    if not found:
        return None
    rest = said[found[-1].end() :].lstrip()
    ends = _SENTENCE.search(rest)
    clause = _WORKING.sub("", _REASON.sub("", (rest if ends is None else rest[: ends.start()])[:TAIL]))
    maths = [next(part for part in one.groups() if part) for one in _MATHS.finditer(clause)]
    if len(maths) == 1 and not NUMBER.search(_MATHS.sub("", clause)):
        return maths[0].strip()
    return clause.strip() or None


def last_value(said: str) -> str | None:
    """The last number of a solution, or the mathematics that it ends with where no number follows."""
    if len(said) < SHORT and number(plain(said)) is not None:
        return said.strip()
    tail = said[-TAIL:]
    numbers, spans = list(NUMBER.finditer(tail)), list(_MATHS.finditer(tail))
    if spans and (not numbers or numbers[-1].end() <= spans[-1].end()):
        return next(part for part in spans[-1].groups() if part).rpartition("=")[2].strip()
    return numbers[-1][0].strip() if numbers else None
