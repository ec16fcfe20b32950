"""The entries of `evaluate:` benchmarks by their names, and tasks with rows of their own.

`gsm8k`, `mmlu: {shots: 5}` and `{data: held-out.jsonl, scorers: [f1]}` are all one `Task`; what a benchmark's keys are,
its class says (the registry of benchmarks stands in an upper room).
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator
from pydantic.dataclasses import dataclass

from luthier.recipe.keys import STRICT, Float, Int, Misfit, Plugin, PluginField, Seam, Why, listed
from luthier.recipe.sources import Sources

UNNAMED = "held-out"
"""What a task is called that nobody has named."""
BESIDE = ("name", "base", "max_overlap")
"""Keys of an entry that may stand beside a benchmark, or among its keys."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Task:
    """One entry of `evaluate:` a benchmark, or rows with known answers; scored base against tuned."""

    name: str = UNNAMED
    """What the report calls it. Default: the benchmark's own name."""
    benchmark: Annotated[PluginField, Seam("benchmark")] | None = None
    """A benchmark with its keys: `mmlu: {shots: 5}` is short for `benchmark: {mmlu: {shots: 5}}`; `name` and `base` may
    stand beside or among them, the other keys here are for tasks with rows of their own."""
    data: Sources = ()
    """Or rows that did not train; their last assistant turn or `answer` (text or a number) is the known answer."""
    scorers: Annotated[tuple[PluginField, ...], Seam("scorer"), Why("it cannot flatter")] = (
        Plugin(name="exact_match"),
    )
    """exact_match, json_match, contains, f1, bleu, rouge, perplexity, reward_model, preference_accuracy,
    label_accuracy, step_accuracy; the first one is the headline."""
    limit: Annotated[Int, Field(gt=0)] | None = None
    """Score only the first so many rows."""
    max_overlap: Annotated[Float, Field(ge=0, le=1)] | None = None
    """Stop before training where more than this share of these rows trains, too. Default: 1/√n of n rows, half at most:
    so much may chance be worth in a score of n rows."""
    max_new_tokens: Annotated[Int, Field(gt=0), Why("a paragraph; a longer answer counts as cut off")] = 256
    """Longest answer, in tokens."""
    temperature: Annotated[Float, Field(ge=0), Why("greedy: the same answer every time")] = 0.0
    """0 is greedy; above it answers are sampled with the recipe's seed."""
    best_of: Annotated[Int, Field(gt=0), Why("one answer is what a user gets")] = 1
    """Draw so many answers to each prompt; the one that `by` likes best stands for the model. Needs a temperature."""
    by: Annotated[PluginField, Seam("scorer")] | None = None
    """The scorer that picks among them: {reward_model: runs/rm}, or any other."""
    base: Annotated[bool, Why("a score means little without the one before")] = True
    """Score the untuned model too."""

    @model_validator(mode="after")
    def _one_origin(self) -> Task:
        if self.benchmark is None:
            if not self.data:
                raise Misfit("data", "is missing", "write `data: …`, or the name of a benchmark (docs/benchmarks.md)")
            return self
        fields = {field.name: field.default for field in dataclasses.fields(Task)}
        for key in fields:
            # scorers are emptied below, and so they stand in the lock
            given = getattr(self, key) != fields[key] and not (key == "scorers" and not self.scorers)
            if given and key not in (*BESIDE, "benchmark"):
                what = f"is for tasks with rows of their own, and this one is the benchmark {self.benchmark.name!r}"
                fix = f"leave it out, or write it among the benchmark's keys if it has it: {self.benchmark.name}: {{…}}"
                raise Misfit(key, what, fix)
        object.__setattr__(self, "scorers", ())
        if self.name == UNNAMED:
            object.__setattr__(self, "name", self.benchmark.name)
        return self

    @model_validator(mode="after")
    def _has_scorers(self) -> Task:
        if not self.scorers and self.benchmark is None:
            what = "is empty: nothing says how good an answer is"
            raise Misfit("scorers", what, "name one (f1, contains, …), or leave the key out for exact_match")
        return self

    @model_validator(mode="after")
    def _picks_among_different(self) -> Task:
        if self.best_of > 1 and self.by is None:
            what = f"is {self.best_of}, and nothing picks among so many answers: it needs `by`"
            raise Misfit("best_of", what, "name a scorer beside it, for instance `by: {reward_model: runs/rm}`")
        if self.best_of > 1 and self.temperature == 0:
            what = f"is {self.best_of}, which needs a temperature above 0: greedily drawn answers are all the same"
            raise Misfit("best_of", what, "set one beside it, for instance `temperature: 0.8`")
        return self


KEYS = tuple(field.name for field in dataclasses.fields(Task))


def named(given: Mapping[str, Any]) -> str | None:
    """The benchmark's name in the short form of an entry; None in the long ones, and where a key is only misspelt."""
    if "data" in given or "benchmark" in given:
        return None
    others = [key for key in given if key not in KEYS]
    if len(others) != 1 or difflib.get_close_matches(str(others[0]), KEYS, n=1, cutoff=0.75):
        return None
    return others[0]


def parted(given: Mapping[str, Any], name: str, inner: Any) -> tuple[dict[str, Any], Any]:
    """An entry in its short form as (the entry's own keys, the benchmark's keys). `inner`: what stands behind the name,
    as a mapping where it is one."""
    own = {key: value for key, value in given.items() if key != name}
    if isinstance(inner, Mapping):
        own |= {key: inner[key] for key in BESIDE if key in inner}
        inner = {key: value for key, value in inner.items() if key not in BESIDE}
    return own, inner


def listed_tasks(inner: Any) -> Any:
    """A bare list behind a benchmark's name is its `tasks`."""
    return {"tasks": inner} if isinstance(inner, list | tuple) else inner


def _task(value: Any) -> Any:
    if isinstance(value, str | Plugin):
        return {"benchmark": value}
    if isinstance(value, Mapping):
        name = named(value)
        if name is not None:
            own, inner = parted(value, name, value[name])
            return {"benchmark": {name: listed_tasks(inner)}, **own}
    return value


def tasks(value: Any) -> list[Any]:
    """The entries of `evaluate:`, each in its long form."""
    return [_task(one) for one in listed(value)]


TaskField = Annotated[Task, BeforeValidator(_task)]
