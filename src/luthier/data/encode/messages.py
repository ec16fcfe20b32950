"""Turns in the words of one chat template: tool calls in the form it can render, reasoning under the name it reads.

Templates differ in what they take: some write a call's arguments out as JSON and want an object, others join them as
text; some look at `reasoning_content`, others at `thinking`. A trial rendering tells, once for each template.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from luthier.errors import LuthierError
from luthier.types import Turn

Message = dict[str, Any]
Tools = tuple[Mapping[str, Any], ...]
Job = tuple[list[Message], Tools, bool]
"""Messages, tools, and whether the generation prompt follows."""
SENTINEL = "Zq7sentinel7qZ"
"""Stands in for a text, so that its place in a rendering can be found."""
REASONING = "reasoning_content"
"""What a turn's reasoning is called in `Turn.extra`."""
OTHER_NAMES = ("thinking", "reasoning")
"""What else templates and data call it."""


class Arguments(dict[str, Any]):
    """Arguments of a tool call that the row has as JSON text: what they say, and the text itself."""

    def __init__(self, content: Mapping[str, Any], written: str) -> None:
        super().__init__(content)
        self.written = written


class Wording:
    """Turns as the messages that one chat template takes. `render` renders with it, `source` is its text."""

    def __init__(self, source: str, render: Callable[[Sequence[Job]], list[str | LuthierError]]) -> None:
        self._render = render
        others = (name for name in OTHER_NAMES if re.search(rf"(\.|\[\s*['\"]|get\(\s*['\"]){name}\b", source))
        self._reasoning = REASONING if REASONING in source else next(others, REASONING)

    def message(self, turn: Turn) -> Message:
        """A turn as the chat template takes it."""
        extra = {self._reasoning if key == REASONING else key: value for key, value in turn.extra.items()}
        made: Message = {"role": turn.role, "content": turn.text, **extra}
        if turn.calls:
            made["tool_calls"] = [self._call(call) for call in turn.calls]
        return made

    def _call(self, call: Mapping[str, Any]) -> Mapping[str, Any]:
        """The call with its arguments as the row has them, or in the other form where only that can be rendered."""
        function = call["function"]
        arguments = function.get("arguments")
        written = arguments.written if isinstance(arguments, Arguments) else None
        as_object, as_text = self._takes
        if not as_text or (written is None and as_object):
            return call
        made = {} if arguments is None else arguments
        text = json.dumps(made, ensure_ascii=False) if written is None else written
        return {**call, "function": {**function, "arguments": text}}

    @cached_property
    def _takes(self) -> tuple[bool, bool]:
        """Does the template render arguments that are an object, and those that are text?"""
        given = {"Zq7key7qZ": "Zq7value7qZ"}
        return self._renders(given), self._renders(json.dumps(given))

    def _renders(self, arguments: Any) -> bool:
        """Do such arguments come out whole: neither refused nor left out, as Python's words or as JSON within JSON?"""
        call = {"id": "a12345678", "type": "function", "function": {"name": "f", "arguments": arguments}}
        calling: Message = {"role": "assistant", "content": "", "tool_calls": [call]}
        result: Message = {"role": "tool", "content": "b", "name": "f", "tool_call_id": "a12345678"}
        trials: list[Message] = [{"role": "user", "content": "a"}, calling, result]
        for text in self._render([(trials[:2], (), False), (trials, (), False)]):
            if isinstance(text, str) and "Zq7key7qZ" in text and "Zq7value7qZ" in text:
                return "'Zq7key7qZ'" not in text and '\\"Zq7key7qZ' not in text
        return False
