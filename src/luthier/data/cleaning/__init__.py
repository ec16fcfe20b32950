"""Cleaning: pure functions from a text to edits of it, or to a reason why it should go."""

from __future__ import annotations

from luthier.data.cleaning import spelling
from luthier.data.cleaning.cleaner import Cleaning
from luthier.data.cleaning.edits import Edit, apply, compose, inverse
from luthier.data.cleaning.language import Guess, language
from luthier.data.cleaning.regions import protected
from luthier.data.cleaning.repetition import Repetition

__all__ = [
    "Cleaning",
    "Edit",
    "Guess",
    "Repetition",
    "apply",
    "compose",
    "inverse",
    "language",
    "protected",
    "spelling",
]
