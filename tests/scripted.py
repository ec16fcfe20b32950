"""A model that answers by rules: what the steps that make rows are tested with, so that their arithmetic is known."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from luthier.data.steps.making.prompts import phrase
from luthier.types import Completion, Encoded, Example, Request, Turn

PLACES = (
    "evolve.frame", "evolve.compare", "backtranslate.write", "backtranslate.score", "rewrite.answer",
    "rewrite.question", "round_trip.translate", "questions.write", "pairs.score", "pairs.compare",
    "roleplay.assistant", "roleplay.user", "self_instruct.write", "self_instruct.classify", "self_instruct.instance",
    "self_instruct.labelled",
)  # fmt: skip
TEXT = re.compile(r"<text (\w+)>\n(.*?)\n</text \1>", re.DOTALL)


@lru_cache
def _beginnings() -> dict[str, re.Pattern[str]]:
    found = {}
    for place in PLACES:
        for language in ("en", "zh"):
            words = re.split(r"\{\w+\}", phrase(place, language).strip())  # type: ignore[arg-type]
            found[f"{place}.{language}"] = re.compile(".*?".join(map(re.escape, words)) + r"\Z", re.DOTALL)
    return found


def place_of(text: str) -> str:
    """Which prompt it is, with its language; "answer" for anything else."""
    return next((place for place, pattern in _beginnings().items() if pattern.match(text)), "answer")


def texts(text: str) -> list[str]:
    """What stands between marks."""
    return [found[2] for found in TEXT.finditer(text)]


def numbered(text: str) -> str:
    """Words that hang on a text, and are unlike those of any other."""
    digest = hashlib.blake2b(text.encode("utf-8", "backslashreplace"), digest_size=8).hexdigest()
    return " ".join("abcdefghijklmnop"[int(char, 16)] * 3 for char in digest)


def _usual(place: str, request: Request) -> str:
    """An answer in the right form, which says 42 wherever it says something."""
    said = request.turns[-1].text
    inner = (texts(said) or [said])[0]
    own = numbered(f"{said} {request.sampling.seed}")
    match place.rsplit(".", 1)[0]:
        case "evolve.frame":
            return f"Say with care why 42 is so: {own}"
        case "evolve.compare" | "self_instruct.classify":
            return "否" if place.endswith("zh") else "No."
        case "backtranslate.write":
            return f"Write something about {own}."
        case "backtranslate.score" | "pairs.score":
            return f"It will do. Score: {1 + int(hashlib.blake2b(own.encode()).hexdigest(), 16) % 5}"
        case "rewrite.answer" | "rewrite.question" | "round_trip.translate":
            return f"In other words, {inner}"
        case "questions.write":
            return f"Q: Which word comes first in {own}?\nA: {inner.split()[0] if inner.split() else inner}"
        case "pairs.compare":
            return "A" if texts(said)[1] < texts(said)[2] else "B"
        case "roleplay.user":
            return f"Do the step {own}."
        case "self_instruct.write":
            return f"9. Explain {own}\n10. Describe {numbered(own)} in short"
        case "self_instruct.instance":
            return f"Input: none\nOutput: It is 42 and {own}."
        case _:
            return f"It is 42, as {own} says."


@dataclass
class Scripted:
    """A model with its engine. `rules`: prompt, without its language → the text, or a completion's text and end."""

    rules: Mapping[str, Callable[[Request], str | tuple[str, str]]] = field(default_factory=dict)
    identity: str = "scripted"
    context: int | None = None
    asked: Counter[str] = field(default_factory=Counter)
    """How often each prompt, with its language."""
    requests: list[Request] = field(default_factory=list)

    @property
    def engine(self) -> Any:
        return self

    def prompt(self, turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]] = ()) -> tuple[int, ...]:
        return tuple(range(sum(len(turn.text.split()) for turn in turns)))

    def encode(self, example: Example) -> Encoded:
        raise AssertionError("no step that makes rows reads likelihoods")

    def run(self, requests: Sequence[Request]) -> Iterator[Completion]:
        for request in reversed(requests):  # they end in any order
            place = place_of(request.turns[-1].text)
            self.asked[place] += 1
            self.requests.append(request)
            rule = self.rules.get(place.rsplit(".", 1)[0] if "." in place else place)
            told = rule(request) if rule else _usual(place, request)
            text, finish = told if isinstance(told, tuple) else (told, "stop")
            yield Completion((), text, finish, length=3, request=request.id)  # type: ignore[arg-type]
