"""Lean 4 as a checker, where `lean` is on the path. **Not verified here**: written by Lean's documentation, never run.

Lean has no rule by which a command can be told from a tactic, so a response that holds the name of a command as a word
is no proof. Of what is left, Lean's own `#print axioms` decides: nothing but the three axioms that all of Lean rests
on.
"""

from __future__ import annotations

import re
import secrets
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from luthier.scorers.proofs.checker import Claim, NotAProof, Verdict
from luthier.scorers.proofs.launch import Limits, run
from luthier.scorers.proofs.pool import Job, spread
from luthier.scorers.proofs.sentences import LONGEST, fenced
from luthier.scorers.proofs.sitting import bad_claim

TRUSTED = frozenset({"propext", "Classical.choice", "Quot.sound"})
_COMMAND = re.compile(
    r"""(?<![\w.])(?:abbrev|add_decl_doc|admit|attribute|axiom|builtin_\w+|class|compile_inductive|constant|declare_\w+|def|
    deriving|elab|elab_rules|end|example|export|extern|import|include|inductive|infix[lr]?|init_quot|initialize|instance|
    lemma|library_note|local|macro|macro_rules|meta|mutual|namespace|native_decide|noncomputable|notation\d?|omit|opaque|
    open|partial|postfix|prefix|private|protected|public|register_\w+|run_\w+|scoped|section|set_option|simproc|sorry|
    structure|syntax|theorem|unif_hint|universe|unsafe|variable)(?![\w'!?])""",
    re.VERBOSE,
)
"""Words that begin a command of Lean, and those that leave a proof open."""


def tactics(response: str) -> list[str]:
    """The lines of a tactic proof. Raises NotAProof for one that holds a command."""
    said = fenced(response).strip()
    if len(said) > LONGEST:
        raise NotAProof(f"the proof has more than {LONGEST:,} characters")
    said = re.sub(r"\A(?::=\s*)?by\b", "", said)
    if not said.strip():
        raise NotAProof("there is no proof")
    if bad := _COMMAND.search(said):
        raise NotAProof(f"not a tactic: {bad[0]}")
    if any(one in said for one in "#«`"):
        raise NotAProof("it holds a command, a quotation or a quoted name")
    return said.splitlines()


@dataclass(frozen=True)
class Lean:
    """Lean 4 (`lean` on the path). Written and not verified: no Lean was at hand."""

    limits: Limits = field(default_factory=lambda: Limits(seconds=60.0, memory=16_384))

    @property
    def name(self) -> str:
        return "lean"

    def available(self) -> bool:
        return shutil.which("lean") is not None

    def check(self, claim: Claim, proof: str) -> Verdict:
        """Judge one proof. Raises LuthierError where header or statement are not Lean."""
        try:
            lines = tactics(proof)
        except NotAProof as error:
            return Verdict("wrong", str(error))
        if not self.available():
            return Verdict("failed", "lean is not there")
        name, mark = (f"luthier_{secrets.token_hex(8)}" for _ in range(2))
        stated = f"{claim.header}\ntheorem {name} : ({claim.statement}) := by\n"
        asked = f'theorem {name}_again : ({claim.statement}) := {name}\n#eval IO.println "{mark}"\n'
        script = "\n".join(f"  {line}" for line in lines)
        proved = self._run(f"{stated}{script}\n\n{asked}#print axioms {name}_again\n")
        if proved is None:
            return Verdict("wrong", f"it takes more than {self.limits.seconds:g} seconds")
        if proved[0] != 0:
            open_ended = self._run(f"{stated}  sorry\n")
            if open_ended is not None and open_ended[0] != 0:
                raise bad_claim(open_ended[1], claim)
            return Verdict("wrong", " ".join(proved[1].split())[:300])
        answer = proved[1].rpartition(mark)[2]
        if "does not depend on any axioms" in answer:
            return Verdict("right")
        listed = re.search(r"depends on axioms: \[(.*)\]", answer, re.DOTALL)
        axioms = {one.strip() for one in listed[1].split(",")} if listed else {"what Lean does not say"}
        return Verdict("right") if axioms <= TRUSTED else Verdict("wrong", f"it rests on {', '.join(sorted(axioms))}")

    def check_many(self, jobs: Sequence[Job]) -> list[Verdict]:
        return spread(lambda part: [self.check(*job) for job in part], jobs, 1)

    def _run(self, text: str) -> tuple[int, str] | None:
        """Status and output of Lean on a file; None where it took too long."""
        with tempfile.TemporaryDirectory(prefix="luthier-lean-") as made:
            (Path(made) / "claim.lean").write_text(text, encoding="utf-8")
            ended = run(["lean", "claim.lean"], Path(made), self.limits)
        return None if ended.late else (ended.status, ended.output)
