"""The keys of `luthier generate`, given by dotted names as those of a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from luthier.errors import LuthierError
from luthier.recipe import document, shape
from luthier.recipe.document import Node, Origin
from luthier.recipe.load import plain_words
from luthier.recipe.schema import STRICT, Float, Int, Misfit, Plugin, PluginField, Seam, Sources, Why

Keys = TypeVar("Keys")


def _texts(value: Any) -> Any:
    """One text or a list of them."""
    return [value] if isinstance(value, str) else value


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Generation:
    """`luthier generate`: which prompts, how many answers, drawn how and by which engine."""

    data: Sources
    """The prompts: `--prompts`; the keys of a recipe's `data` may stand beside it (data.columns.prompt=question)."""
    n: Annotated[Int, Field(gt=0), Why("one answer is what a user gets")] = 1
    """Answers to each prompt: `--n`. More than one need a temperature. Raised later, the further ones are added."""
    engine: Annotated[PluginField, Seam("engine"), Why("the very weights that trained, nothing to set up")] = Plugin(
        name="local"
    )
    """What writes them: `--engine`, and engine.openai.url and the like."""
    max_new_tokens: Annotated[Int, Field(gt=0), Why("a paragraph; how many were cut off is told")] = 256
    """The longest answer, in tokens."""
    temperature: Annotated[Float, Field(ge=0), Why("greedy: the same answer every time")] = 0.0
    """0 is greedy."""
    top_p: Annotated[Float, Field(gt=0, le=1)] = 1.0
    """Draw among the likeliest tokens that hold this share of the probability."""
    top_k: Annotated[Int, Field(ge=0)] = 0
    """Draw among so many of the likeliest tokens; 0: among all."""
    min_p: Annotated[Float, Field(ge=0, lt=1)] = 0.0
    """Leave out tokens less likely than this share of the likeliest."""
    repetition_penalty: Annotated[Float, Field(gt=0)] = 1.0
    """Above 1, tokens that were there before become less likely."""
    presence_penalty: Float = 0.0
    """Taken off the logit of each token that was generated before."""
    frequency_penalty: Float = 0.0
    """The same, as many times as it was."""
    stop: Annotated[tuple[str, ...], BeforeValidator(_texts)] = ()
    """Texts that end an answer, and are no part of it."""
    seed: Annotated[Int, Field(ge=0, lt=2**32)] = 0
    """Draws the answers: the same prompt is answered alike, wherever it stands."""
    ids: bool = False
    """Write the token ids of each answer."""
    logprobs: bool = False
    """Write the log-probability of each of them, and of the stop token."""

    @model_validator(mode="after")
    def _draws_different(self) -> Generation:
        if self.n > 1 and self.temperature == 0:
            what = f"is {self.n}, which needs a temperature above 0: greedily drawn answers are all the same"
            raise Misfit("n", what, "set one beside it, for instance temperature=0.8")
        return self


def generation(overrides: Sequence[str]) -> Generation:
    """The keys from dotted texts alone. Raises LuthierError as `load` does."""
    return of_texts(overrides, Generation, "generate", "docs/generation.md")


def of_texts(overrides: Sequence[str], keys: type[Keys], verb: str, page: str) -> Keys:
    """The keys of a verb that has no recipe, from dotted texts; `page` explains them. Raises LuthierError as `load`
    does."""
    tree = Node({}, Origin("override", f"luthier {verb}"))
    for text in overrides:
        tree = shape.apply(tree, document.parse_override(text), keys)
    tree = shape.normal(tree, keys)
    try:
        return TypeAdapter(keys).validate_python(tree.plain())
    except ValidationError as error:
        told = plain_words(error, dict(tree.walk()))
        fix = told.fix.replace("docs/recipes.md", page) if told.fix else None
        raise LuthierError(told.what, where=told.where, fix=fix) from error
