"""The scorer of proofs: is the response a proof of the row's statement, by the word of a real checker?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from luthier.errors import LuthierError
from luthier.scorers.metric import Metric, text
from luthier.scorers.proofs.checker import Checker, Claim, Verdict
from luthier.scorers.proofs.launch import Limits, sandboxed
from luthier.types import Example, Response

INSTALLED: Mapping[str, str] = {
    "coq": "install Coq 8.16 or newer so that coqc and coqidetop.opt are on the path: apt install coq",
    "z3": "pip install 'luthier[proof]'",
    "lean": "install Lean 4 so that `lean` is on the path",
}


@dataclass(frozen=True)
class Proof(Metric):
    """1 when a proof checker accepts the response as a proof of the row's `statement`, otherwise 0.

    Coq and Lean: the response is a script of tactics, perhaps in a fenced block, perhaps with the statement and
    `Proof.` … `Qed.` around it. Z3: definitions for the holes of an SMT-LIB claim. Commands, axioms, goals given up,
    another statement, too much time or memory are wrong. None when the row has no statement, or the checker itself
    broke down.
    """

    checker: Literal["coq", "z3", "lean"] = "coq"
    """Who checks. coq: tactics; z3: SMT-LIB; lean: Lean 4, written but not verified."""
    seconds: Annotated[float, Field(gt=0)] = 10.0
    """Processor seconds one proof may take."""
    memory: Annotated[int, Field(ge=256)] = 2048
    """MiB of memory one checker may take."""
    fresh: bool = False
    """Coq only: check each proof in processes of its own, about a second each, not in sessions that are kept open."""
    walls: Literal["required", "best"] = "required"
    """required: refuse where nothing keeps the checker from this machine's files and network. best: run it all the
    same, with your rights."""
    needs_reference: ClassVar[bool] = False

    def check(self) -> None:
        """Raise LuthierError where the checker is not there, or `fresh` means nothing to it."""
        if self.fresh and self.checker != "coq":
            raise LuthierError("`fresh` is for coq only", where="proof", fix=f"leave it out: {self.checker} always is")
        if not self._checker().available():
            raise LuthierError(f"the checker {self.checker} is not there", where="proof", fix=INSTALLED[self.checker])
        sandboxed(self._limits, self.seconds).tell("proof")

    @property
    def waits(self) -> bool:
        return True

    def lacks(self, example: Example) -> str | None:
        return "no `statement`" if claim_of(example) is None else None

    def __call__(self, example: Example, response: Response) -> float | None:
        return self.many([(example, response)])[0]

    def many(self, pairs: Sequence[tuple[Example, Response]]) -> list[float | None]:
        """The score of each response, in order. Raises LuthierError as `check` does, and for a bad statement."""
        return [None if one is None else one.score for one in self.verdicts(pairs)]

    def statistics_many(self, pairs: Sequence[tuple[Example, Response]]) -> list[tuple[float, ...] | None]:
        return [None if score is None else (score, 1.0) for score in self.many(pairs)]

    def verdicts(self, pairs: Sequence[tuple[Example, Response]]) -> list[Verdict | None]:
        """What the checker says of each response; None where the row has no statement."""
        claims = [claim_of(example) for example, _ in pairs]
        jobs = [(claim, text(said)) for claim, (_, said) in zip(claims, pairs, strict=True) if claim is not None]
        if not jobs:
            return [None] * len(pairs)
        self.check()
        judged = iter(self._checker().check_many(jobs))
        return [None if claim is None else next(judged) for claim in claims]

    @property
    def _limits(self) -> Limits:
        return Limits(self.seconds, self.memory, self.walls)

    def _checker(self) -> Checker:
        limits = self._limits
        if self.checker == "coq":
            from luthier.scorers.proofs.coq import Coq

            return Coq(limits, self.fresh)
        if self.checker == "z3":
            from luthier.scorers.proofs.smt import Z3

            return Z3(limits)
        from luthier.scorers.proofs.lean import Lean

        return Lean(limits)


def claim_of(example: Example) -> Claim | None:
    """What a row asks to be proved; None for a row that has no statement."""
    given: Mapping[str, Any] = example.meta
    statement = given.get("statement")
    where = str(example.source) if example.source else None
    if statement is None:
        return None
    header = given.get("header") or ""
    if not isinstance(statement, str) or not statement.strip() or not isinstance(header, str):
        raise LuthierError("`statement` or `header` is no text", where=where, fix="write them as texts")
    return Claim(statement, header, where)
