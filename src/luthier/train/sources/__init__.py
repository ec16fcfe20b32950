"""Where each step's examples come from: rows on disk in an order, several stores mixed, or a model that writes."""

from __future__ import annotations

from luthier.recipe import Recipe
from luthier.train.sources.order import Order
from luthier.train.sources.static import Static
from luthier.types import StepSource, TokenStore

__all__ = ["Order", "Static", "of"]


def of(train: TokenStore | StepSource, recipe: Recipe) -> StepSource:
    """A token store as a source in the recipe's order; a step source as it is."""
    if isinstance(train, StepSource):
        return train
    order = Order(len(train), recipe.train.batch, recipe.seed, recipe.shuffled)
    return Static(train, order, order.total(recipe.train.epochs, recipe.train.steps))
