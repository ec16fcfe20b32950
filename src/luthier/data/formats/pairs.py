"""Where a prompt ends and two responses begin: transcripts, conversations and texts that begin alike."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from luthier.data.formats.plain import reply_turn
from luthier.data.formats.shape import BadRow
from luthier.data.formats.turns import Tags, turn
from luthier.types import Turn

SPEAKER = re.compile(r"\n\n(Human|Assistant):")
"""How the transcripts of HH-RLHF mark who speaks."""
ROLES = {"Human": "user", "Assistant": "assistant"}
Split = tuple[tuple[Turn, ...], Turn, Turn]
"""The prompt, the better response, the worse one."""


def messages(value: Any) -> list[Any] | None:
    """The value, if it is a list of messages."""
    return list(value) if isinstance(value, list | tuple) and value and isinstance(value[0], Mapping) else None


def transcript(text: str) -> tuple[Turn, ...] | None:
    """A "\\n\\nHuman: … \\n\\nAssistant: …" transcript as turns; None when the text is not one.

    White space around what is said is taken off. A speaker named inside a line ("…  Human: …") is part of that line.
    """
    parts = SPEAKER.split(text if text.startswith("\n\n") else "\n\n" + text.lstrip("\n"))
    if len(parts) < 3 or parts[0].strip():
        return None
    return tuple(Turn(ROLES[who], said.strip()) for who, said in zip(parts[1::2], parts[2::2], strict=True))


def asked_in_transcript(text: str) -> tuple[Turn, ...] | None:
    """A transcript that asks for an answer, "… \\n\\nAssistant:", as the turns before it; None when it is not one."""
    spoken = transcript(text) or ()
    return spoken[:-1] if len(spoken) > 1 and spoken[-1] == Turn("assistant", "") else None


def split_texts(chosen: str, rejected: str) -> Split:
    """Prompt and the two responses out of two texts that begin alike. Raises BadRow."""
    spoken = transcript(chosen), transcript(rejected)
    if spoken[0] and spoken[1]:
        return split_turns(spoken[0], spoken[1])
    pairs = enumerate(zip(chosen, rejected, strict=False))
    common = chosen[: next((i for i, (a, b) in pairs if a != b), min(len(chosen), len(rejected)))]
    cut = max((i + 1 for i, letter in enumerate(common) if letter.isspace()), default=0)  # never inside a word
    if not common[:cut].strip():
        raise BadRow("there is no prompt: 'chosen' and 'rejected' do not begin alike")
    prompt = Turn("user", common[:cut].rstrip())
    return (prompt,), reply_turn(chosen[cut:], "chosen"), reply_turn(rejected[cut:], "rejected")


def split_turns(chosen: tuple[Turn, ...], rejected: tuple[Turn, ...]) -> Split:
    """Prompt and the two responses out of two conversations that differ in their last turn. Raises BadRow."""
    if chosen[:-1] != rejected[:-1] or len(chosen) < 2:
        raise BadRow("'chosen' and 'rejected' do not share a prompt: they differ before their last turn")
    if chosen[-1].role != "assistant" or rejected[-1].role != "assistant":
        raise BadRow("'chosen' or 'rejected' does not end with the assistant")
    return chosen[:-1], chosen[-1], rejected[-1]


def reply(value: Any, name: str, tags: Tags) -> Turn:
    """A response that is text, a message, or a list of one message. Raises BadRow, also for an empty one."""
    value = value[0] if isinstance(value, list | tuple) and len(value) == 1 else value
    if not isinstance(value, Mapping):
        return reply_turn(value, name)
    spoken = turn(value, tags)
    if spoken.role != "assistant":
        raise BadRow(f"{name!r} is a message that is not the assistant's")
    return not_empty(spoken, name)


def not_empty(spoken: Turn, name: str) -> Turn:
    """The turn. Raises BadRow when it says nothing and calls nothing."""
    if not spoken.text.strip() and not spoken.calls:
        raise BadRow(f"{name!r} is empty")
    return spoken
