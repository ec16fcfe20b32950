"""Answers kept on disk by what was asked: address, model, messages or prompt, every setting; no key is part of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from luthier import cache
from luthier.run import write_atomically

FORM = 1
"""Of what is kept; another one is another question."""


class Kept:
    """The answers of one address."""

    def __init__(self, url: str) -> None:
        self._url, self._folder = url, cache.root() / "answers"

    def name(self, path: str, body: Mapping[str, Any]) -> str:
        """What a question is known by."""
        asked = json.dumps([FORM, self._url, path, body], sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(asked.encode()).hexdigest()

    def find(self, name: str) -> dict[str, Any] | None:
        """The answer, if there is one. A file that is not whole is none: the question is asked again."""
        try:
            found = json.loads((self._folder / name[:2] / f"{name}.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def keep(self, name: str, answer: Mapping[str, Any]) -> None:
        """Keep an answer, whole or not at all."""
        write_atomically(self._folder / name[:2] / f"{name}.json", json.dumps(answer, ensure_ascii=True))
