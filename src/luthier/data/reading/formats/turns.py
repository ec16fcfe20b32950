"""Messages of any dialect into turns: roles, text, tool calls, reasoning, media."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from luthier.data.encode.messages import OTHER_NAMES, REASONING, Arguments
from luthier.data.reading.formats.shape import BadRow, Row, answered, kind, parsed, truth
from luthier.types import Example, Response, Turn

EXTRA = ("name", "tool_call_id")
"""Message keys that are handed to the chat template as they are."""
THOUGHTS = (REASONING, *OTHER_NAMES)
"""What data call an assistant's reasoning."""
WEIGHTS = ("weight", "loss_weight", "loss", "train")
"""What data call how much a message trains: a number, or whether it does."""
MEDIA = ("images", "image", "videos", "video", "audios", "audio")


@dataclass(frozen=True)
class Tags:
    """How a dialect names the keys of a message and who speaks. Other roles are left as they are."""

    role: str = "role"
    content: str = "content"
    user: str = "user"
    assistant: str = "assistant"
    observation: str = "observation"
    function: str = "function_call"
    system: str = "system"

    def speaker(self, role: str) -> str:
        """The role in the chat template's words. Raises BadRow for a known role that is written otherwise."""
        ours = {
            self.user: "user",
            self.assistant: "assistant",
            self.observation: "tool",
            self.system: "system",
            self.function: "assistant",
        }
        meant = role.strip().lower()
        if role not in ours and meant != role and meant in (*ours, "user", "assistant", "tool", "developer"):
            raise BadRow(f"a message's role is {role!r}: write {meant!r}")
        return ours.get(role, role)


OPENAI = Tags()
SHAREGPT = Tags(role="from", content="value", user="human", assistant="gpt")


def turns(messages: list[Any], tags: Tags = OPENAI) -> tuple[Turn, ...]:
    """Each message as a turn. Raises BadRow for a message that is none."""
    return tuple(turn(message, tags) for message in messages)


def turn(message: Any, tags: Tags = OPENAI) -> Turn:
    """One message as a turn."""
    if not isinstance(message, Mapping):
        raise BadRow(f"a message is {kind(message)}, not an object")
    if tags.role not in message and (OPENAI.role in message or SHAREGPT.role in message):
        tags = OPENAI if OPENAI.role in message else SHAREGPT
    role = message.get(tags.role)
    if role is None:
        raise BadRow(f"a message has no {tags.role!r}")
    if not isinstance(role, str):
        raise BadRow(f"a message's {tags.role!r} is {kind(role)}, not text")
    content, calls = message.get(tags.content), _calls(message.get("tool_calls"))
    if role == tags.function:
        content, calls = "", _calls(parsed(content, role))
    words, media, extra, more = _content(content, tags.content, missing_ok=bool(calls))
    extra |= {key: message[key] for key in EXTRA if message.get(key) is not None} | _reasoning(message)
    known = {tags.role, tags.content, "tool_calls", *EXTRA, *THOUGHTS, *WEIGHTS}
    unread = tuple(str(key) for key, value in message.items() if key not in known and value not in (None, "", [], {}))
    return Turn(tags.speaker(role), words, _weight(message), media, calls + more, extra, unread)


def _reasoning(message: Mapping[str, Any]) -> dict[str, str]:
    """The message's reasoning, by whatever name. Raises BadRow where two names say different things."""
    found = {name: message[name] for name in THOUGHTS if message.get(name) not in (None, "")}
    for name, value in found.items():
        if not isinstance(value, str):
            raise BadRow(f"a message's {name!r} is {kind(value)}, not text")
    if len(set(found.values())) > 1:
        raise BadRow(f"a message has reasoning twice, and not the same: {' and '.join(map(repr, found))}")
    return {REASONING: next(iter(found.values()))} if found else {}


def _weight(message: Mapping[str, Any]) -> float | None:
    """How much the message trains: true is 1, false is 0, None is not said. Raises BadRow."""
    found: dict[str, float] = {}
    for name in WEIGHTS:
        value = message.get(name)
        if value is None:
            continue
        switch = name in ("loss", "train")
        if switch and isinstance(value, bool | str):
            found[name] = float(truth(value, name))
            continue
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and 0 <= value < math.inf):  # which NaN is not
            raise BadRow(
                f"a message's {name!r} is not {'true, false or ' if switch else ''}a finite number of at least 0"
            )
        found[name] = float(value)
    if len(set(found.values())) > 1:
        raise BadRow(f"a message's {' and '.join(map(repr, found))} contradict each other")
    return next(iter(found.values()), None)


def _content(
    content: Any, name: str, *, missing_ok: bool
) -> tuple[str, tuple[str, ...], dict[str, Any], tuple[Mapping[str, Any], ...]]:
    """Text, media, extra keys and tool calls of a message's content, which is text or a list of typed parts."""
    if isinstance(content, str):
        return content, (), {}, ()
    if content is None and missing_ok:
        return "", (), {}, ()
    if not isinstance(content, list | tuple):
        raise BadRow(f"a message's {name!r} is {kind(content)}, not text")
    words: list[str] = []
    media: list[str] = []
    extra: dict[str, Any] = {}
    calls: tuple[Mapping[str, Any], ...] = ()
    for part in content:
        if not isinstance(part, Mapping) or not isinstance(part.get("type"), str):
            raise BadRow(f"a part of a message's {name!r} has no 'type'")
        value = next((part[key] for key in ("value", part["type"], "url", "path") if part.get(key) is not None), None)
        match part["type"]:
            case "text" if isinstance(value, str):
                words.append(value)
            case "reasoning" | "thinking" if isinstance(value, str):
                extra["reasoning_content"] = value
            case "tool_call":
                calls += _calls(parsed(value, "tool_call"))
            case "image" | "image_url" | "video" | "video_url" | "audio" | "audio_url":
                media.append(str(value.get("url") if isinstance(value, Mapping) else value))
            case other:
                raise BadRow(f"a part of a message is of the unknown type {other!r}, or its value is no text")
    return "".join(words), tuple(media), extra, calls


def _calls(value: Any) -> tuple[Mapping[str, Any], ...]:
    """Tool calls in OpenAI's shape, their arguments as an object that remembers its text where the row has one."""
    if value is None:
        return ()
    calls = []
    for call in value if isinstance(value, list | tuple) else [value]:
        function = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise BadRow("a tool call has no 'name'")
        written = arguments = function.get("arguments")
        if isinstance(written, str):
            try:
                arguments = json.loads(written)
            except json.JSONDecodeError as error:
                raise BadRow("a tool call's 'arguments' are text, but not JSON") from error
            except RecursionError:
                raise BadRow("a tool call's 'arguments' are JSON that is nested too deeply") from None
        if isinstance(written, str) and isinstance(arguments, dict):
            arguments = Arguments(arguments, written)
        identity = {"id": call["id"]} if call.get("id") is not None else {}
        shaped = {"name": function["name"], "arguments": {} if arguments is None else arguments}
        calls.append({**identity, "type": "function", "function": shaped})
    return tuple(calls)


def tools(row: Row) -> tuple[Mapping[str, Any], ...]:
    """The row's `tools`, a list or JSON text of one, in OpenAI's shape."""
    value = row.get("tools")
    if value is None or value == "":
        return ()
    listed = parsed(value, "tools")
    if not isinstance(listed, list | tuple) or not all(isinstance(tool, Mapping) for tool in listed):
        raise BadRow("'tools' is not a list of objects")
    shaped = tuple(tool if "function" in tool else {"type": "function", "function": tool} for tool in listed)
    for tool in shaped:
        if not isinstance(tool["function"], Mapping) or not isinstance(tool["function"].get("name"), str):
            raise BadRow("a tool has no 'name'")
    return shaped


def media(row: Row) -> tuple[str, ...]:
    """Paths of the row's images, videos and audios."""
    paths: list[str] = []
    for name in MEDIA:
        value = row.get(name)
        paths += [str(path) for path in value] if isinstance(value, list | tuple) else [str(value)] if value else []
    return tuple(paths)


def with_media(row: Row, example: Example) -> Example:
    """The example with the row's images, videos and audios in its first user turn, whichever format it has."""
    paths, spoken = media(row), example.prompt or (example.responses[0].turns if example.responses else ())
    if not paths or not spoken:
        return example
    first = next((i for i, one in enumerate(spoken) if one.role == "user"), 0)
    spoken = (*spoken[:first], replace(spoken[first], media=paths), *spoken[first + 1 :])
    if example.prompt:
        return replace(example, prompt=spoken)
    return replace(example, responses=(replace(example.responses[0], turns=spoken), *example.responses[1:]))


def with_system(row: Row, spoken: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """The turns with the row's `system` column in front, unless they begin with a system turn."""
    system = row.get("system")
    if system is None or system == "" or (spoken and spoken[0].role in ("system", "developer")):
        return spoken
    if not isinstance(system, str):
        raise BadRow(f"'system' is {kind(system)}, not text")
    return (Turn("system", system), *spoken)


def conversation(row: Row, spoken: tuple[Turn, ...], score: float | None = None) -> Example:
    """A conversation as prompt and response: the last assistant turn answers all that precedes it.

    One that does not end with the assistant has no response: a task. Its meta says that earlier turns answered.
    """
    spoken = with_system(row, spoken)
    for one in spoken:
        if one.role == "assistant" and one.weight != 0 and not (one.text.strip() or one.calls or one.extra):
            raise BadRow("an assistant message is empty")
    given = row.get("answer")
    known = isinstance(given, str | int | float) and not isinstance(given, bool)
    answer = answered(given) if known else None  # of another kind it is a column of the user's own
    if spoken and spoken[-1].role == "assistant":
        return Example(spoken[:-1], (Response(spoken[-1:], score),), answer, tools(row))
    return Example(spoken, (), answer, tools(row))
