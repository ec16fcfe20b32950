"""Where a prompt ends and two responses begin: transcripts, conversations and texts that begin alike."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from luthier.data.reading.formats.beginnings import last_cut
from luthier.data.reading.formats.plain import reply_turn
from luthier.data.reading.formats.shape import BadRow
from luthier.data.reading.formats.turns import Tags, turn
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
    cut = last_cut(chosen, rejected)
    if not chosen[:cut].strip():
        raise BadRow("there is no prompt: 'chosen' and 'rejected' do not begin alike")
    prompt = Turn("user", chosen[:cut].rstrip())
    return (prompt,), reply_turn(chosen[cut:], "chosen"), reply_turn(rejected[cut:], "rejected")


def split_turns(chosen: tuple[Turn, ...], rejected: tuple[Turn, ...]) -> Split:
    """Prompt and the two responses out of two conversations that differ in their last turn. Raises BadRow."""
    if chosen[:-1] != rejected[:-1] or len(chosen) < 2:
        raise BadRow("'chosen' and 'rejected' do not share a prompt: they differ before their last turn")
    if chosen[-1].role != "assistant" or rejected[-1].role != "assistant":
        wrong = ("chosen", chosen) if chosen[-1].role != "assistant" else ("rejected", rejected)
        raise BadRow(f"{wrong[0]!r} ends with the role {wrong[1][-1].role!r}, not with 'assistant'")
    return chosen[:-1], chosen[-1], rejected[-1]


def agreed(given: tuple[Turn, ...], spoken: tuple[Turn, ...], column: str) -> tuple[Turn, ...]:
    """The prompt that a column gives and whole conversations begin with, a system message of either kept.

    The column may hold less than they do (one question of several) or more (what was said before). Raises BadRow
    where they contradict each other. White space is no difference.
    """
    (led, asked), (leading, said) = _parted(given), _parted(spoken)
    ours, theirs = [bare(turn) for turn in asked], [bare(turn) for turn in said]
    within = any(theirs[at : at + len(ours)] == ours for at in range(len(theirs) - len(ours) + 1))
    instructed = not led or not leading or [bare(turn) for turn in led] == [bare(turn) for turn in leading]
    if not instructed or not (within or ours[-len(theirs) :] == theirs):
        raise BadRow(
            f"'chosen' and 'rejected' begin with another prompt than {column!r} holds", fix=other_column(column)
        )
    return (*(leading or led), *(said if within else asked))


def _parted(spoken: tuple[Turn, ...]) -> tuple[tuple[Turn, ...], tuple[Turn, ...]]:
    """System messages at the beginning, and what follows."""
    first = next((i for i, turn in enumerate(spoken) if turn.role not in ("system", "developer")), len(spoken))
    return spoken[:first], spoken[first:]


def bare(turn: Turn) -> tuple[str, str, str]:
    """What two turns are compared by: white space is no difference."""
    return turn.role, " ".join(turn.text.split()), repr(turn.calls)


def rest(prompt: str, text: Any) -> str:
    """What a text says behind the prompt that it begins with; "" where it does not, or says no more."""
    words, asked = text.strip() if isinstance(text, str) else "", prompt.strip()
    behind = words[len(asked) :]
    cut_word = asked[-1:].isascii() and asked[-1:].isalnum() and behind[:1].isalnum()
    return behind.strip() if asked and words.startswith(asked) and not cut_word else ""


def behind_prompt(prompt: str, chosen: Any, rejected: Any, column: str) -> tuple[str, str]:
    """Both texts without the prompt they begin with, as most pairs of their source do. Raises BadRow for others."""
    for value, name in ((chosen, "chosen"), (rejected, "rejected")):
        reply_turn(value, name)  # what is no response at all is told as that
    better, worse = rest(prompt, chosen), rest(prompt, rejected)
    if better and worse:
        return better, worse
    which = "only one of 'chosen' and 'rejected'" if better or worse else "neither 'chosen' nor 'rejected'"
    what = f"{which} begins with the prompt and goes on, as both do in most pairs of the source"
    raise BadRow(what, fix=other_column(column))


def gap(text: Any, prompt: tuple[Turn, ...], said: Turn) -> str:
    """The white space between prompt and response in a text that holds both; "" in any other."""
    asked = prompt[-1].text if prompt else ""
    if not isinstance(text, str) or not text.startswith(asked) or not text.endswith(said.text):
        return ""
    between = text[len(asked) : len(text) - len(said.text)]
    return between if between.isspace() else ""


def other_column(column: str) -> str:
    """What to do about a column that is not the prompt of its row."""
    return f"mend those rows; a column that is no prompt is left out by another name (`columns: {{other: {column}}}`)"


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
