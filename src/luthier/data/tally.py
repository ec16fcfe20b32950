"""What is counted of rows: of a source, of a reason to leave them out, of a step of curation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LISTED = 10_000
"""Dropped rows named for each reason in ledger.json; the counts are always exact."""
SAMPLES = 50
"""Changes kept of each step, to be looked at."""


def number(count: int, of: str = "row") -> str:
    """A count with what it counts: 1 row, 2,000 rows."""
    return f"{count:,} {of}{'' if count == 1 else 's'}"


@dataclass
class Tally:
    """Rows of one source."""

    read: int = 0
    kept: int = 0
    dropped: int = 0
    shape: str = ""
    """The row shape; several where its files differ."""
    used: int = 0
    """Rows of the training mix that come from here (more than kept when a weight repeats them)."""
    made: int = 0
    """Rows that steps have made, of one row several."""


@dataclass
class Reason:
    """Why rows were dropped: how many, and which."""

    count: int = 0
    rows: list[str] = field(default_factory=list)
    fix: str | None = None

    def add(self, row: str) -> None:
        """One more row."""
        self.count += 1
        if len(self.rows) < LISTED:
            self.rows.append(row)

    def join(self, other: Reason) -> None:
        """The same reason, of rows that come after these."""
        self.count += other.count
        self.rows += other.rows[: LISTED - len(self.rows)]
        self.fix = self.fix or other.fix

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return {"count": self.count, "rows": self.rows, "fix": self.fix}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Reason:
        """What `to_json` wrote."""
        return cls(content["count"], list(content["rows"]), content.get("fix"))


@dataclass
class StepTally:
    """What one step did. `seen` + `made` = those it passes on + `dropped`."""

    at: str
    """Where the recipe has it: steps.0, data.1.steps.0."""
    name: str
    seen: int = 0
    changed: int = 0
    dropped: int = 0
    made: int = 0
    seconds: float = 0.0
    """Of processors, all processes together."""
    wall: float = 0.0
    """The same by the clock: what a step waits for, it waits for here."""
    reasons: dict[str, Reason] = field(default_factory=dict)
    """Why it dropped rows, each with what is particular to it."""
    samples: list[dict[str, Any]] = field(default_factory=list)
    """The first changes: where, before and after."""
    notes: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    """What it noted of rows, and how often."""

    @property
    def passed(self) -> int:
        """Rows it gives to the next step."""
        return self.seen + self.made - self.dropped

    @property
    def share(self) -> float:
        """Share of the rows it saw, and made, that it dropped."""
        return self.dropped / max(self.seen + self.made, 1)

    def drop(self, reason: str, row: str) -> None:
        """One more row goes."""
        self.dropped += 1
        self.reasons.setdefault(reason, Reason()).add(row)

    def count(self, note: str) -> None:
        """Once more it noted this."""
        self.counts[note] = self.counts.get(note, 0) + 1

    def sample(self, change: dict[str, Any]) -> None:
        """One of the first changes."""
        if len(self.samples) < SAMPLES:
            self.samples.append(change)

    def join(self, other: StepTally) -> None:
        """What the step did with rows that come after these."""
        self.seen += other.seen
        self.changed += other.changed
        self.dropped += other.dropped
        self.made += other.made
        self.seconds += other.seconds
        self.wall += other.wall
        for reason, entry in other.reasons.items():
            self.reasons.setdefault(reason, Reason()).join(entry)
        self.samples += other.samples[: SAMPLES - len(self.samples)]
        for note, count in other.counts.items():
            self.counts[note] = self.counts.get(note, 0) + count
        self.notes += [note for note in other.notes if note not in self.notes]

    def main_reasons(self) -> list[tuple[str, Reason]]:
        """Reasons, the commonest first."""
        return sorted(self.reasons.items(), key=lambda item: (-item[1].count, item[0]))

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        reasons = {reason: entry.to_json() for reason, entry in self.main_reasons()}
        return {**vars(self), "seconds": round(self.seconds, 3), "wall": round(self.wall, 3), "reasons": reasons}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> StepTally:
        """What `to_json` wrote."""
        reasons = {reason: Reason.from_json(entry) for reason, entry in content["reasons"].items()}
        return cls(**{**content, "reasons": reasons})


__all__ = ["LISTED", "SAMPLES", "Reason", "StepTally", "Tally", "number"]
