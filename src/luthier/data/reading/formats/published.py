"""Rows as well-known data sets have them: SHP, UltraFeedback, CAMEL, WikiHow."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from luthier.data.reading.formats.plain import prompt_turns
from luthier.data.reading.formats.shape import BadRow, Row, Shape, filled, kind, listed, number, optional_text, truth
from luthier.data.reading.formats.turns import conversation, with_system
from luthier.types import Example, Response, Turn

NUMBERED = re.compile(r"message_(\d+)")


@dataclass(frozen=True)
class Published(Shape):
    """A shape that one data set has."""

    published: ClassVar = True


@dataclass(frozen=True)
class Shp(Published):
    """Stanford Human Preferences: a post and two comments, of which readers preferred one (labels 1: the first)."""

    needs: ClassVar = (("history",), ("human_ref_A",), ("human_ref_B",), ("labels",))
    optional: ClassVar = ("system", "score_ratio")
    gives: ClassVar = "a prompt and two responses, the one that readers preferred first"

    least: float = 1.0
    """Pairs whose scores are nearer than this ratio are dropped; its authors advise 2 or more."""

    def read(self, row: Row) -> Example:
        first = Turn("assistant", filled(row, "human_ref_A")), Turn("assistant", filled(row, "human_ref_B"))
        if row.get("score_ratio") is not None and number(row["score_ratio"], "score_ratio") < self.least:
            raise BadRow(f"'score_ratio' is below {self.least:g} (`least`)")
        better, worse = first if truth(row.get("labels"), "labels") else reversed(first)
        if better == worse:
            raise BadRow("'human_ref_A' and 'human_ref_B' are the same")
        return Example(prompt_turns(row, "history"), (Response((better,), 1.0), Response((worse,), 0.0)))


@dataclass(frozen=True)
class UltraFeedback(Published):
    """UltraFeedback as it was collected: an instruction, and completions of several models with their ratings."""

    by: Literal["overall", "fine-grained"] = "fine-grained"
    """overall: `overall_score`, which is known to hold faults (10 for 1). fine-grained: the mean of the aspects."""

    needs: ClassVar = (("instruction",), ("completions",), ("models",))
    optional: ClassVar = ("system",)
    gives: ClassVar = "a prompt and n scored responses"

    def read(self, row: Row) -> Example:
        prompt = with_system(row, (Turn("user", filled(row, "instruction")),))
        scored: dict[str, list[float]] = defaultdict(list)
        for one in listed(row, "completions"):
            if not isinstance(one, Mapping):
                raise BadRow(f"a completion is {kind(one)}, not an object")
            score = self._score(one)
            if score is not None and str(one.get("response") or "").strip():
                scored[filled(one, "response")].append(score)
        means = {said: sum(scores) / len(scores) for said, scores in scored.items()}
        if len(means) < 2:
            raise BadRow("fewer than two completions have a rating")
        if len(set(means.values())) == 1:
            raise BadRow("all completions have the same rating, so none is better than another")
        return Example(prompt, tuple(Response((Turn("assistant", said),), score) for said, score in means.items()))

    def _score(self, one: Mapping[str, Any]) -> float | None:
        """None where it was not rated."""
        if self.by == "overall":
            return None if one.get("overall_score") is None else number(one["overall_score"], "overall_score")
        if one.get("fine-grained_score") is not None:
            return number(one["fine-grained_score"], "fine-grained_score")
        aspects = one.get("annotations")
        given = [each.get("Rating") for each in aspects.values()] if isinstance(aspects, Mapping) else []
        ratings = [number(each, "Rating") for each in given if each not in (None, "N/A")]
        return sum(ratings) / len(ratings) if ratings else None


@dataclass(frozen=True)
class Camel(Published):
    """CAMEL: two models in two roles (message_1, message_2, …), or a problem and its solution."""

    needs: ClassVar = (("role_1",), ("message_1",), ("message_2",))
    optional: ClassVar = ("role_2", "specified_task", "system")
    gives: ClassVar = "a conversation; the one in the role of the assistant trains"

    def read(self, row: Row) -> Example:
        names = sorted((int(found[1]), name) for name in row if (found := NUMBERED.fullmatch(name)))
        said = [(name, row[name]) for _, name in names if row[name] not in (None, "")]
        turns = [self._turn(name, value, place) for place, (name, value) in enumerate(said)]
        while turns and turns[0].role == "assistant":
            turns = turns[1:]  # the role of the assistant often opens by saying that it is ready
        while turns and turns[-1].role == "user":
            turns.pop()
        if not turns:
            raise BadRow("no message of the assistant follows one of the user")
        return conversation(row, tuple(turns))

    def _turn(self, name: str, value: Any, place: int) -> Turn:
        if isinstance(value, Mapping):
            role = str(value.get("role_type") or value.get("role") or "").upper()
            text = filled(value, "content")
            if "ASSISTANT" not in role and "USER" not in role:
                raise BadRow("a message has no role_type of user or assistant")
            return Turn("assistant" if "ASSISTANT" in role else "user", text)
        return Turn("assistant" if place % 2 else "user", filled({name: value}, name))


@dataclass(frozen=True)
class WikiHow(Published):
    """WikiHow's articles: what is to be done, and how. Only by name (`format: wikihow`): others have such columns."""

    short: bool = False
    """Learn the short headlines of the steps in place of the article."""

    needs: ClassVar = (("title",), ("headline",), ("text",))
    optional: ClassVar = ("overview", "sectionLabel", "system")
    gives: ClassVar = "user: the title; assistant: the article, or its steps in short"

    def read(self, row: Row) -> Example:
        title = re.sub(r"\d+$", "", filled(row, "title").strip()).strip()
        if not title.lower().startswith("how to"):
            title = f"How to {title}"
        section = optional_text(row, "sectionLabel").strip()
        asked = f"{title}: {section}" if section and section.lower() not in title.lower() else title
        answer = filled(row, "headline" if self.short else "text")
        tidy = re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]*\n[ \t,;]*", "\n", answer)).strip()
        if not tidy:
            raise BadRow("the article is empty")
        spoken = (Turn("user", asked), Turn("assistant", tidy))
        return conversation(row, with_system(row, spoken))


__all__ = ["Camel", "Shp", "UltraFeedback", "WikiHow"]
