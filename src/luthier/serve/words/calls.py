"""Tool calls in what a model writes: found as the text comes in, in the form that the model's template has for them.

One parser serves streams and whole answers. What only looks like a call is text, and is given back as it was.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Protocol

SEPARATORS = " \t\r\n;"
QUOTES = re.compile(r'(?<!\\)(?:\\\\)*"')
"""Those that begin or end a string: no odd number of backslashes before them."""
PYTHON = "<|python_tag|>"


@dataclass(frozen=True)
class Call:
    """A tool that the model wants called."""

    name: str
    arguments: str
    """JSON text of an object."""


@dataclass(frozen=True)
class Reasoning:
    """A part of what the model thinks before it answers, where its template tells it apart."""

    text: str


Said = str | Call | Reasoning


class Parser(Protocol):
    """Takes a text in pieces, gives what it is made of."""

    def feed(self, text: str) -> list[Said]:
        """What this piece settles."""
        ...

    def end(self) -> list[Said]:
        """The rest."""
        ...


class Plain:
    """No calls: all is text."""

    def feed(self, text: str) -> list[Said]:
        return [text] if text else []

    def end(self) -> list[Said]:
        return []


class Tagged:
    """Calls between tags, as Hermes and Qwen write them: <tool_call>{"name": …, "arguments": …}</tool_call>."""

    OPEN, CLOSE = "<tool_call>", "</tool_call>"

    def __init__(self, names: Collection[str]) -> None:
        self._names, self._held, self._inside = names, "", False
        self._space = ""
        """White space before the tag: part of the text if there is no call after all."""
        self._called = False

    def feed(self, text: str) -> list[Said]:
        self._held += text
        found: list[Said] = []
        while True:
            if self._inside:
                end = self._end()
                if end is None:
                    return found
                found += self._close(end)
                continue
            before, opened, rest = self._held.partition(self.OPEN)
            if opened:
                words = before.rstrip()
                found += [words] if words else []
                self._inside, self._held, self._space = True, rest, before[len(words) :]
                continue
            hold = may_begin(before, self.OPEN)
            found += [before[:hold]] if before[:hold] else []
            self._held = before[hold:]
            return found

    def end(self) -> list[Said]:
        found: list[Said] = []
        while self._inside and self.CLOSE in self._held and not self._whole(len(self._held)):  # no string goes on so
            found += [*self._close(self._held.index(self.CLOSE)), *self.feed("")]
        text, self._held = self._held, ""
        if self._inside:  # cut off, or ended without the closing tag
            return [*found, *self._call(text, "")]
        return [*found, text] if text.strip() or (text and not self._called) else found

    def _end(self) -> int | None:
        """Where the call ends: at the first tag that is no part of a string in it. None while there is none."""
        first = end = self._held.find(self.CLOSE)
        while end >= 0:
            if not _within_string(self._held[:end]):
                return end if end == first or self._whole(end) else first
            end = self._held.find(self.CLOSE, end + 1)
        return None

    def _whole(self, end: int) -> bool:
        return call_of(_loaded(self._held[:end]), self._names) is not None

    def _close(self, end: int) -> list[Said]:
        body, self._held, self._inside = self._held[:end], self._held[end + len(self.CLOSE) :], False
        return self._call(body, self.CLOSE)

    def _call(self, body: str, closed: str) -> list[Said]:
        call = call_of(_loaded(body), self._names)
        self._called = self._called or call is not None
        return [call] if call else [self._space + self.OPEN + body + closed]


class Listed:
    """Calls behind a word, as Mistral writes them: [TOOL_CALLS][{"name": …}, …], or [TOOL_CALLS]name[ARGS]{…}."""

    OPEN, ARGUMENTS = "[TOOL_CALLS]", "[ARGS]"

    def __init__(self, names: Collection[str]) -> None:
        self._names, self._held, self._inside, self._space = names, "", False, ""

    def feed(self, text: str) -> list[Said]:
        self._held += text
        if self._inside:
            return []
        before, opened, rest = self._held.partition(self.OPEN)
        if opened:
            words = before.rstrip()
            self._inside, self._held, self._space = True, rest, before[len(words) :]
            return [words] if words else []
        hold = may_begin(before, self.OPEN)
        self._held = before[hold:]
        return [before[:hold]] if before[:hold] else []

    def end(self) -> list[Said]:
        text, self._held = self._held, ""
        if not self._inside:
            return [text] if text else []
        calls: list[Said] = []
        listed = _loaded(text)
        for one in listed if isinstance(listed, list) else self._named(text):
            call = call_of(one, self._names)
            if call is None:
                return [self._space + self.OPEN + text]
            calls.append(call)
        return calls

    def _named(self, text: str) -> list[Any]:
        """Calls of the second kind; None for what is none. An argument may hold any of the words that part them."""
        found: list[Any] = []
        while True:
            name, _, rest = text.partition(self.ARGUMENTS)
            try:
                arguments, end = json.JSONDecoder().raw_decode(rest.lstrip())
            except (ValueError, RecursionError):
                return [None]
            found.append({"name": name.strip(), "arguments": arguments})
            rest = rest.lstrip()[end:].strip()
            if not rest:
                return found
            if not rest.startswith(self.OPEN):
                return [None]
            text = rest.removeprefix(self.OPEN)


class Bare:
    """An answer that is nothing but calls, as Llama 3 writes them: {"name": …, "parameters": …}."""

    def __init__(self, names: Collection[str]) -> None:
        self._names, self._held, self._text = names, "", False

    def feed(self, text: str) -> list[Said]:
        if self._text:
            return [text] if text else []
        self._held += text
        found: list[Said] = []
        while True:
            bare = self._held.lstrip(SEPARATORS).removeprefix(PYTHON).lstrip(SEPARATORS)
            if not bare or PYTHON.startswith(bare):
                return found
            if bare[0] == "{":
                try:
                    content, end = json.JSONDecoder().raw_decode(bare)
                except (ValueError, RecursionError):
                    return found  # not whole yet
                call = call_of(content, self._names)
                if call is not None:
                    found.append(call)
                    self._held = bare[end:]
                    continue
            self._text = True
            found.append(self._held)
            self._held = ""
            return found

    def end(self) -> list[Said]:
        text, self._held = self._held, ""
        return [text] if text.strip(SEPARATORS) else []


class Described:
    """What the tokenizer's own response template says, by transformers' parser: calls, reasoning and words."""

    def __init__(self, parser: Any, names: Collection[str]) -> None:
        self._parser, self._names = parser, names
        self._raw: list[str] = []
        self._broken = False

    def feed(self, text: str) -> list[Said]:
        if not text or self._broken:
            return [text] if text else []
        try:
            return self._said(self._parser.feed(text))
        except (ValueError, KeyError, TypeError):  # not in the form that the template says: then it is all text
            self._broken = True
            return ["".join([*self._raw, text])]

    def end(self) -> list[Said]:
        if self._broken:
            return []
        try:
            return self._said(self._parser.finalize()[1])
        except (ValueError, KeyError, TypeError):
            return ["".join(self._raw)] if self._raw else []

    def _said(self, events: list[dict[str, Any]]) -> list[Said]:
        found: list[Said] = []
        for event in events:
            field, kind = event["field"], event["type"]
            if field == "tool_calls" and kind == "region_close":
                value = event["value"]
                calls = [call_of(one, self._names) for one in (value if isinstance(value, list) else [value])]
                found += [call for call in calls if call] if all(calls) else ["".join(self._raw)]
                self._raw = []
            elif kind == "region_chunk" and field == "tool_calls":
                self._raw.append(event["text"])
            elif kind == "region_chunk":
                found.append(event["text"] if field == "content" else Reasoning(event["text"]))
        return found


def call_of(content: Any, names: Collection[str]) -> Call | None:
    """The call that a model wrote, of a tool that it was given; None where it is none."""
    if isinstance(content, dict) and isinstance(content.get("function"), dict):
        content = content["function"]
    if not isinstance(content, dict) or content.get("name") not in names:
        return None
    arguments = content.get("arguments", content.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = _loaded(arguments)
    if not isinstance(arguments, dict):
        return None
    return Call(content["name"], json.dumps(arguments, ensure_ascii=False))


def _loaded(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _within_string(text: str) -> bool:
    """Does JSON that is cut here end within a string?"""
    return len(QUOTES.findall(text)) % 2 == 1


def may_begin(text: str, word: str) -> int:
    """Where the end of `text` begins that may become `word`: white space before it counts with it."""
    size = next((size for size in range(min(len(text), len(word) - 1), 0, -1) if text.endswith(word[:size])), 0)
    return len(text[: len(text) - size].rstrip())
