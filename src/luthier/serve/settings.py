"""What a server allows itself and its clients: `luthier serve RUN serve.queue=64k`. Light to import."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from luthier.errors import LuthierError
from luthier.registry import suggest

PREFIX = "serve."
UNITS = {"k": 1024, "m": 1024**2, "g": 1024**3}


def _count(value: Any) -> Any:
    """64k is 65,536."""
    text = value.strip().lower() if isinstance(value, str) else ""
    if text[-1:] in UNITS and text[:-1].isdigit():
        return int(text[:-1]) * UNITS[text[-1]]
    return value


Count = Annotated[int, BeforeValidator(_count), Field(gt=0)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class Settings:
    """Limits of the server. Counts may be written as 64k, 16m."""

    queue: Count = 128 * 1024
    """The most tokens (of prompts, and as many as their answers may have) of requests that have not begun to be
    answered; beyond it clients are told to come back (429)."""
    rows: Count = 64
    """The most answers written at a time."""
    tokens: Count = 32 * 1024
    """The most tokens that these hold together, prompts included."""
    answer: Count = 1024
    """Tokens of an answer where the request does not say."""
    answers: Count = 128
    """The most answers of one request: prompts times `n` (or `best_of`)."""
    stops: Count = 64
    """The most stop strings of one request."""
    body: Count = 16 * 1024**2
    """The largest body of a request, in bytes."""
    seconds: Seconds = 600.0
    """The most time that one request may take."""
    patience: Seconds = 30.0
    """So long a client may leave what it is sent unread, or take to send its own request."""
    drain: Seconds = 30.0
    """Time that running requests have to end when the server is told to stop."""
    stuck: Seconds = 60.0
    """Without a step for so long though there is work, the server calls itself stuck (/health)."""
    connections: Count = 1024
    """The most connections at a time; what is asked on one more is told so (503)."""
    loaded: Count = 64
    """The most adapters in memory at a time that need the model to themselves; the longest unused makes room."""
    adapters: Count = 1024**3
    """Bytes of memory for all others: LoRA that is answered in one pass."""
    log_prompts: bool = False
    """Write what is asked and answered into the log."""


def parse(given: Sequence[str]) -> Settings:
    """Settings from `serve.key=value` words. Raises LuthierError for a key that is none, a value out of range."""
    known = [field.name for field in fields(Settings)]
    values: dict[str, str] = {}
    for word in given:
        key, _, value = word.partition("=")
        name = key.removeprefix(PREFIX)
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            fix = f"did you mean {PREFIX}{near[0]}?" if near else suggest(name, [PREFIX + each for each in known])
            raise LuthierError(f"the server has no setting {key!r}", where=word, fix=fix)
        values[name] = value
    try:
        return TypeAdapter(Settings).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = f"{PREFIX}{first['loc'][0]}"
        raise LuthierError(
            f"{first['msg'].replace('Input should be', 'must be')}, got {first['input']!r}",
            where=key,
            fix="docs/serving.md says what it is",
        ) from error


def read_keys(key: str | None, file: Path | None) -> list[str]:
    """The lines of keys that were given: one by itself, and those of a file. Raises LuthierError where there is none
    in the file."""
    lines = [] if key is None else [key]
    if file is not None:
        try:
            text = file.expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise LuthierError(
                f"the file of keys cannot be read: {error}", where="--api-keys", fix="name a text file, one key a line"
            ) from error
        found = [line.strip() for line in text.splitlines()]
        found = [line for line in found if line and not line.startswith("#")]
        if not found:
            raise LuthierError("the file holds no key", where=str(file), fix="write one key a line")
        lines += found
    return lines
