"""What is asked, as tokens: messages by the template of training, texts and token ids as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from luthier.data import Template
from luthier.data.reading.formats import turns as reading
from luthier.data.reading.formats.shape import BadRow
from luthier.errors import LuthierError
from luthier.serve import faults
from luthier.serve.faults import ApiFault
from luthier.serve.words.tools import Tools
from luthier.types import RAW, Turn


@dataclass(frozen=True)
class Prompt:
    """One prompt."""

    ids: tuple[int, ...]
    text: str
    """As it was asked, or rendered."""


def turns_of(messages: Sequence[Mapping[str, Any]]) -> list[Turn]:
    """Messages as turns. Raises ApiFault, which names the message that cannot be read."""
    found: list[Turn] = []
    for number, message in enumerate(messages):
        where = f"messages.{number}"
        if message.get("role") is None:
            raise ApiFault(400, f"{where} has no 'role'", param=where)
        try:
            turn = reading.turn(message)
        except BadRow as error:
            raise ApiFault(400, f"{where}: {error}", param=where) from None
        if turn.media:
            raise ApiFault(400, f"{where}: this model reads text only, no images, sound or video", param=where)
        unread = [*turn.unread, *(name for name in reading.WEIGHTS if name in message)]
        if unread:
            raise ApiFault(400, f"{where} has keys that nothing reads: {', '.join(unread)[:200]}", param=where)
        found.append(turn)
    return found


def tools_of(given: Sequence[Mapping[str, Any]] | None) -> Tools:
    """The tools of a request. Raises ApiFault for one that is none."""
    for number, tool in enumerate(given or ()):
        where, function = f"tools.{number}", tool.get("function")
        if tool.get("type", "function") != "function":
            raise ApiFault(
                400, f"{where}: only functions can be called, not {repr(tool.get('type'))[:40]}", param=where
            )
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(name, str):
            raise ApiFault(400, f"{where} has no function with a name", param=where)
        if not name.strip():
            raise ApiFault(400, f"{where}.function.name is empty", param=where)
        if not isinstance(function.get("parameters") or {}, Mapping):
            raise ApiFault(400, f"{where}.function.parameters must be a JSON schema, an object", param=where)
    return tuple(given or ())


def of_messages(
    template: Template, messages: Sequence[Mapping[str, Any]], tools: Tools, system: str | None = None
) -> Prompt:
    """A conversation by the chat template, with the generation prompt; it begins with `system` where it has no such
    message itself. Raises ApiFault for what the template cannot say."""
    if not template.exists:
        raise ApiFault(
            400,
            "this model has no chat template: it goes on with a text, but knows no turns of a conversation; "
            "ask /v1/completions",
        )
    turns = turns_of(messages)
    if any(turn.role == RAW for turn in turns):
        raise ApiFault(400, f"the chat template does not know the role {RAW!r}", param="messages")
    if system is not None and not any(turn.role in ("system", "developer") for turn in turns):
        turns = [Turn("system", system), *turns]
    try:
        text = template.prompt_text(turns, tools)
    except LuthierError as error:
        raise faults.of(error, "messages") from None
    missing = [name for tool in tools if (name := tool["function"]["name"]) not in text]
    if missing:
        raise ApiFault(
            400, f"the model's chat template has no place for tools: it leaves out {missing[0]!r}", param="tools"
        )
    return Prompt(tuple(template.ids_of(text)), text)


def of_texts(template: Template, given: Any, name: str = "prompt") -> list[Prompt]:
    """Texts, or token ids, one or several, in each form that OpenAI takes. Raises ApiFault."""
    if isinstance(given, str) or (given and isinstance(given[0], int)):
        given = [given]
    if not given:
        raise ApiFault(400, f"{name} is empty", param=name)
    found = []
    for number, one in enumerate(given):
        if not one:
            raise ApiFault(400, f"{name} {number + 1} is empty: there is nothing to go on from", param=name)
        if isinstance(one, str):
            try:
                found.append(Prompt(tuple(template.prompt_ids([Turn(RAW, one)])), one))
            except LuthierError as error:
                raise faults.of(error, name) from None
        else:
            text = _decoded(template, one)
            found.append(Prompt(tuple(one), text))
    return found


def _decoded(template: Template, ids: Sequence[int]) -> str:
    """Token ids as text; "" where the tokenizer does not know one (the engine says which)."""
    if max(ids) >= len(template.tokenizer):
        return ""
    return str(template.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
