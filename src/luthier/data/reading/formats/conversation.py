"""Conversations: OpenAI messages and ShareGPT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from luthier.data.reading.formats.shape import Row, Shape, listed
from luthier.data.reading.formats.turns import OPENAI, Tags, conversation, turns
from luthier.types import Example


@dataclass(frozen=True)
class Messages(Shape):
    """OpenAI messages: role and content, with tool_calls, name, tool_call_id, a weight (or loss, train) and reasoning
    (reasoning_content, thinking, reasoning)."""

    needs: ClassVar = (("messages",),)
    optional: ClassVar = ("tools", "system", "images", "answer")
    gives: ClassVar = "a conversation; every assistant turn trains (`weight: 0` or `loss: false` turns one off)"

    def read(self, row: Row) -> Example:
        return conversation(row, turns(listed(row, "messages"), OPENAI))


@dataclass(frozen=True)
class Tagged(Shape):
    """A shape whose messages may speak ShareGPT's dialect, or one with renamed tags."""

    role_tag: str = "from"
    content_tag: str = "value"
    user_tag: str = "human"
    assistant_tag: str = "gpt"
    observation_tag: str = "observation"
    function_tag: str = "function_call"
    system_tag: str = "system"

    @property
    def tags(self) -> Tags:
        """The dialect these tags make."""
        return Tags(
            self.role_tag,
            self.content_tag,
            self.user_tag,
            self.assistant_tag,
            self.observation_tag,
            self.function_tag,
            self.system_tag,
        )


@dataclass(frozen=True)
class ShareGPT(Tagged):
    """ShareGPT: from and value (human, gpt, system, function_call, observation)."""

    needs: ClassVar = (("conversations",),)
    optional: ClassVar = ("tools", "system", "images")
    gives: ClassVar = "a conversation; every gpt and function_call turn trains"

    def read(self, row: Row) -> Example:
        return conversation(row, turns(listed(row, "conversations"), self.tags))
