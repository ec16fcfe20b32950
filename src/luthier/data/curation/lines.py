"""A row as a line of JSON and back, nothing lost: what shards hold, and what `luthier curate` writes.

A conversation with one answer that nobody judged is written as OpenAI's messages, which everything reads. What these
cannot say (several responses, scores, plain texts, pictures, what scorers know of a row) is written as an `example`. A
line ends with where the row came from and what made it; both do not count as its content.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from json.encoder import encode_basestring as quoted
from typing import Any

from luthier.data.encode.messages import REASONING, Arguments
from luthier.data.reading.formats.shape import BadRow
from luthier.run import BREAKS
from luthier.types import RAW, Example, Response, Source, Turn

MADE = "made"
"""The key of `meta` that says what a made row was made from, and by what."""
PLAIN_KEYS = {"name", "tool_call_id", REASONING}
"""What a message may have besides its text, in OpenAI's words."""
PLACE = ', "source": ['
"""What stands before the place that a row came from: the last thing on its line."""
TUPLES = ("steps", "joints", "gaps")
"""Keys of `meta` whose values are tuples, which JSON has as lists."""
JUDGED = ("reward", "step_rewards", "logp", "by", "ids")
NOTHING = (None,) * len(JUDGED)


def _dumped(content: Any) -> str:
    text = json.dumps(content, ensure_ascii=False)
    if "\u2028" in text or "\u2029" in text or "\x85" in text:
        text = text.translate(BREAKS)
    return text


def _text(text: str) -> str:
    """A text as JSON: the same as `_dumped`, several times as fast."""
    made = quoted(text)
    if "\u2028" in made or "\u2029" in made or "\x85" in made:
        made = made.translate(BREAKS)
    return made


_place = lru_cache(64)(_text)


def body(example: Example) -> str:
    """What a row says, as one object of JSON: equal for equal rows, wherever they came from."""
    if not is_plain(example):
        return _dumped({"example": _whole(example)})
    turns = (*example.prompt, *example.responses[0].turns) if example.responses else example.prompt
    said = ", ".join([_message(turn) for turn in turns])
    if not example.tools and example.answer is None:
        return f'{{"messages": [{said}]}}'
    more: dict[str, Any] = {"tools": list(example.tools)} if example.tools else {}
    more |= {"answer": example.answer} if example.answer is not None else {}
    return f'{{"messages": [{said}], {_dumped(more)[1:]}'


def _message(turn: Turn) -> str:
    if turn.calls or turn.extra or turn.weight is not None:
        return _dumped(_turn(turn))
    return f'{{"role": {_place(turn.role)}, "content": {_text(turn.text)}}}'


def key_of(example: Example) -> bytes:
    """128 bits of what a row says."""
    return hashed(body(example))


def hashed(text: str) -> bytes:
    """128 bits of a body."""
    return hashlib.blake2b(text.encode("utf-8", "backslashreplace"), digest_size=16).digest()


def line(example: Example, text: str | None = None) -> bytes:
    """A row as a line, its end included. `text`: its body, where that is there already."""
    said = body(example) if text is None else text
    source, made = example.source, example.meta.get(MADE)
    if made is not None:
        said = f'{said[:-1]}, "{MADE}": {_dumped(made)}}}'
    if source is not None:
        said = f"{said[:-1]}{PLACE}{_place(source.path)}, {source.row}]}}"
    return f"{said}\n".encode("utf-8", "backslashreplace")


def read(content: bytes | str) -> Example:
    """The row that `line` wrote."""
    return of_row(json.loads(content))


def as_example(content: bytes) -> bytes:
    """A line that says its row as messages, as one that says it as an `example`; any other as it is. In one file all
    rows have one shape."""
    if content.startswith(b'{"example"'):
        return content
    example = read(content)
    return line(example, _dumped({"example": _whole(example)}))


def source_of(content: bytes) -> Source:
    """Where the row of a line came from, the rest of it unread."""
    path, row = json.loads(content[content.rindex(PLACE.encode()) + len(PLACE) - 1 : -2])
    return Source(path, row)


def of_row(row: Mapping[str, Any]) -> Example:
    """The same, of a line that was parsed. Raises BadRow for one that `line` did not write."""
    try:
        place = row.get("source")
        source = Source(place[0], place[1]) if isinstance(place, list) else None
        meta = {MADE: row[MADE]} if MADE in row else {}
        return _of_whole(row["example"], source, meta) if "example" in row else _of_messages(row, source, meta)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise BadRow("'example' is not what `luthier curate` writes") from error


def is_plain(example: Example) -> bool:
    """Is it a conversation that messages can say whole: one answer that nobody judged, or none?"""
    responses, prompt = example.responses, example.prompt
    if len(responses) > 1 or not prompt or (example.meta and any(key != MADE for key in example.meta)):
        return False
    if responses:
        one = responses[0]
        judged = (one.reward, one.step_rewards, one.logp, one.by, one.ids) != NOTHING
        if judged or len(one.turns) != 1 or one.turns[0].role != "assistant" or not _plain_turn(one.turns[0]):
            return False
    elif prompt[-1].role == "assistant":
        return False
    return all(_plain_turn(turn) for turn in prompt)


def _plain_turn(turn: Turn) -> bool:
    return turn.role != RAW and not turn.media and (not turn.extra or turn.extra.keys() <= PLAIN_KEYS)


def _turn(turn: Turn) -> dict[str, Any]:
    made: dict[str, Any] = {"role": turn.role, "content": turn.text}
    if turn.calls:
        made["tool_calls"] = [_call(call) for call in turn.calls]
    if turn.extra:
        made.update(turn.extra)
    if turn.weight is not None:
        made["weight"] = turn.weight
    return made


def _call(call: Mapping[str, Any]) -> Mapping[str, Any]:
    arguments = call["function"].get("arguments")
    if not isinstance(arguments, Arguments):
        return call
    return {**call, "function": {**call["function"], "arguments": arguments.written}}


def _of_messages(row: Mapping[str, Any], source: Source | None, meta: dict[str, Any]) -> Example:
    turns = [_of_turn(message) for message in row["messages"]]
    responses: tuple[Response, ...] = ()
    if turns[-1].role == "assistant":
        responses = (Response((turns.pop(),)),)
    return Example(tuple(turns), responses, row.get("answer"), tuple(row.get("tools", ())), source, meta)


def _of_turn(message: Mapping[str, Any]) -> Turn:
    if len(message) == 2:
        return Turn(message["role"], message["content"])
    extra = {key: value for key, value in message.items() if key in PLAIN_KEYS}
    calls = tuple(_of_call(call) for call in message.get("tool_calls", ()))
    return Turn(message["role"], message["content"], message.get("weight"), (), calls, extra)


def _of_call(call: Mapping[str, Any]) -> Mapping[str, Any]:
    written = call["function"].get("arguments")
    if not isinstance(written, str):
        return call
    return {**call, "function": {**call["function"], "arguments": Arguments(json.loads(written), written)}}


def _whole(example: Example) -> dict[str, Any]:
    """All that an example holds, those keys left out that say nothing."""
    meta = {key: value for key, value in example.meta.items() if key != MADE}
    made: dict[str, Any] = {"prompt": [_whole_turn(turn) for turn in example.prompt]}
    if example.responses:
        made["responses"] = [_response(one) for one in example.responses]
    if example.answer is not None:
        made["answer"] = example.answer
    if example.tools:
        made["tools"] = list(example.tools)
    if meta:
        made["meta"] = meta
    return made


def _response(response: Response) -> dict[str, Any]:
    made: dict[str, Any] = {"turns": [_whole_turn(turn) for turn in response.turns]}
    for name in JUDGED:
        value = getattr(response, name)
        if value is not None:
            made[name] = list(value) if isinstance(value, tuple) else value
    return made


def _whole_turn(turn: Turn) -> dict[str, Any]:
    made: dict[str, Any] = {"role": turn.role, "content": turn.text}
    if turn.calls:
        made["tool_calls"] = [_call(call) for call in turn.calls]
    if turn.extra:
        made["extra"] = dict(turn.extra)
    if turn.media:
        made["media"] = list(turn.media)
    if turn.weight is not None:
        made["weight"] = turn.weight
    return made


def _of_whole(row: Mapping[str, Any], source: Source | None, meta: dict[str, Any]) -> Example:
    responses = tuple(_of_response(one) for one in row.get("responses", ()))
    prompt = tuple(_of_whole_turn(turn) for turn in row["prompt"])
    known = {key: tuple(value) if key in TUPLES else value for key, value in row.get("meta", {}).items()}
    known |= meta
    return Example(prompt, responses, row.get("answer"), tuple(row.get("tools", ())), source, known)


def _of_response(row: Mapping[str, Any]) -> Response:
    judged = {name: row[name] for name in JUDGED if name in row}
    judged = {name: tuple(value) if isinstance(value, list) else value for name, value in judged.items()}
    return Response(tuple(_of_whole_turn(turn) for turn in row["turns"]), **judged)


def _of_whole_turn(row: Mapping[str, Any]) -> Turn:
    calls = tuple(_of_call(call) for call in row.get("tool_calls", ()))
    return Turn(
        row["role"], row["content"], row.get("weight"), tuple(row.get("media", ())), calls, row.get("extra", {})
    )


__all__ = ["MADE", "as_example", "body", "hashed", "is_plain", "key_of", "line", "of_row", "read", "source_of"]
