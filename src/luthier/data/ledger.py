"""The ledger: what became of every row, and why a row was left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.data.statistics import PreferenceStatistics
from luthier.data.tally import LISTED, Reason, StepTally, Tally
from luthier.types import Source

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from luthier.data.store import View

SHOWN = 3
"""Dropped rows named for each reason on screen."""
PERCENTILES = (50, 90, 95, 99, 100)


@dataclass
class Ledger:
    """Counts of rows and tokens. `read` + `made` = `kept` + `dropped`; texts that were split count as one kept row."""

    sources: dict[str, Tally] = field(default_factory=dict)
    reasons: dict[str, Reason] = field(default_factory=dict)
    unscored: int = 0
    """Rows without a scored token (they are among the dropped)."""
    truncated: int = 0
    """Conversations cut behind a turn."""
    cut: int = 0
    """Rows with a judged response that was cut at its end."""
    steps_lost: int = 0
    """Judged steps that were cut off."""
    split: int = 0
    """Plain texts longer than train.max_tokens, kept as several rows."""
    duplicates: int = 0
    """Rows whose tokens equal an earlier row's."""
    deduplicated: int = 0
    """Of these, dropped because the recipe asked for it."""
    notes: dict[str, Reason] = field(default_factory=dict)
    """What was done to the data that is not to be guessed, and to which rows, where it was done to rows."""
    held_out: int = 0
    """Rows kept out of training for validation."""
    examples: int = 0
    """Examples to train on, after splitting, holding out and mixing."""
    tokens: int = 0
    scored: int = 0
    lengths: dict[str, int] = field(default_factory=dict)
    """Percentiles of the examples' lengths in tokens; p100 is the longest."""
    mean_length: float = 0.0
    shortened: int = 0
    """Texts of earlier turns of which the chat template renders, and its markers mark, only a part."""
    weighed: int = 0
    """Kept rows whose judged responses hold a turn with another weight than 0 and 1."""
    weighed_first: str = ""
    """The first of them."""
    unread: dict[str, int] = field(default_factory=dict)
    """Keys of messages that nothing reads, and how many messages have them."""
    remarks: list[str] = field(default_factory=list)
    """What is to be said of the chat template, and of rows that train and are scored on, too."""
    joints: dict[str, int] = field(default_factory=dict)
    """What divides the judged steps of the kept rows, and how often."""
    steps: list[StepTally] = field(default_factory=list)
    """What each step of curation did."""
    preferences: PreferenceStatistics | None = None
    """Pairs, labels and lengths, where responses are judged."""
    validation: Ledger | None = None
    """The ledger of `validate.data`, where the recipe has it."""

    @property
    def rows_read(self) -> int:
        """Rows of all sources."""
        return sum(tally.read for tally in self.sources.values())

    @property
    def rows_kept(self) -> int:
        """Rows that became at least one example."""
        return sum(tally.kept for tally in self.sources.values())

    @property
    def rows_dropped(self) -> int:
        """Rows left out, for whatever reason."""
        return sum(tally.dropped for tally in self.sources.values())

    @property
    def rows_made(self) -> int:
        """Rows that steps have made."""
        return sum(tally.made for tally in self.sources.values())

    @property
    def asked(self) -> int:
        """Rows left out by steps of curation, which were asked to."""
        return sum(step.dropped for step in self.steps)

    @property
    def lost(self) -> float:
        """Share of the rows left out without being asked to."""
        return (self.rows_dropped - self.deduplicated - self.asked) / max(self.rows_read, 1)

    @property
    def separator(self) -> str | None:
        """What divides judged steps most often; None where no row has two."""
        return max(self.joints, key=lambda joint: self.joints[joint]) if self.joints else None

    def read(self, name: str) -> None:
        """One more row of this source."""
        self.sources.setdefault(name, Tally()).read += 1

    def recognised(self, name: str, shape: str) -> None:
        """A file of this source has rows of this shape."""
        tally = self.sources.setdefault(name, Tally())
        if shape not in tally.shape.split(", "):
            tally.shape = f"{tally.shape}, {shape}" if tally.shape else shape

    def keep(self, name: str) -> None:
        """One more row of this source is of use."""
        self.sources[name].kept += 1

    def weigh(self, source: Source) -> None:
        """One more row has judged responses with turns that count more or less than others."""
        self.weighed, self.weighed_first = self.weighed + 1, self.weighed_first or str(source)

    def overlook(self, keys: Iterable[str]) -> None:
        """One more message has these keys, which nothing reads."""
        for key in keys:
            self.unread[key] = self.unread.get(key, 0) + 1

    def divide(self, joints: Iterable[str]) -> None:
        """This stands between the judged steps of a kept row."""
        for joint in joints:
            self.joints[joint] = self.joints.get(joint, 0) + 1

    def drop(self, name: str, source: Source | None, reason: str, fix: str | None = None) -> None:
        """One more row of this source is left out."""
        self.sources.setdefault(name, Tally()).dropped += 1
        self.reasons.setdefault(reason, Reason(fix=fix)).add(str(source))

    def note(self, what: str, source: Source | None = None) -> None:
        """This was done to the data, or to one more row of it."""
        entry = self.notes.setdefault(what, Reason())
        entry.count += 1
        if source is not None and len(entry.rows) < LISTED:
            entry.rows.append(str(source))

    def measure(self, view: View) -> None:
        """Enter the tokens of the examples to train on, and what their judgements hold."""
        lengths, scored, self.preferences = view.lengths, view.scored, view.preference_statistics()
        self.examples, self.tokens, self.scored = len(lengths), int(lengths.sum()), int(scored.sum())
        if len(lengths):
            values = np.percentile(lengths, PERCENTILES, method="inverted_cdf")
            self.lengths = {f"p{p}": int(value) for p, value in zip(PERCENTILES, values, strict=True)}
            self.mean_length = round(float(lengths.mean()), 1)

    def absorb(self, other: Ledger) -> None:
        """Enter what another ledger says of rows that were read apart from these."""
        for name, tally in other.sources.items():
            ours = self.sources.setdefault(name, Tally())
            for shape in tally.shape.split(", ") if tally.shape else ():
                self.recognised(name, shape)
            ours.read, ours.kept = ours.read + tally.read, ours.kept + tally.kept
            ours.dropped, ours.made = ours.dropped + tally.dropped, ours.made + tally.made
        for ours_of, theirs_of in ((self.reasons, other.reasons), (self.notes, other.notes)):
            for what, entry in theirs_of.items():
                ours_of.setdefault(what, Reason()).join(entry)
        for key, count in other.unread.items():
            self.unread[key] = self.unread.get(key, 0) + count
        self.steps += other.steps

    def noted(self) -> list[str]:
        """What was done to the data, a line each, for the screen."""
        return [
            what + (f" ({entry.count:,}×, first {entry.rows[0]})" if entry.rows else "")
            for what, entry in self.notes.items()
        ]

    def main_reasons(self) -> list[tuple[str, Reason]]:
        """Reasons, the commonest first."""
        return sorted(self.reasons.items(), key=lambda item: -item[1].count)

    def to_json(self) -> dict[str, Any]:
        """The whole ledger as JSON types. `Ledger.from_json` reads it back."""
        return {
            "rows": {
                "read": self.rows_read,
                "kept": self.rows_kept,
                "dropped": self.rows_dropped,
                "made": self.rows_made,
                "asked": self.asked,
                "lost_share": round(self.lost, 6),
                "without_scored_token": self.unscored,
                "truncated": self.truncated,
                "cut": self.cut,
                "steps_lost": self.steps_lost,
                "split": self.split,
                "duplicates": self.duplicates,
                "deduplicated": self.deduplicated,
                "held_out": self.held_out,
            },
            "examples": self.examples,
            "tokens": {"total": self.tokens, "scored": self.scored},
            "length": {**self.lengths, "mean": self.mean_length},
            "notes": {what: {"count": entry.count, "rows": entry.rows} for what, entry in self.notes.items()},
            "sources": {name: vars(tally) for name, tally in self.sources.items()},
            "dropped": {reason: entry.to_json() for reason, entry in self.main_reasons()},
            "steps": [step.to_json() for step in self.steps],
            "shortened": self.shortened,
            "weighed": [self.weighed, self.weighed_first],
            "unread_keys": self.unread,
            "remarks": self.remarks,
            "step_joints": self.joints,
            "preferences": self.preferences.to_json() if self.preferences else None,
            "validation": self.validation.to_json() if self.validation else None,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Ledger:
        """The ledger that `to_json` wrote."""
        rows, length = content["rows"], dict(content["length"])
        mean = length.pop("mean")
        return cls(
            sources={name: Tally(**tally) for name, tally in content["sources"].items()},
            reasons={name: Reason.from_json(entry) for name, entry in content["dropped"].items()},
            notes={what: Reason(entry["count"], list(entry["rows"])) for what, entry in content["notes"].items()},
            unscored=rows["without_scored_token"],
            truncated=rows["truncated"],
            cut=rows["cut"],
            steps_lost=rows["steps_lost"],
            split=rows["split"],
            duplicates=rows["duplicates"],
            deduplicated=rows["deduplicated"],
            held_out=rows["held_out"],
            examples=content["examples"],
            tokens=content["tokens"]["total"],
            scored=content["tokens"]["scored"],
            steps=[StepTally.from_json(step) for step in content.get("steps", ())],  # runs from before there were any
            lengths=length,
            mean_length=mean,
            shortened=content["shortened"],
            weighed=content["weighed"][0],
            weighed_first=content["weighed"][1],
            unread=dict(content["unread_keys"]),
            remarks=list(content["remarks"]),
            joints=dict(content["step_joints"]),
            preferences=PreferenceStatistics.from_json(content["preferences"]) if content["preferences"] else None,
            validation=cls.from_json(content["validation"]) if content["validation"] else None,
        )

    def table(self, title: str = "Data", *, train: bool = True) -> RenderableType:
        """The ledger for the screen. Only the rows that `train` are used in a mix."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(title=title, title_justify="left", show_header=True, header_style="bold")
        table.add_column("source", overflow="fold")
        table.add_column("shape")
        headings = ("read", "kept", "dropped", "used") if train else ("read", "kept", "dropped")
        for heading in headings:
            table.add_column(heading, justify="right")
        for name, tally in self.sources.items():
            table.add_row(Text(name), tally.shape, *(f"{getattr(tally, heading):,}" for heading in headings))
        parts: list[RenderableType] = [table, *self._steps(), *self._notes()]
        if self.validation:
            parts.append(self.validation.table("Validation data", train=False))
        return Group(*parts)

    def _steps(self) -> list[RenderableType]:
        from luthier.data.curation import shown

        return [shown.table(self.steps)] if self.steps else []

    def _division(self, separator: str) -> Text:
        from rich.text import Text

        share = self.joints[separator] / sum(self.joints.values())
        line = f"steps are divided by {separator!r}" + (f" ({share:.0%} of them)" if share < 1 else "")
        if "\n" in separator:
            return Text(line)
        return Text(f"{line}: only a newline would show where the steps of an answer end, to score answers", "yellow")

    def _notes(self) -> list[RenderableType]:
        from rich.text import Text

        share = self.scored / max(self.tokens, 1)
        trained = f"{self.examples:,} examples, {self.tokens:,} tokens, {self.scored:,} of them train ({share:.0%})"
        lines = [
            Text(trained if self.scored else f"{self.examples:,} prompts, {self.tokens:,} tokens"),
            Text("length in tokens: " + "  ".join(f"{name} {value:,}" for name, value in self.lengths.items())),
        ]
        for line, warning in self.preferences.lines() if self.preferences else ():
            lines.append(Text(line, "yellow" if warning else ""))
        if self.separator is not None:
            lines.append(self._division(self.separator))
        counts = {
            "truncated to whole turns": self.truncated,
            "with a response cut at its end": self.cut,
            "texts split": self.split,
            "without a scored token": self.unscored,
            "duplicates": self.duplicates,
            "held out for validation": self.held_out,
        }
        if any(counts.values()):
            lines.append(Text("rows " + ", ".join(f"{name}: {count:,}" for name, count in counts.items() if count)))
        lines += [Text(line) for line in self.noted()]
        if self.shortened:
            lines.append(Text(f"texts of earlier turns shortened by the chat template: {self.shortened:,}"))
        if self.unread:
            named = ", ".join(f"{key!r} ({count:,})" for key, count in self.unread.items())
            lines.append(Text(f"keys of messages that nothing reads: {named}", "yellow"))
        lines += [Text(remark, "yellow") for remark in self.remarks]
        if self.steps_lost:
            lines.append(Text(f"judged steps cut off: {self.steps_lost:,}"))
        for reason, entry in self.main_reasons():
            more = " …" if entry.count > SHOWN else ""
            lines.append(Text(f"dropped {entry.count:,}: {reason} ({', '.join(entry.rows[:SHOWN])}{more})", "yellow"))
        return list(lines)
