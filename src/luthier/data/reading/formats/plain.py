"""Texts in columns: alpaca, prompt/completion, plain text, theorems, and tasks that have no response yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from luthier.data.reading.formats.shape import (
    BadRow,
    Row,
    Shape,
    answered,
    column,
    filled,
    kind,
    not_text,
    optional_text,
    parsed,
    text,
)
from luthier.data.reading.formats.turns import conversation, tools, turn, turns, with_system
from luthier.types import RAW, Example, Response, Turn


def alpaca_prompt(row: Row) -> tuple[Turn, ...]:
    """History, instruction and input as turns. The input stands on a line of its own below the instruction."""
    given = row.get("history")
    past: list[Turn] = []
    if given is not None and given != "":
        pairs = parsed(given, "history")
        if not isinstance(pairs, list | tuple):
            raise BadRow(f"'history' is {kind(pairs)}, not a list")
        for pair in pairs:
            if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(x, str) for x in pair):
                raise BadRow("'history' is not a list of [question, answer] pairs")
            past += [Turn("user", pair[0]), Turn("assistant", pair[1])]
    request, details = text(row, "instruction"), optional_text(row, "input", "context")
    if not (request + details).strip():
        raise BadRow("'instruction' and 'input' are empty")
    asked = f"{request}\n{details}" if request and details else request or details
    return with_system(row, (*past, Turn("user", asked)))


def prompt_turns(row: Row, *names: str) -> tuple[Turn, ...]:
    """A prompt that is text or a list of messages."""
    value: Any = row.get(column(row, *names))
    if isinstance(value, list | tuple):
        return with_system(row, turns(list(value)))
    return with_system(row, (Turn("user", filled(row, *names)),))


def reply_turn(value: Any, name: str) -> Turn:
    """A response that is text, a message, or a list of one message."""
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if not isinstance(value, str):
        spoken = turn(value) if isinstance(value, dict) else None
        if spoken is None:
            raise not_text(value, name)
        if spoken.role != "assistant":
            raise BadRow(f"{name!r} is a message that is not the assistant's")
        return spoken
    if not value.strip():
        raise BadRow(f"{name!r} is empty")
    return Turn("assistant", value)


@dataclass(frozen=True)
class Alpaca(Shape):
    """Alpaca: an instruction, perhaps an input, and the output; history holds earlier [question, answer] pairs."""

    needs: ClassVar = (("instruction",), ("output", "response"))
    optional: ClassVar = ("input", "context", "history", "system", "tools")
    gives: ClassVar = "user: instruction, newline, input; assistant: output; the answers of history train too"

    def read(self, row: Row) -> Example:
        answer = Turn("assistant", filled(row, "output", "response"))
        return conversation(row, (*alpaca_prompt(row), answer))


@dataclass(frozen=True)
class PromptCompletion(Shape):
    """A prompt and its completion, as texts or as messages."""

    needs: ClassVar = (("prompt", "question"), ("completion", "response", "answer", "output"))
    optional: ClassVar = ("system", "tools", "answer")
    gives: ClassVar = "user: prompt; assistant: completion"

    def matches(self, columns: frozenset[str]) -> bool:
        """A prompt beside an answer and no completion is a task; a question beside an answer is not."""
        if columns & {"completion", "response", "output"}:
            return bool(columns & {"prompt", "question"})
        return {"question", "answer"} <= columns

    def variants(self) -> list[tuple[str, ...]]:
        return [("prompt", "completion"), ("prompt", "response"), ("question", "answer")]

    def read(self, row: Row) -> Example:
        name = column(row, "completion", "response", "output", "answer")
        prompt, value = prompt_turns(row, "prompt", "question"), row.get(name)
        answer = answered(row.get("answer")) if name != "answer" else None
        if name == "answer" and isinstance(value, int | float):
            value = answered(value)
        if isinstance(value, list | tuple) and len(value) > 1:  # a completion with tool calls in between
            return conversation({"answer": answer, "tools": row.get("tools")}, (*prompt, *turns(list(value))))
        return Example(prompt, (Response((reply_turn(value, name),)),), answer, tools(row))


@dataclass(frozen=True)
class Text(Shape):
    """Plain text for continued pre-training: no chat template, every token trains."""

    needs: ClassVar = (("text",),)
    gives: ClassVar = "the text and an end token, all of it scored; longer texts are split, none is lost"

    def matches(self, columns: frozenset[str]) -> bool:
        return "text" in columns and not columns & {"prompt", "question", "instruction", "messages", "conversations"}

    def read(self, row: Row) -> Example:
        return Example((), (Response((Turn(RAW, filled(row, "text")),)),))


@dataclass(frozen=True)
class Task(Shape):
    """A prompt without a response, perhaps with its known answer: for evaluation and reinforcement learning."""

    needs: ClassVar = (("prompt",),)
    optional: ClassVar = ("answer", "system", "tools")
    gives: ClassVar = "a prompt to answer; nothing to train on yet"

    def read(self, row: Row) -> Example:
        return Example(prompt_turns(row, "prompt"), (), answered(row.get("answer")), tools(row))


@dataclass(frozen=True)
class Theorem(Shape):
    """A statement that a checker can judge proofs of: `meta` keeps it, and its header, for the scorer `proof`."""

    needs: ClassVar = (("prompt",), ("statement",))
    optional: ClassVar = ("header", "proof", "system")
    gives: ClassVar = "user: prompt; assistant: proof, where there is one; without it a prompt to answer"

    def matches(self, columns: frozenset[str]) -> bool:
        """A statement beside a completion or an answer is a column of the user's own."""
        return super().matches(columns) and not columns & {"completion", "response", "output", "answer", "question"}

    def read(self, row: Row) -> Example:
        meta = {"statement": filled(row, "statement"), "header": optional_text(row, "header")}
        proof = optional_text(row, "proof")
        responses = (Response((Turn("assistant", proof),)),) if proof.strip() else ()
        return Example(prompt_turns(row, "prompt"), responses, meta=meta)
