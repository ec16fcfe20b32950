"""The recipe room: YAML to typed, validated dataclasses. Importing it never imports torch."""

from luthier.recipe.describe import explain, json_schema
from luthier.recipe.differing import differences
from luthier.recipe.load import Loaded, load, loads, override
from luthier.recipe.places import located, models_located
from luthier.recipe.resolve import digest, lock, resolve
from luthier.recipe.schema import Model, Plugin, Recipe, Source, Task, Train, Validate

__all__ = [
    "Loaded",
    "Model",
    "Plugin",
    "Recipe",
    "Source",
    "Task",
    "Train",
    "Validate",
    "differences",
    "digest",
    "explain",
    "json_schema",
    "load",
    "loads",
    "located",
    "lock",
    "models_located",
    "override",
    "resolve",
]
