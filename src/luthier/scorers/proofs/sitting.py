"""Many proofs judged in one sitting of a Coq session.

What a theorem rests on takes Coq a second to find out, nearly all of it spent on the library's own proofs; so theorems
stay until all are there, and it is asked of all of them together. None can lean on another: their names are drawn anew
each time, and nothing in Coq lets a tactic find what it cannot name.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from luthier.errors import LuthierError
from luthier.scorers.proofs.checker import CheckerFailed, Claim, NotAProof, Verdict
from luthier.scorers.proofs.ide import OURS, ROOT, Overrun, Refused, Session
from luthier.scorers.proofs.launch import Limits
from luthier.scorers.proofs.pool import Pool
from luthier.scorers.proofs.sentences import plain, split, type_of

CLOSED = "Closed under the global context"
HEADER = "Require Import Arith Lia List Bool.\nImport ListNotations."
"""What rows without a header of their own get."""
LIFETIME = 50
"""A session lives for as many proofs' time at most, so that what it gathers in memory goes, too."""
RIGHT = Verdict("right")


@dataclass(frozen=True, slots=True)
class Script:
    """A claim and the sentences that are to prove it."""

    claim: Claim
    sentences: tuple[str, ...]


def header_of(claim: Claim) -> str:
    return claim.header or HEADER


def judged_in(pool: Pool, scripts: Sequence[Script]) -> list[Verdict]:
    """The verdicts on scripts, those of one header in one sitting. Raises LuthierError where a claim is no Coq."""
    verdicts: list[Verdict] = []
    for header, some in groupby(scripts, lambda script: header_of(script.claim)):
        verdicts += _of_one_header(pool, header, list(some))
    return verdicts


def _of_one_header(pool: Pool, header: str, scripts: Sequence[Script]) -> list[Verdict]:
    """Sittings until each script has its verdict: one that brings its session down takes the others' theorems along."""
    verdicts: dict[int, Verdict] = {}
    while waiting := [index for index in range(len(scripts)) if index not in verdicts]:
        under_way = waiting[0]
        try:
            with pool.borrowed(header, scripts[under_way].claim.where) as (session, state):
                sitting = Sitting(session, state)
                for under_way in waiting:
                    refusal = sitting.take(scripts[under_way])
                    if refusal is not None:
                        verdicts[under_way] = refusal
                standing = [index for index in waiting if index not in verdicts]
                closed = _closed(sitting, pool, [scripts[index] for index in standing], len(waiting) == 1)
                verdicts.update(zip(standing, closed, strict=True))
        except Overrun as error:
            verdicts[under_way] = Verdict("wrong", str(error))
        except CheckerFailed as error:
            verdicts[under_way] = Verdict("failed", str(error))
    return [verdicts[index] for index in range(len(scripts))]


def _closed(sitting: Sitting, pool: Pool, scripts: Sequence[Script], alone: bool) -> list[Verdict]:
    """The verdicts on the theorems that stayed. Where it cannot be said of all of them, of each in its own sitting."""
    try:
        return sitting.close()
    except Overrun as error:
        if alone:
            return [Verdict("failed", f"what it rests on cannot be told: {error}")]
    return [_of_one_header(pool, header_of(one.claim), [one])[0] for one in scripts]


class Sitting:
    """A session from one state on, in which theorems gather."""

    def __init__(self, session: Session, state: int) -> None:
        self.session, self._start, self._state = session, state, state
        self._names: list[str] = []

    def take(self, script: Script) -> Verdict | None:
        """Run a proof; the verdict on one that is wrong. Of others the theorem stays, until `close` judges it."""
        self.session.fresh_budget()
        name = f"luthier_{secrets.token_hex(8)}"
        statement = type_of(script.claim.statement)
        reached = begin(self.session, self._state, script.claim, name)
        try:
            for sentence in (*script.sentences, "Qed."):
                reached = self.session.add(sentence, reached)
        except Refused as error:
            return self._gone(str(error))
        try:
            self._state = self.session.add(f"Definition {name}_again : ({statement}) := {name}.", reached)
        except Refused as error:
            return self._gone(f"what it proves is not the statement: {error}")
        self._names.append(f"{name}_again")
        return None

    def _gone(self, why: str) -> Verdict:
        self.session.fresh_budget()
        self.session.back(self._state)
        return Verdict("wrong", why)

    def close(self) -> list[Verdict]:
        """The verdict on each theorem that stays, by what it rests on; the session is left as it was found."""
        self.session.fresh_budget()
        verdicts = [RIGHT] * len(self._names)
        if self._names and self._resting(f"({', '.join(self._names)}, tt)") != RIGHT:
            verdicts = [self._resting(name) for name in self._names]
        self.session.fresh_budget()
        self.session.back(self._start)
        return verdicts

    def _resting(self, term: str) -> Verdict:
        """What a term rests on."""
        self.session.fresh_budget(OURS)
        name = f"luthier_{secrets.token_hex(8)}"
        try:
            made = self.session.add(f"Definition {name} := {term}.", self._state)
            verdict = rests_on(self.session.ask(f"Print Assumptions {name}.", made))
        except Refused as error:
            raise CheckerFailed(f"what it rests on cannot be asked: {error}") from error
        self.session.back(self._state)
        return verdict


def begin(session: Session, state: int, claim: Claim, name: str) -> int:
    """State a claim; the number of the state in which its proof begins. Raises LuthierError if it is not Coq."""
    try:
        return session.add(f"Theorem {name} : ({type_of(claim.statement)}).", state)
    except Refused as error:
        raise bad_claim(str(error), claim) from error


def rests_on(answer: str) -> Verdict:
    """The verdict on a theorem by what `Print Assumptions` says of it."""
    said = " ".join(answer.split())
    return RIGHT if said == CLOSED else Verdict("wrong", f"it rests on {said[:200] or 'nothing known'}")


def bad_claim(said: str, claim: Claim) -> LuthierError:
    return LuthierError(
        f"the statement is not one that Coq takes: {said_by(said)}",
        where=claim.where or repr(claim.statement[:60]),
        fix="mend `statement`, or name in `header` what has to be imported for it",
    )


def open_session(header: str, where: str | None, folder: Path, limits: Limits) -> tuple[Session, int]:
    """A session with a header loaded, and the state that has it. Raises LuthierError for a header that is not Coq."""
    session = Session(folder, limits, lifetime=LIFETIME * max(limits.seconds, 5.0))
    state = ROOT
    try:
        for sentence in split(plain(header)):
            state = session.add(sentence, state)
    except (Refused, NotAProof) as error:
        session.close()
        raise LuthierError(
            f"the header is not one that Coq takes: {error}",
            where=where or repr(header[:60]),
            fix="mend `header`: imports as `Require Import Arith.`, each ending with a full stop",
        ) from error
    except (Overrun, CheckerFailed):
        session.close()
        raise
    return session, state


def said_by(output: str) -> str:
    """What is wrong, out of all that Coq says."""
    return re.sub(r"^.*?Error: ", "", " ".join(output.split()))[:300]
