"""What a model is asked, in English and Chinese: read from the files beside this one.

What is quoted stands between marks that it cannot know beforehand, since they hang on all of it: so it cannot close
them and speak for whoever asks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml

from luthier.data.steps.making.overlap import is_han

Language = Literal["en", "zh"]


@dataclass(frozen=True)
class Prompt:
    """A prompt, filled in, and what it is called in the history of a row."""

    text: str
    name: str
    """evolve.deepen.en@1f0c9a2b: its place in the files, and a digest of the words there."""


@lru_cache
def _words(language: Language) -> Mapping[str, Any]:
    content = Path(__file__).with_name(f"prompts-{language}.yaml").read_text(encoding="utf-8")
    found: Mapping[str, Any] = yaml.safe_load(content)
    return found


def phrase(place: str, language: Language) -> Any:
    """What the file has at a place: step.part."""
    found: Any = _words(language)
    for part in place.split("."):
        found = found[part]
    return found


def prompt(place: str, language: Language, /, **quoted: str) -> Prompt:
    """The prompt at a place, its gaps filled. Texts of rows are to be given through `fenced`."""
    template = str(phrase(place, language))
    digest = hashlib.blake2b(template.encode(), digest_size=4).hexdigest()
    return Prompt(template.format_map(quoted).strip(), f"{place}.{language}@{digest}")


def fenced(text: str) -> str:
    """A text between marks of its own."""
    mark = hashlib.blake2b(text.encode("utf-8", "backslashreplace"), digest_size=3).hexdigest()
    return f"<text {mark}>\n{text}\n</text {mark}>"


def digest() -> str:
    """Of all prompts: other words make other rows."""
    files = (Path(__file__).with_name(f"prompts-{language}.yaml").read_bytes() for language in ("en", "zh"))
    return hashlib.blake2b(b"".join(files), digest_size=8).hexdigest()


def language_of(text: str, given: Literal["auto", "en", "zh"]) -> Language:
    """The language to ask in: Chinese where a fifth of the letters are."""
    if given != "auto":
        return given
    letters = [char for char in text if char.isalpha()]
    return "zh" if letters and sum(map(is_han, letters)) >= len(letters) / 5 else "en"


__all__ = ["Language", "Prompt", "digest", "fenced", "language_of", "phrase", "prompt"]
