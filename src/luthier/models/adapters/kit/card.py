"""What a reader should know of a method before choosing it: printed by `luthier explain`, and tabled in the docs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """One method, in a few plain sentences each. `title` is the method's full name."""

    title: str
    paper: str
    """arXiv number, DOI or URL."""
    authors: str
    venue: str
    """Where and when it was published."""
    problem: str
    idea: str
    formula: str
    """In plain Unicode, one line or a few."""
    trains: str
    """What trains, in a few words (for the table)."""
    choose: str
    """When to choose it."""
    avoid: str
    """When not."""
    limits: str
    related: tuple[str, ...] = ()
    """Names of related methods of ours."""
