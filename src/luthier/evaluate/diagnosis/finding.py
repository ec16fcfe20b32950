"""What a diagnosis is made of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """Something that may be wrong with a run: what, the numbers of this run that say so, and what to change."""

    name: str
    title: str
    evidence: tuple[str, ...]
    changes: tuple[str, ...] = ()
    """Overrides that can be pasted behind `luthier train RECIPE`, likeliest first."""
    advice: str = ""
    """What no override does."""
    weight: float = 0.5
    """How sure it is, times how much it spoils: 1 where the run ended by it."""
