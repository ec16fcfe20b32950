"""Lines of a log in OpenAI's shape, as records: what was asked, what was answered, how it ended, what the user thought.

A line holds a request with its response ({"request": …, "response": …}, or messages and choices side by side), one of
the two (joined by `custom_id` or `request_id`, as in OpenAI's batches), or a thumb for a response by its id.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from luthier.data.exports.json_export import name, text
from luthier.data.reading.formats.shape import BadRow
from luthier.data.reading.materials import Tell
from luthier.types import Source

Said = Mapping[str, Any]
KEPT = ("role", "content", "tool_calls", "tool_call_id", "name", "refusal")
"""What of a message is kept and compared. Reasoning is not sent back by clients."""
UP = ("thumbs_up", "thumb_up", "up", "👍", "good", "like", "liked", "positive", "1", "+1", "true")
DOWN = ("thumbs_down", "thumb_down", "down", "👎", "bad", "dislike", "disliked", "negative", "0", "-1", "false")
JUDGED = ("feedback", "thumb", "thumbs", "rating")
IDS = ("custom_id", "request_id")
ENDED = ("stop", "tool_calls", "function_call", "eos", "end_turn", "", None)
"""How whole answers end."""


@dataclass
class Answer:
    """One answer. `ended`: why it ended, None where the log does not say."""

    said: Said
    ended: str | None


@dataclass
class Record:
    """A request and what came of it."""

    place: Source
    asked: list[Said]
    answers: list[Answer]
    tools: Any = None
    thumbs: set[bool] = field(default_factory=set)
    names: tuple[str, ...] = ()
    """What a thumb may call it."""


@dataclass(frozen=True)
class _Thumb:
    """What a user thought of the response of this name."""

    whose: str
    up: bool
    place: Source


def records(rows: Iterable[tuple[Source, Any]], tell: Tell) -> Iterator[Record | tuple[Source, BadRow]]:
    """The records in the order of their responses, and rows that are none. A thumb may come later than its response."""
    found: list[Record | tuple[Source, BadRow]] = []
    halves: dict[str, dict[str, Any]] = {}
    by_id: dict[str, Record] = {}
    thumbs: list[_Thumb] = []
    for place, row in rows:
        try:
            read = _row(row, place, halves, tell)
            if isinstance(read, _Thumb):
                thumbs.append(read)
            elif read is not None:
                found.append(read)
                by_id.update(dict.fromkeys(read.names, read))
        except BadRow as fault:
            found.append((place, fault))
    for waiting in halves.values():
        tell("a request has no response in the log, or a response no request", waiting["place"])
    for thumb in thumbs:
        if thumb.whose in by_id:
            by_id[thumb.whose].thumbs.add(thumb.up)
        else:
            tell("a thumb is for a response that the log does not hold", thumb.place)
    yield from found


def _row(row: Any, place: Source, halves: dict[str, dict[str, Any]], tell: Tell) -> Record | _Thumb | None:
    """A record or a thumb, None where there is none (yet). Raises BadRow."""
    if not isinstance(row, Mapping):
        raise BadRow("the row is no object")
    request, response = _side(row, "request"), _side(row, "response")
    key = next((name(row[each]) for each in IDS if row.get(each) is not None), "")
    if request is None and response is None:
        thumb, whose = _thumb(row), name(row.get("response_id") or row.get("completion_id") or row.get("id") or key)
        if thumb is None or not whose:
            raise BadRow(
                "the row has neither messages nor an answer nor a thumb", "see docs/acquire.md for what a log holds"
            )
        return _Thumb(whose, thumb, place)
    status = _status(row)
    if status:
        halves.pop(key, None)
        tell(f"the server refused or failed ({status})", place)
        return None
    if request is None or response is None:
        if not key:
            raise BadRow("the row has only a request or only a response, and no custom_id or request_id joins them")
        half = halves.pop(key, None)
        if half is None:
            halves[key] = {"request": request, "response": response, "place": place, "row": row}
            return None
        request, response = request or half["request"], response or half["response"]
        row = {**half["row"], **row}
        if request is None or response is None:
            raise BadRow(f"two rows have one id, and both are {'responses' if request is None else 'requests'}")
    asked = [_kept(one) for one in _messages(request)]
    thumb, held = _thumb(row), response.get("id") if isinstance(response, Mapping) else None
    names = tuple(each for each in (name(held), key, name(row.get("id"))) if each)
    return Record(place, asked, _answers(response), request.get("tools"), set() if thumb is None else {thumb}, names)


def _side(row: Mapping[str, Any], side: str) -> Any:
    """The request or the response of a row, whatever it is wrapped in; None where it has none."""
    held = row.get(side)
    if side == "request" and held is None:
        held = row if isinstance(row.get("messages"), list) else row.get("body")
        return held if isinstance(held, Mapping) and "messages" in held else None
    if side == "response" and held is None:
        return row if isinstance(row.get("choices"), list) else None
    return held["body"] if isinstance(held, Mapping) and "body" in held else held


def _status(row: Mapping[str, Any]) -> str:
    """How the server refused, '' where it did not."""
    response = row.get("response")
    outer: Mapping[str, Any] = response if isinstance(response, Mapping) else {}
    inner: Any = outer.get("body")
    for held in (row, outer):
        for key in ("status", "status_code"):
            value = held.get(key)
            if isinstance(value, int | str) and str(value).isdigit() and int(value) >= 400:
                return str(value)
    for part in (row, outer, inner):
        error = part.get("error") if isinstance(part, Mapping) else None
        if error:
            code = error.get("code") or error.get("type") if isinstance(error, Mapping) else None
            return str(code or "error")
    return ""


def _messages(request: Any) -> list[Any]:
    if not isinstance(request, Mapping) or not isinstance(request.get("messages"), list) or not request["messages"]:
        raise BadRow("the request has no messages")
    return request["messages"]


def _kept(message: Any) -> Said:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise BadRow("a message has no role")
    return {key: message[key] for key in KEPT if message.get(key) not in (None, [])}


def _answers(response: Any) -> list[Answer]:
    """The choices of a response: whole, as text, or in the chunks of a stream. Raises BadRow."""
    if isinstance(response, str) and response.lstrip().startswith("data:"):
        chunks = [line[5:].strip() for line in response.splitlines() if line.startswith("data:")]
        try:
            response = [json.loads(chunk) for chunk in chunks if chunk != "[DONE]"]
        except json.JSONDecodeError:
            raise BadRow("a chunk of a streamed response is broken JSON") from None
    if isinstance(response, list):
        return _streamed(response)
    if isinstance(response, str):
        return [Answer({"role": "assistant", "content": response}, None)]
    choices = response.get("choices") if isinstance(response, Mapping) else None
    if not isinstance(choices, list) or not choices:
        raise BadRow("the response has no choices")
    answers = []
    for choice in choices:
        if not isinstance(choice, Mapping) or not isinstance(choice.get("message"), Mapping):
            raise BadRow("a choice of the response has no message")
        said = _kept({"role": "assistant", **choice["message"]})
        answers.append(Answer(said, choice.get("finish_reason")))
    return answers


def _streamed(chunks: list[Any]) -> list[Answer]:
    """A response put together from its chunks. One whose end the log does not hold was cut."""
    parts: dict[int, list[str]] = {}
    ends: dict[int, str] = {}
    for chunk in chunks:
        for choice in chunk.get("choices") or () if isinstance(chunk, Mapping) else ():
            place, delta = choice.get("index", 0), choice.get("delta") or {}
            if delta.get("tool_calls"):
                raise BadRow("a streamed response has tool calls in pieces", "log responses whole")
            parts.setdefault(place, []).append(text(delta.get("content")))
            if choice.get("finish_reason"):
                ends[place] = choice["finish_reason"]
    if not parts:
        raise BadRow("the response has no choices")
    said = {place: {"role": "assistant", "content": "".join(words)} for place, words in sorted(parts.items())}
    return [Answer(one, ends.get(place, "stream broke off")) for place, one in said.items()]


def _thumb(row: Mapping[str, Any]) -> bool | None:
    """What the user thought of the response. Raises BadRow for a word that says neither."""
    for key in JUDGED:
        value = row.get(key)
        if isinstance(value, Mapping):
            value = next((value[each] for each in ("thumb", "rating", "value", "score") if each in value), None)
        if value is None or value == "":
            continue
        word = str(value).strip().lower()
        if word in UP or word in DOWN:
            return word in UP
        raise BadRow(f"{key!r} is {word[:40]!r}, neither a thumb up nor down", f"write {UP[0]} or {DOWN[0]}")
    return None


__all__ = ["ENDED", "Answer", "Record", "Said", "records"]
