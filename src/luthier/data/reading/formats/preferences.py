"""Judged responses: a better and a worse one, several with scores, one with a label, one with a score for each step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal

from luthier.data.reading.formats.conversation import Tagged
from luthier.data.reading.formats.pairs import (
    Split,
    agreed,
    asked_in_transcript,
    bare,
    behind_prompt,
    gap,
    messages,
    not_empty,
    reply,
    rest,
    split_texts,
    split_turns,
    transcript,
)
from luthier.data.reading.formats.plain import alpaca_prompt, prompt_turns
from luthier.data.reading.formats.shape import BadRow, Row, Shape, column, kind, listed, not_text, number, truth
from luthier.data.reading.formats.turns import conversation, tools, turn, turns, with_system
from luthier.types import Example, Response, Turn

PROMPTS = ("prompt", "question", "instruction", "messages", "conversations")
"""Columns that may hold the prompt of judged responses."""
CHATS = ("messages", "conversations")
"""Those that hold it as messages."""


def _margin(row: Row) -> dict[str, Any]:
    """The `margin` column as the example's meta: by how much the better response is better."""
    if row.get("margin") is None:
        return {}
    margin = number(row["margin"], "margin")
    if margin < 0:
        raise BadRow("'margin' is negative: then the rejected response is the better one")
    return {"margin": margin}


@dataclass(frozen=True)
class Judged(Tagged):
    """A shape of judged responses, whose prompt may be text, a transcript, alpaca columns or messages."""

    def without_reply(self, row: Row, said: Iterable[Any]) -> Row:
        """The row, its messages without the last one where that is the answer of one of these responses: then they hold
        the conversation with it, as in UltraFeedback, and not the prompt alone. Raises BadRow."""
        for name in CHATS:
            if not row.get(name):
                continue
            given = listed(row, name)
            last = turn(given[-1], self.tags) if isinstance(given[-1], Mapping) else None
            if last is None or last.role != "assistant":
                continue
            if any(answer is not None and bare(answer) == bare(last) for answer in map(self._answer, said)):
                row = {**row, name: given[:-1] or None}
        return row

    def _answer(self, value: Any) -> Turn | None:
        """What a response answers: itself, or the end of the conversation that it is. None where it is neither."""
        if isinstance(value, str):
            spoken = transcript(value)
            return spoken[-1] if spoken and len(spoken) > 1 else Turn("assistant", value)
        given = messages([value] if isinstance(value, Mapping) else value)
        return turn(given[-1], self.tags) if given and isinstance(given[-1], Mapping) else None

    def prompt(self, row: Row) -> tuple[Turn, ...] | None:
        """The prompt's turns, None when no column holds one. Raises BadRow."""
        for name in CHATS:
            if row.get(name) is not None:
                return with_system(row, turns(listed(row, name), self.tags))
        if row.get("instruction") is not None:
            return alpaca_prompt(row)
        name = column(row, "prompt", "question")
        if name not in row:
            return None
        value = row[name]
        asked = asked_in_transcript(value) if isinstance(value, str) else None
        return with_system(row, asked) if asked else prompt_turns(row, name)


@dataclass(frozen=True)
class Preference(Judged):
    """A better and a worse response. The prompt is a column, or what both begin with, or both."""

    repeated: bool = False
    """Both texts begin with the prompt of the column: so it is where most pairs of a source do. They lose it."""

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
        prompt, chosen, rejected = self._parts(self._asking(row))
        not_empty(chosen, "chosen")
        not_empty(rejected, "rejected")
        if chosen == rejected:
            raise BadRow("'chosen' and 'rejected' are the same")
        responses = (Response((chosen,), 1.0), Response((rejected,), 0.0))
        gaps = tuple(gap(row.get(name), prompt, said) for name, said in (("chosen", chosen), ("rejected", rejected)))
        meta = {**_margin(row), "gaps": gaps} if any(gaps) else _margin(row)
        return Example(prompt, responses, None, tools(row), meta=meta)

    def _asking(self, row: Row) -> Row:
        """The row, its messages no longer than the prompt."""
        return self.without_reply(row, (row.get("chosen"), row.get("rejected")))

    def _parts(self, row: Row) -> Split:
        better, worse = row.get("chosen"), row.get("rejected")
        given, whole = self._given(row), self._whole(row)
        if whole[0] and whole[1]:
            prompt, chosen, rejected = split_turns(whole[0], whole[1])
            prompt = with_system(row, prompt)
            return prompt if given is None else agreed(given, prompt, self._holder(row)), chosen, rejected
        if whole[0] or whole[1]:
            raise BadRow("only one of 'chosen' and 'rejected' is a whole conversation, the other is a response alone")
        if given is not None:
            if self.repeated:
                better, worse = behind_prompt(given[-1].text, better, worse, self._holder(row))
            return given, reply(better, "chosen", self.tags), reply(worse, "rejected", self.tags)
        if messages(better) and messages(worse):
            raise BadRow("there is no prompt: 'chosen' and 'rejected' are responses alone, and no column holds it")
        if not isinstance(better, str) or not isinstance(worse, str):
            wrong = ("chosen", better) if not isinstance(better, str) else ("rejected", worse)
            raise not_text(wrong[1], wrong[0])
        prompt, chosen, rejected = split_texts(better, worse)
        return with_system(row, prompt), chosen, rejected

    def _holder(self, row: Row) -> str:
        """The column that holds the prompt."""
        return next((name for name in (*CHATS, "instruction", "prompt", "question") if row.get(name)), "prompt")

    def _given(self, row: Row) -> tuple[Turn, ...] | None:
        """The prompt in a column; None also where whole conversations stand beside an empty one."""
        empty = not any(row.get(name) for name in PROMPTS)
        return None if empty and any(self._whole(row)) else self.prompt(row)

    def _whole(self, row: Row) -> tuple[tuple[Turn, ...] | None, tuple[Turn, ...] | None]:
        """The better and the worse response as the conversations that they end, where they are more than responses."""
        beside = any(row.get(name) for name in PROMPTS)

        def whole(value: Any) -> tuple[Turn, ...] | None:
            listed = messages(value)
            spoken = turns(listed, self.tags) if listed else transcript(value) if isinstance(value, str) else None
            least = 2 if listed or beside else 1  # a text that only names its speaker is no more than a response
            return spoken if spoken and len(spoken) >= least else None

        return whole(row.get("chosen")), whole(row.get("rejected"))

    def repetition(self, row: Row) -> Literal["text", "turns"] | None:
        """Where the row's responses hold the prompt of a column again: as turns, or (one at least) as text. Raises
        BadRow."""
        row = self._asking(row)
        if not any(row.get(name) for name in PROMPTS):
            return None
        if all(self._whole(row)):
            return "turns"
        given, texts = self.prompt(row) or (), (row.get("chosen"), row.get("rejected"))
        return "text" if given and any(rest(given[-1].text, text) for text in texts) else None


def repeats_prompt(shape: Preference, rows: Iterable[Row]) -> Literal["text", "turns"] | None:
    """Where most of these pairs hold the prompt of a column again; None where few or none do: a single response may
    well begin with the words of its prompt."""
    found: Counter[Literal["text", "turns"] | None] = Counter()
    for row in rows:
        if not shape.matches(frozenset(row)):
            continue
        try:
            found[shape.repetition(row)] += 1
        except BadRow:
            continue
    most, count = found.most_common(1)[0] if found else (None, 0)
    return most if 2 * count > found.total() else None


@dataclass(frozen=True)
class Ranked(Judged):
    """Several responses to a prompt, each with a score, or with its rank (1 is the best)."""

    needs: ClassVar = (PROMPTS, ("responses",), ("scores", "ranks"))
    optional: ClassVar = ("input", "system", "tools")
    gives: ClassVar = "a prompt and n scored responses: every two of different scores are a pair, ties are none"

    def variants(self) -> list[tuple[str, ...]]:
        return [("prompt", "responses", "scores"), ("prompt", "responses", "ranks")]

    def read(self, row: Row) -> Example:
        given = listed(row, "responses")
        prompt = self.prompt(self.without_reply(row, given))
        if prompt is None:
            raise BadRow("there is no prompt")
        said = [reply(value, "responses", self.tags) for value in given]
        scores = self._scores(row)
        if len(scores) != len(said):
            name = column(row, "scores", "ranks")
            raise BadRow(f"'responses' and {name!r} differ in length: {len(said)} responses, {len(scores)} {name}")
        if len(said) < 2:
            raise BadRow("'responses' holds only one response, and one cannot be ranked")
        if len(set(scores)) == 1:
            raise BadRow("all responses have the same score, so none is better than another")
        worth: dict[str, float] = {}
        for one, score in zip(said, scores, strict=True):
            if worth.setdefault(repr(one), score) != score:
                raise BadRow("two of the responses are the same, but have different scores")
        responses = tuple(Response((one,), score) for one, score in zip(said, scores, strict=True))
        return Example(prompt, responses, None, tools(row))

    def _scores(self, row: Row) -> list[float]:
        """The scores; ranks become scores from 1 (the best rank of the row) down to 0 (its last)."""
        name = column(row, "scores", "ranks")
        values = [number(value, name) for value in listed(row, name)]
        if name == "scores":
            return values
        best, last = min(values), max(values)
        return [(last - value) / (last - best) if last > best else 1.0 for value in values]


@dataclass(frozen=True)
class Unpaired(Judged):
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
        for key in CHATS:
            if row.get(key) is not None:
                example = conversation(row, turns(listed(row, key), self.tags), score)
                if not example.responses:
                    raise BadRow("the conversation does not end with the assistant")
                return example
        name, prompt = column(row, "completion", "response", "output"), self.prompt(row)
        if prompt is None:
            raise BadRow("there is no prompt")
        return Example(prompt, (Response((reply(row.get(name), name, self.tags),), score),), None, tools(row))


@dataclass(frozen=True)
class Stepwise(Shape):
    """A solution in steps, each with a label. `meta["steps"]` keeps them apart; `meta["joints"]`: what divides them."""

    separator: str = "\n"
    """Put between steps that have no white space of their own there."""
    binary: bool = False
    """A label of 0 means wrong, not neither: so it is where a whole source has no other number than 0 and 1."""

    needs: ClassVar = (("prompt",), ("completions",), ("labels",))
    optional: ClassVar = ("system",)
    gives: ClassVar = "a prompt and one response with a score for each step"

    def read(self, row: Row) -> Example:
        steps, labels = listed(row, "completions"), listed(row, "labels")
        if not all(isinstance(step, str) for step in steps):
            raise BadRow("'completions' is not a list of texts")
        if len(steps) != len(labels):
            raise BadRow(f"'completions' and 'labels' differ in length: {len(steps)} steps, {len(labels)} labels")
        if not all(step.strip() for step in steps):
            raise BadRow("a step in 'completions' is empty")
        scores = tuple(self._score(label) for label in labels)
        joints = tuple(self._joint(before, after) for before, after in pairwise(steps))
        response = Response((Turn("assistant", self._joined(steps)),), step_rewards=scores)
        return Example(prompt_turns(row, "prompt"), (response,), meta={"steps": tuple(steps), "joints": joints})

    def _joined(self, steps: list[str]) -> str:
        """The steps as one text. Steps that bring white space of their own are not given more."""
        text = steps[0]
        for step in steps[1:]:
            text += step if text[-1].isspace() or step[0].isspace() else self.separator + step
        return text

    def _joint(self, before: str, after: str) -> str:
        """What divides two steps in that text."""
        own = before[len(before.rstrip()) :] + after[: len(after) - len(after.lstrip())]
        return own or self.separator

    def _score(self, label: Any) -> float:
        """A step's label: true is 1 and false -1; a number stays (-1, 0 and 1 in PRM800K, where 0 is neither), but 0
        is -1 where labels are binary."""
        if isinstance(label, int | float) and not isinstance(label, bool):
            score = number(label, "labels")
            return -1.0 if self.binary and score == 0 else score
        return 1.0 if truth(label, "labels") else -1.0


def zero_means_wrong(rows: Iterable[Row]) -> bool:
    """Are the step labels of these rows 0 and 1 and no other number? Rows that cannot be read, and the labels true and
    false, say nothing. It ends with the first other number."""
    zero = False
    for row in rows:
        try:
            labels = [label for label in listed(row, "labels") if not isinstance(label, bool | str)]
            numbers = {number(label, "labels") for label in labels}
        except BadRow:
            continue
        if numbers - {0.0, 1.0}:
            return False
        zero = zero or 0.0 in numbers
    return zero
