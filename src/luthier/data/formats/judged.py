"""Judged responses: a better and a worse one, one with a label, one with a score for each step."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from luthier.data.formats.conversation import Tagged
from luthier.data.formats.plain import alpaca_prompt, prompt_turns, reply_turn
from luthier.data.formats.shape import BadRow, Row, Shape, column, filled, kind, listed, number, truth
from luthier.data.formats.turns import Tags, conversation, tools, turn, turns, with_system
from luthier.types import Example, Response, Turn

SPEAKER = re.compile(r"\n\n(Human|Assistant):")
"""How the transcripts of HH-RLHF mark who speaks."""


def _messages(value: Any) -> list[Any] | None:
    """The value, if it is a list of messages."""
    return list(value) if isinstance(value, list | tuple) and value and isinstance(value[0], Mapping) else None


def _transcript(text: str) -> tuple[Turn, ...] | None:
    """A "\\n\\nHuman: … \\n\\nAssistant: …" transcript as turns; None when the text is not one."""
    parts = SPEAKER.split(text)
    if len(parts) < 3 or parts[0].strip():
        return None
    roles = {"Human": "user", "Assistant": "assistant"}
    return tuple(Turn(roles[who], said.strip()) for who, said in zip(parts[1::2], parts[2::2], strict=True))


def _split_texts(chosen: str, rejected: str) -> tuple[tuple[Turn, ...], Turn, Turn]:
    """Prompt and the two responses out of two texts that begin alike."""
    spoken = _transcript(chosen), _transcript(rejected)
    if spoken[0] and spoken[1]:
        return _split_turns(spoken[0], spoken[1])
    pairs = enumerate(zip(chosen, rejected, strict=False))
    common = chosen[: next((i for i, (a, b) in pairs if a != b), min(len(chosen), len(rejected)))]
    cut = max((i + 1 for i, letter in enumerate(common) if letter.isspace()), default=0)  # never inside a word
    if not common[:cut].strip():
        raise BadRow("there is no prompt: 'chosen' and 'rejected' do not begin alike")
    prompt = Turn("user", common[:cut].rstrip())
    return (prompt,), reply_turn(chosen[cut:], "chosen"), reply_turn(rejected[cut:], "rejected")


def _split_turns(chosen: tuple[Turn, ...], rejected: tuple[Turn, ...]) -> tuple[tuple[Turn, ...], Turn, Turn]:
    """Prompt and the two responses out of two conversations that differ in their last turn."""
    if chosen[:-1] != rejected[:-1] or len(chosen) < 2:
        raise BadRow("'chosen' and 'rejected' do not share a prompt: they differ before their last turn")
    if chosen[-1].role != "assistant" or rejected[-1].role != "assistant":
        raise BadRow("'chosen' or 'rejected' does not end with the assistant")
    return chosen[:-1], chosen[-1], rejected[-1]


def _margin(row: Row) -> dict[str, float]:
    """The `margin` column as the example's meta: by how much the better response is better."""
    if row.get("margin") is None:
        return {}
    margin = number(row["margin"], "margin")
    if margin < 0:
        raise BadRow("'margin' is negative: then the rejected response is the better one")
    return {"margin": margin}


@dataclass(frozen=True)
class Preference(Tagged):
    """A better and a worse response. The prompt is a column, or what both begin with."""

    needs: ClassVar = (("chosen",), ("rejected",))
    optional: ClassVar = (
        "prompt",
        "instruction",
        "input",
        "question",
        "messages",
        "conversations",
        "system",
        "tools",
        "margin",
    )
    gives: ClassVar = "a prompt and two responses, the better one first"

    def read(self, row: Row) -> Example:
        prompt, chosen, rejected = self._parts(row)
        if chosen == rejected:
            raise BadRow("'chosen' and 'rejected' are the same")
        responses = (Response((chosen,), 1.0), Response((rejected,), 0.0))
        return Example(prompt, responses, None, tools(row), meta=_margin(row))

    def _parts(self, row: Row) -> tuple[tuple[Turn, ...], Turn, Turn]:
        better, worse = row.get("chosen"), row.get("rejected")
        spoken = _messages(better), _messages(worse)
        if spoken[0] and spoken[1] and len(spoken[0]) + len(spoken[1]) > 2:
            prompt, chosen, rejected = _split_turns(turns(spoken[0], self.tags), turns(spoken[1], self.tags))
            return with_system(row, prompt), chosen, rejected
        given = self._prompt(row)
        if given is not None:
            return given, _reply(better, "chosen", self.tags), _reply(worse, "rejected", self.tags)
        if not isinstance(better, str) or not isinstance(worse, str):
            wrong = ("chosen", better) if not isinstance(better, str) else ("rejected", worse)
            raise BadRow(f"{wrong[0]!r} is {kind(wrong[1])}, not text")
        prompt, chosen, rejected = _split_texts(better, worse)
        return with_system(row, prompt), chosen, rejected

    def _prompt(self, row: Row) -> tuple[Turn, ...] | None:
        for name in ("messages", "conversations"):
            if row.get(name) is not None:
                return with_system(row, turns(listed(row, name), self.tags))
        if row.get("instruction") is not None:
            return alpaca_prompt(row)
        return prompt_turns(row, "prompt", "question") if "prompt" in row or "question" in row else None


def _reply(value: Any, name: str, tags: Tags) -> Turn:
    value = value[0] if isinstance(value, list | tuple) and len(value) == 1 else value
    if not isinstance(value, Mapping):
        return reply_turn(value, name)
    spoken = turn(value, tags)
    if spoken.role != "assistant":
        raise BadRow(f"{name!r} is a message that is not the assistant's")
    return spoken


@dataclass(frozen=True)
class Unpaired(Tagged):
    """One response with a thumb up or down (label, or kto_tag)."""

    strict: bool = False
    """Only true and false count as labels, not 0, 1 or words."""

    needs: ClassVar = (
        ("prompt", "question", "instruction", "messages", "conversations"),
        ("completion", "response", "output", "messages", "conversations"),
        ("label", "kto_tag"),
    )
    optional: ClassVar = ("input", "system", "tools")
    gives: ClassVar = "a prompt and one response, scored 1 or 0"

    def variants(self) -> list[tuple[str, ...]]:
        return [
            ("prompt", "completion", "label"),
            ("messages", "label"),
            ("instruction", "output", "kto_tag"),
            ("conversations", "kto_tag"),
        ]

    def read(self, row: Row) -> Example:
        name = column(row, "kto_tag", "label")
        if self.strict and not isinstance(row.get(name), bool):
            raise BadRow(f"{name!r} is {kind(row.get(name))}, not true or false")
        score = float(truth(row.get(name), name))
        for key in ("messages", "conversations"):
            if row.get(key) is not None:
                example = conversation(row, turns(listed(row, key), self.tags), score)
                if not example.responses:
                    raise BadRow("the conversation does not end with the assistant")
                return example
        prompt = alpaca_prompt(row) if row.get("instruction") is not None else prompt_turns(row, "prompt", "question")
        name = column(row, "completion", "response", "output")
        return Example(prompt, (Response((_reply(row.get(name), name, self.tags),), score),), None, tools(row))


@dataclass(frozen=True)
class Stepwise(Shape):
    """A solution in steps, each with a label. `meta["steps"]` keeps them apart."""

    separator: str = "\n"
    """Put between the steps."""

    needs: ClassVar = (("prompt",), ("completions",), ("labels",))
    optional: ClassVar = ("system",)
    gives: ClassVar = "a prompt and one response with a score for each step"

    def read(self, row: Row) -> Example:
        steps, labels = listed(row, "completions"), listed(row, "labels")
        if not all(isinstance(step, str) for step in steps):
            raise BadRow("'completions' is not a list of texts")
        if len(steps) != len(labels):
            raise BadRow("'completions' and 'labels' differ in length")
        scores = tuple(_step_score(label) for label in labels)
        filled({"completions": self.separator.join(steps)}, "completions")
        answer = Turn("assistant", self.separator.join(steps))
        response = Response((answer,), step_scores=scores)
        return Example(prompt_turns(row, "prompt"), (response,), meta={"steps": tuple(steps)})


def _step_score(label: Any) -> float:
    """A step's label: true, false, or a number (-1, 0 and 1 in PRM800K)."""
    if isinstance(label, int | float) and not isinstance(label, bool):
        return float(label)
    return float(truth(label, "labels"))
