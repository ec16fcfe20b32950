"""The keys of learning from what the model says: how it answers, and what its answers are worth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic.dataclasses import dataclass

from luthier.recipe.keys import STRICT, Float, Int, Misfit, Plugin, PluginField, Seam, Why, listed


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Follow:
    """`rollout.follow:` how an engine with weights of its own comes by those that train: the adapter is written to disk
    and loaded there, under a name of its own, while the engine runs."""

    folder: str | None = None
    """Where adapters are written, a folder that the engine sees, too: for `luthier serve` the one of its --adapters.
    Default: `adapters` in the run folder."""
    by: Annotated[Literal["luthier", "vllm"], Why("`luthier serve` is what it is tested with")] = "luthier"
    """Whose way of loading an endpoint has. luthier: /v1/adapters, which wants an admin key. vllm:
    /v1/load_lora_adapter. vLLM inside this process needs neither."""
    every: Annotated[Int, Field(gt=0), Why("what speaks is what learns")] = 1
    """Rollouts between two loads. Above 1, what answers is older than what learns, and is corrected for."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Rollout:
    """`rollout:` how the model answers the prompts that it learns from."""

    n: Annotated[Int, Field(gt=0), Why("fewer say little of what a prompt's answers are worth on average")] = 8
    """Answers to each prompt: a group."""
    prompts: Annotated[Int, Field(gt=0)] | None = None
    """Prompts of a rollout. Default: train.batch. With more, one rollout serves several optimiser steps, each of
    train.batch prompts."""
    max_new_tokens: Annotated[Int, Field(gt=0), Why("a paragraph; how many were cut off is shown every step")] = 256
    """Longest answer, in tokens."""
    temperature: Annotated[Float, Field(gt=0), Why("the model as it is: what is learnt is what was said")] = 1.0
    """Answers are drawn from the model's distribution at this temperature, and learnt from in that very one."""
    updates: Annotated[Int, Field(gt=0), Why("what was said by other weights teaches less")] = 1
    """How often the groups of a rollout are gone through before new ones are drawn."""
    dynamic: bool | None = None
    """Draw on until there are as many groups as `prompts` whose answers differ by the first reward: where all are
    right, or none, there is nothing to learn. Default: as the objective's paper has it."""
    engine: Annotated[PluginField, Seam("engine"), Why("the very weights that train, nothing to set up")] = Plugin(
        name="local"
    )
    """What writes the answers, with its keys: local, {openai: {url: …, model: …}} or vllm."""
    follow: Follow | None = None
    """How an engine elsewhere comes by the weights that train. Default: not at all. What it says is another policy's
    then, and each token counts by how likely the model that learns finds it (`objective.correction`)."""
    ahead: Annotated[Int, Field(ge=0, le=1), Why("what speaks is what learns")] = 0
    """1: the answers of the next rollout are drawn while this one trains, by the weights it began with, and corrected
    for. Only where the engine has weights of its own."""
    top_p: Annotated[Float, Field(gt=0, le=1)] = 1.0
    """Draw among the likeliest tokens that hold this share of the probability. Only for objectives of pairs."""
    top_k: Annotated[Int, Field(ge=0)] = 0
    """Draw among so many of the likeliest tokens; 0: among all. Only for objectives of pairs."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Reward:
    """One entry of `reward:` a scorer; `{json_match: {weight: 0.1}}` is short for the two keys."""

    scorer: Annotated[PluginField, Seam("scorer")]
    """What judges an answer. The first entry says what is right (above 0.5), the others what else counts."""
    weight: Float | None = None
    """How much its score counts in the sum. Default: 1; of a gate 0."""
    gate: bool = False
    """Where it gives 0, the whole is worth 0, whatever the others say."""

    @property
    def counts(self) -> float:
        """Its weight in the sum."""
        return (0.0 if self.gate else 1.0) if self.weight is None else self.weight

    @model_validator(mode="after")
    def _has_a_say(self) -> Reward:
        if self.weight == 0 and not self.gate:
            what = "is 0, and it is no gate: it would decide nothing"
            raise Misfit("weight", what, "leave the entry out, or score it in `evaluate:`")
        return self


BESIDE = ("weight", "gate")
"""Keys of an entry that may stand among those of its scorer."""


def parted(given: Mapping[str, Any], inner: Any) -> tuple[dict[str, Any], Any] | None:
    """An entry in its short form as (its own keys, the scorer's mapping); None where it names no scorer alone.

    `inner` is what stands behind the scorer's name, as a mapping where it is one.
    """
    named = [key for key in given if key not in BESIDE]
    if len(named) != 1:
        return None
    own = {key: given[key] for key in BESIDE if key in given}
    if isinstance(inner, Mapping):
        own |= {key: inner[key] for key in BESIDE if key in inner}
        inner = {key: value for key, value in inner.items() if key not in BESIDE}
    return own, inner


def named(given: Mapping[str, Any]) -> str | None:
    """The scorer's name in the short form of an entry; None in the long one."""
    if "scorer" in given:
        return None
    return next((key for key in given if key not in BESIDE), None)


def _reward(value: Any) -> Any:
    if isinstance(value, str | Plugin):
        return {"scorer": value}
    if isinstance(value, Mapping):
        name = named(value)
        found = None if name is None else parted(value, value[name])
        if found is not None:
            own, inner = found
            return {"scorer": {name: inner}, **own}
    return value


Rewards = Annotated[tuple[Annotated[Reward, BeforeValidator(_reward)], ...], BeforeValidator(listed)]
