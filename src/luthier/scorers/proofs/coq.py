"""Coq as a checker: warm, in sessions that keep a header loaded, or fresh, in processes of its own for each proof.

What is asked of a proof, either way: each sentence is a tactic; Qed is accepted; the statement, put once more by us
after the proof, is what was proved; and the theorem rests on no axiom and no switched-off check (`Print Assumptions`).
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from luthier.scorers.proofs.checker import Claim, NotAProof, Verdict
from luthier.scorers.proofs.ide import PROGRAM
from luthier.scorers.proofs.launch import Limits, run
from luthier.scorers.proofs.pool import Job, Pool, spread
from luthier.scorers.proofs.sentences import tactics, type_of
from luthier.scorers.proofs.sitting import Script, bad_claim, header_of, judged_in, open_session, rests_on, said_by

NAME, AGAIN = "luthier_claim", "luthier_claim_again"
AT_ONCE = 128
"""Most proofs judged in one sitting of a session: what they rest on is asked for all of them together."""


@dataclass(frozen=True)
class Coq:
    """The Coq proof assistant (`apt install coq`). `fresh`: processes of its own for each proof, slower."""

    limits: Limits = field(default_factory=Limits)
    fresh: bool = False

    @property
    def name(self) -> str:
        return "coq"

    def available(self) -> bool:
        return shutil.which("coqc") is not None and (self.fresh or shutil.which(PROGRAM) is not None)

    def check(self, claim: Claim, proof: str) -> Verdict:
        """Judge one proof. Raises LuthierError where header or statement are not Coq."""
        return self.check_many([(claim, proof)])[0]

    def check_many(self, jobs: Sequence[Job]) -> list[Verdict]:
        """Judge many, on all cores. Raises LuthierError where header or statement are not Coq."""
        found: list[Verdict | None] = [None] * len(jobs)
        scripts: list[tuple[int, Script]] = []
        for index, (claim, proof) in enumerate(jobs):
            try:
                scripts.append((index, Script(claim, tuple(tactics(proof, claim.statement)))))
            except NotAProof as error:
                found[index] = Verdict("wrong", str(error))
        judged = self.check_scripts([script for _, script in scripts])
        for (index, _), verdict in zip(scripts, judged, strict=True):
            found[index] = verdict
        return [one for one in found if one is not None]

    def check_scripts(self, scripts: Sequence[Script]) -> list[Verdict]:
        """Judge sentences as they are, by what Coq says of them alone."""
        if self.fresh:
            return spread(lambda part: [self._compiled(one.claim, one.sentences) for one in part], scripts, 1)
        pool = pool_for(self.limits)
        by_header = sorted(range(len(scripts)), key=lambda index: header_of(scripts[index].claim))
        ordered = spread(lambda part: judged_in(pool, part), [scripts[index] for index in by_header], AT_ONCE)
        return [verdict for _, verdict in sorted(zip(by_header, ordered, strict=True), key=lambda pair: pair[0])]

    def _compiled(self, claim: Claim, sentences: Sequence[str]) -> Verdict:
        """Two processes: one compiles the proof, the other, which has never seen it, asks what it proves."""
        header, statement = header_of(claim), type_of(claim.statement)
        with tempfile.TemporaryDirectory(prefix="luthier-coq-") as made:
            folder = Path(made)
            stated = f"{header}\nTheorem {NAME} : ({statement}).\nProof.\n"
            (folder / "stated.v").write_text(f"{stated}Abort.\n", encoding="utf-8")
            (folder / "proved.v").write_text(f"{stated}{chr(10).join(sentences)}\nQed.\n", encoding="utf-8")
            proved = run(["coqc", "-q", "-native-compiler", "no", "proved.v"], folder, self.limits)
            if proved.late:
                return Verdict("wrong", f"it takes more than {self.limits.seconds:g} seconds")
            if proved.status != 0:
                plainly = run(["coqc", "-q", "-native-compiler", "no", "stated.v"], folder, self.limits)
                if plainly.status != 0:
                    raise bad_claim(plainly.output, claim)
                return Verdict("wrong", said_by(proved.output))
            mark = f"mark_{secrets.token_hex(8)}"
            asked = f"Definition {AGAIN} : ({statement}) := proved.{NAME}.\n"
            asked += f"Definition {mark} := tt.\nPrint {mark}.\nPrint Assumptions {AGAIN}.\n"
            (folder / "asked.v").write_text(f"{header}\nRequire proved.\n{asked}", encoding="utf-8")
            answered = run(["coqc", "-q", "-native-compiler", "no", "asked.v"], folder, self.limits)
            if answered.status != 0:
                return Verdict("wrong", f"what it proves is not the statement: {said_by(answered.output)}")
            return rests_on(answered.output.split(mark)[-1].partition(": unit")[2])


_POOLS: dict[Limits, Pool] = {}


def pool_for(limits: Limits) -> Pool:
    """The sessions kept open for proofs under these limits."""
    if limits not in _POOLS:
        _POOLS[limits] = Pool(limits, open_session)
    return _POOLS[limits]
