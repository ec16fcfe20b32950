"""A constitution: the principles that answers are compared by and revised by, as a YAML file (arXiv:2212.08073)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from luthier.errors import LuthierError
from luthier.registry import suggest
from luthier.types import Example

Language = Literal["en", "zh"]
SHIPPED: tuple[str, ...] = get_args(Language)
"""Ours, by language: `constitution-en.yaml` and `constitution-zh.yaml` beside this file."""


@dataclass(frozen=True)
class Principle:
    """One principle, in the words that a judge is asked in."""

    name: str
    compare: str
    """Which of two answers to choose."""
    critique: str
    """What to look for in an answer."""
    revise: str
    """How to write it anew."""


@dataclass(frozen=True)
class Constitution:
    """Principles, in one language."""

    language: Language
    principles: tuple[Principle, ...]

    def drawn(self, example: Example, said: Sequence[str], count: int = 1) -> list[Principle]:
        """`count` different principles for a row and what was said to it, by a hash of both, whatever the order."""
        row = "\0".join(f"{turn.role}\1{turn.text}" for turn in example.prompt)
        mixed = hashlib.blake2b("\2".join([row, *sorted(said)]).encode(errors="surrogatepass"), digest_size=16)
        left, number = list(self.principles), int.from_bytes(mixed.digest(), "little")
        found = []
        for _ in range(min(count, len(left))):
            number, place = divmod(number, len(left))
            found.append(left.pop(place))
        return found


def constitution(named: str) -> Constitution:
    """`en`, `zh`, or a file. Raises LuthierError, naming file and principle, for what is no constitution."""
    path = Path(__file__).parent / f"constitution-{named}.yaml" if named in SHIPPED else Path(named).expanduser()
    try:
        stamp = path.stat().st_mtime_ns
    except OSError as error:
        raise LuthierError(
            f"the constitution cannot be read: {error.strerror}",
            where=named,
            fix=f"name one of ours ({', '.join(SHIPPED)}), or a YAML file that is there",
        ) from error
    return _read(str(path), stamp)


@lru_cache(maxsize=8)
def _read(path: str, stamp: int) -> Constitution:
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else path
        raise LuthierError(
            f"the constitution is no YAML: {getattr(error, 'problem', None) or error}",
            where=place,
            fix="mend the file; ours beside the docs of `judge` shows the form",
        ) from error
    language, entries = _parts(path, content)
    principles = tuple(_principle(path, number, entry) for number, entry in enumerate(entries, 1))
    names = [principle.name for principle in principles]
    for number, name in enumerate(names, 1):
        if name in names[: number - 1]:
            raise LuthierError(
                f"principle {number} is called {name!r}, as one before", where=path, fix="give each its own name"
            )
    return Constitution(language, principles)


def _parts(path: str, content: Any) -> tuple[Language, list[Any]]:
    if not isinstance(content, dict) or not isinstance(content.get("principles"), list) or not content["principles"]:
        raise LuthierError(
            "the file holds no principles", where=path, fix="write `language:` and a list under `principles:`"
        )
    for key in content:
        if key not in ("language", "principles"):
            raise LuthierError(
                f"a constitution has no key {key!r}", where=path, fix=suggest(str(key), ["language", "principles"])
            )
    language = content.get("language", "en")
    if language not in SHIPPED:
        raise LuthierError(
            f"`language` is {language!r}, and judges are asked in {' or '.join(SHIPPED)}", where=path, fix="set one"
        )
    return language, content["principles"]


def _principle(path: str, number: int, entry: Any) -> Principle:
    wanted = [field.name for field in fields(Principle)]
    where = f"{path}, principle {number}"
    if not isinstance(entry, dict):
        raise LuthierError(f"a principle is a mapping, and this is {entry!r:.80}", where=where, fix=_form(wanted))
    for key in entry:
        if key not in wanted:
            raise LuthierError(f"a principle has no key {key!r}", where=where, fix=suggest(str(key), wanted))
    for key in wanted:
        if not isinstance(entry.get(key), str) or not entry[key].strip():
            raise LuthierError(f"`{key}` is missing, or no text", where=where, fix=_form(wanted))
    return Principle(**{key: entry[key].strip() for key in wanted})


def _form(wanted: Sequence[str]) -> str:
    return f"give it {', '.join(wanted)}, each a text"
