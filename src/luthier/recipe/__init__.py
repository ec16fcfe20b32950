"""The recipe room: YAML to typed, validated dataclasses. Importing it never imports torch."""

from luthier.recipe.schema import Model, Plugin, Recipe, Source, Task, Train, Validate

__all__ = ["Model", "Plugin", "Recipe", "Source", "Task", "Train", "Validate"]
