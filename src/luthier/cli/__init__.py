"""The command line: verbs and dotted overrides. Nothing heavy is imported before a verb needs it."""

# in the order of the help: a theme's commands are there once its file is imported
from luthier.cli import training, scoring, judging, exporting, talking, rows, advising, looking  # noqa: F401, I001
from luthier.cli.app import app, main

__all__ = ["app", "main"]
