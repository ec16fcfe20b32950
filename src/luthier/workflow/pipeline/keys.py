"""The keys of the stages that are no recipe: what is to be answered, and which answers are kept."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from luthier.recipe.generation import Generation
from luthier.recipe.keys import STRICT, Float, Int, Misfit, Place, Plugin, PluginField, Seam, Why
from luthier.recipe.rollout import Rewards
from luthier.recipe.schema import Sources


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Answering(Generation):
    """A stage of kind `generate`: the keys of `luthier generate`, and who answers."""

    model: Place
    """A run folder, alias, hub id or folder; `$sft` is what the stage `sft` has trained."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Revising:
    """A stage of kind `revise`: answers are criticised and written anew by principles (arXiv:2212.08073)."""

    model: Place
    """Who criticises and writes anew, and answers first where a row has no answer: a run folder, alias, hub id or
    folder; `$sft` is what the stage `sft` has trained."""
    data: Sources = ()
    """The prompts, or rows with the answers that are revised. Default: those of the stage that `answers` names."""
    answers: Place | None = None
    """Revise these: a file that `luthier generate` wrote; `$answers` is what the stage `answers` wrote. Default: the
    answers of the rows, else the model's own."""
    constitution: Annotated[str, Why("ours")] = "en"
    """The principles: `en` or `zh`, sixteen each, or a file of yours."""
    rounds: Annotated[Int, Field(gt=0), Why("the second principle finds what the first one does not look for")] = 2
    """How often an answer is criticised and written anew, each time by another principle, drawn by its prompt."""
    engine: Annotated[PluginField, Seam("engine"), Why("the very weights that trained, nothing to set up")] = Plugin(
        name="local"
    )
    """What writes."""
    max_new_tokens: Annotated[Int, Field(gt=0), Why("a critique is longer than an answer")] = 512
    """The longest answer, critique or revision, in tokens. A row of which one was cut off is left out."""
    temperature: Annotated[Float, Field(ge=0), Why("greedy: the same every time")] = 0.0
    """0 is greedy."""
    seed: Annotated[Int, Field(ge=0, lt=2**32)] = 0
    """Draws what is said where there is a temperature: the same question is answered alike, wherever it stands."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Selection:
    """A stage of kind `select`: answers are scored, and some of them become rows to learn from."""

    answers: Place
    """A file that `luthier generate` wrote; `$answers` is what the stage `answers` wrote."""
    data: Sources = ()
    """The prompts that were answered. Default: those of the stage that `answers` names."""
    reward: Rewards
    """What an answer is worth: scorers, summed by weight, as in a recipe that learns from what the model says."""
    keep: Annotated[
        Literal["best", "above", "pairs"], Why("the best of n is never worse than one of them by the same scorers")
    ] = "best"
    """best: the best answers to each prompt; above: all that are worth more than `above`; pairs: the best one and the
    worst one, as a preference."""
    above: Float | None = None
    """Only an answer that is worth more than this is good: for `best` and the better one of `pairs`, too."""
    most: Annotated[Int, Field(gt=0)] | None = None
    """At most so many answers to a prompt. Default: 1 of `best`, all of `above`."""
    margin: Annotated[Float, Field(ge=0), Why("equally good answers are no preference")] = 0.0
    """Of `pairs`: the better answer must be worth more than the worse one by more than this."""

    @model_validator(mode="after")
    def _can_keep(self) -> Selection:
        if not self.reward:
            raise Misfit("reward", "is empty: nothing says how good an answer is", "name scorers: `reward: [maths]`")
        if all(reward.counts == 0 for reward in self.reward):
            what = "has gates alone: nothing would be worth more than 0"
            raise Misfit("reward", what, "give one of them a weight, or add a scorer that is no gate")
        if self.keep == "above" and self.above is None:
            raise Misfit("above", "is missing: above what is an answer good?", "set it beside, for instance above: 0.5")
        if self.keep == "pairs" and self.most is not None:
            raise Misfit("most", "goes with best and above: of a prompt there is one pair", "leave it out")
        if self.keep != "pairs" and self.margin:
            raise Misfit("margin", f"is for pairs, and `keep` is {self.keep}", "leave it out, or set `above`")
        return self
