"""The seam behind which proofs are checked: a claim and a proof go in, a verdict and the checker's words come out.

What a proof may do is settled twice, and neither wall trusts the other: first by what a response may consist of
(tactics, terms; never commands), then by what the checker says of the finished theorem (its statement, put again by us,
and what it was built on).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

Judged = Literal["right", "wrong", "failed"]


@dataclass(frozen=True, slots=True)
class Claim:
    """What is to be proved, as the row gives it."""

    statement: str
    header: str = ""
    """What it needs loaded: imports, and definitions of its own."""
    where: str | None = None
    """The row, for an error that has to name it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a proof. `failed`: the checker could not say, through no fault of the proof."""

    judged: Judged
    message: str = ""
    """The checker's own words, or ours where the proof did not get as far as the checker."""

    @property
    def score(self) -> float | None:
        """1 for a right proof, 0 for a wrong one, None where the checker failed."""
        return {"right": 1.0, "wrong": 0.0, "failed": None}[self.judged]


class NotAProof(ValueError):
    """A response that holds something no proof may hold. The message says what."""


class CheckerFailed(RuntimeError):
    """The checker broke down, could not be started or got no time: nothing is known of the proof."""


@runtime_checkable
class Checker(Protocol):
    """A proof checker."""

    @property
    def name(self) -> str: ...

    def available(self) -> bool:
        """Is the program there?"""
        ...

    def check(self, claim: Claim, proof: str) -> Verdict:
        """Judge one proof. Raises LuthierError where the claim itself is at fault: nobody could prove it."""
        ...

    def check_many(self, jobs: Sequence[tuple[Claim, str]]) -> list[Verdict]:
        """`check` of many, on all cores."""
        ...
