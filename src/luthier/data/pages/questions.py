"""Questions with their answers that a page marks as such: JSON-LD, microdata, lists of terms, fold-out answers.

JSON-LD and microdata say outright what they are. Lists of terms (dl) and fold-outs (details) are used for much else:
they count where what stands in front is a question.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from luthier.data.pages.markup import fragment_text, text_of

ASKS = re.compile(r"[?？؟]\s*$")


@dataclass(frozen=True)
class Answered:
    """A question and its answer; `line` of the page, 0 where it is not known."""

    question: str
    answer: str
    line: int = 0


def questions(page: Any) -> list[Answered]:
    """The questions that have an answer, each once, out of the first structure that has any."""
    for find in (_linked_data, _microdata, _terms, _foldouts):
        found: dict[str, Answered] = {}
        for one in find(page):
            if one.question.strip() and one.answer.strip():
                found.setdefault(one.question.strip(), one)
        if found:
            return list(found.values())
    return []


def _linked_data(page: Any) -> Iterator[Answered]:
    for script in page.xpath("//script[@type='application/ld+json']"):
        try:
            held = json.loads(script.text or "", strict=False)
        except (json.JSONDecodeError, RecursionError):
            continue  # as broken as browsers let it be: the page itself is still read
        for node in _nodes(held, depth=0):
            if "Question" in _types(node):
                answer = _first(node.get("acceptedAnswer")) or _first(node.get("suggestedAnswer"))
                asked = [fragment_text(str(node.get(key) or "")) for key in ("name", "text")]
                question = asked[0] if not asked[1] or asked[1] == asked[0] else "\n\n".join(filter(None, asked))
                yield Answered(question, fragment_text(str(answer.get("text") or "")), script.sourceline or 0)


def _nodes(held: Any, depth: int) -> Iterator[Mapping[str, Any]]:
    if depth > 12:
        return
    if isinstance(held, list):
        for each in held:
            yield from _nodes(each, depth + 1)
    elif isinstance(held, Mapping):
        yield held
        for key in ("@graph", "mainEntity", "hasPart", "mainEntityOfPage"):
            yield from _nodes(held.get(key), depth + 1)


def _types(node: Mapping[str, Any]) -> list[str]:
    given = node.get("@type")
    return [str(each).rsplit("/", 1)[-1] for each in (given if isinstance(given, list) else [given])]


def _first(held: Any) -> Mapping[str, Any]:
    """The answer, of several the one with the most votes."""
    listed = [each for each in (held if isinstance(held, list) else [held]) if isinstance(each, Mapping)]
    return max(listed, key=lambda one: _votes(one.get("upvoteCount")), default={})


def _votes(given: Any) -> float:
    try:
        return float(given)
    except (TypeError, ValueError):
        return 0.0


def _microdata(page: Any) -> Iterator[Answered]:
    for asked in page.xpath("//*[contains(@itemtype, 'schema.org/Question')]"):
        names = asked.xpath(".//*[@itemprop='name']")
        answers = asked.xpath(".//*[@itemprop='acceptedAnswer']") or asked.xpath(".//*[@itemprop='suggestedAnswer']")
        if names and answers:
            said = answers[0].xpath(".//*[@itemprop='text']") or answers
            own = [
                one
                for one in asked.xpath(".//*[@itemprop='text']")
                if not _within(one, asked.xpath(".//*[contains(@itemtype, 'Answer')]"))
            ]
            question = "\n\n".join(filter(None, [text_of(names[0]), *(text_of(one) for one in own[:1])]))
            yield Answered(question, text_of(said[0]), asked.sourceline or 0)


def _within(element: Any, others: list[Any]) -> bool:
    return any(parent in others for parent in element.iterancestors())


def _terms(page: Any) -> Iterator[Answered]:
    for terms in page.xpath("//dl"):
        question: Any = None
        answers: list[Any] = []
        for child in [*terms.xpath(".//dt|.//dd"), None]:
            if child is None or child.tag == "dt":
                if question is not None and ASKS.search(text_of(question)) and answers:
                    yield Answered(text_of(question), "\n\n".join(map(text_of, answers)), question.sourceline or 0)
                question, answers = child, []
            else:
                answers.append(child)


def _foldouts(page: Any) -> Iterator[Answered]:
    for details in page.xpath("//details[summary]"):
        summary = details.find("summary")
        question = text_of(summary)
        if ASKS.search(question):
            rest = text_of(details)
            yield Answered(
                question, rest[len(question) :].strip() if rest.startswith(question) else rest, details.sourceline or 0
            )


__all__ = ["Answered", "questions"]
