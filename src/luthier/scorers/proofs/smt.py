"""Z3 as a checker: the row states a claim with holes in SMT-LIB, the response fills the holes, and Z3 finds no way out.

A hole is SyGuS's `(synth-fun name ((argument Sort) …) Sort)`; a response fills it by `(define-fun …)` of the same name
and signature. Nothing of a response reaches Z3 as it stands: it is read as expressions, and what is written out again
is the row's script with the bodies in the place of the holes. Bodies are terms, and no term of SMT-LIB is a command.
"""

from __future__ import annotations

import re
import shutil
import sysconfig
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from luthier.errors import LuthierError
from luthier.scorers.proofs.checker import Claim, NotAProof, Verdict
from luthier.scorers.proofs.launch import Limits, run
from luthier.scorers.proofs.pool import Job, spread
from luthier.scorers.proofs.sentences import LONGEST, fenced

Expression = str | list["Expression"]
_TOKEN = re.compile(r'\s+|;[^\n]*|(?P<token>[()]|\|[^|\\]*\||"(?:[^"]|"")*"|[^\s();|"]+)')
DEEPEST = 200
DECLARED = ("synth-fun", "declare-fun", "declare-const", "declare-sort", "define-fun", "define-sort")
STATED = (*DECLARED, "set-logic", "assert")
"""What a claim may be written with."""


def parse(text: str) -> list[Expression]:
    """The expressions of a text. Raises NotAProof where it is none."""
    stack: list[list[Expression]] = [[]]
    index = 0
    while index < len(text):
        found = _TOKEN.match(text, index)
        if found is None:
            raise NotAProof(f"not SMT-LIB: {text[index : index + 20]!r}")
        index, token = found.end(), found["token"]
        if token == "(":
            stack.append([])
            if len(stack) > DEEPEST:
                raise NotAProof(f"nested more than {DEEPEST} deep")
        elif token == ")":
            if len(stack) == 1:
                raise NotAProof("a closing bracket too many")
            done = stack.pop()
            stack[-1].append(done)
        elif token:
            stack[-1].append(token)
    if len(stack) > 1:
        raise NotAProof("a bracket is not closed")
    return stack[0]


def written(expression: Expression) -> str:
    return expression if isinstance(expression, str) else f"({' '.join(map(written, expression))})"


def filled(statement: str, response: str, where: str | None = None) -> str:
    """The script Z3 is to refute: the row's statement with a response's bodies in its holes.

    Raises NotAProof for the response, and LuthierError for a statement with no hole, or not of the one form allowed.
    """
    commands = _commands(statement, where)
    holes = {written(one[1]): one for one in commands if one[0] == "synth-fun"}
    hidden = _claims_own(commands)
    given: dict[str, list[Expression]] = {}
    if len(response) > LONGEST:
        raise NotAProof(f"the response has more than {LONGEST:,} characters")
    for one in parse(fenced(response)):
        if not isinstance(one, list) or len(one) != 5 or one[0] != "define-fun":
            raise NotAProof(f"not a definition: {written(one)[:80]}")
        name = written(one[1])
        if name not in holes or name in given:
            raise NotAProof(f"{name} is not asked for" if name not in holes else f"{name} is defined twice")
        if one[2:4] != holes[name][2:4]:
            raise NotAProof(f"{name} has another signature than the statement gives it")
        if used := hidden.intersection(_symbols(one[4])):
            raise NotAProof(f"{name} speaks of {min(used)}, which stands for any value there is")
        given[name] = one
    if missing := [name for name in holes if name not in given]:
        raise NotAProof(f"{missing[0]} is not defined")
    lines = [written(given[written(one[1])] if one[0] == "synth-fun" else one) for one in commands]
    return "\n".join([*lines, "(check-sat)", ""])


def _symbols(expression: Expression) -> set[str]:
    """The symbols of an expression; |a| is a."""
    if isinstance(expression, str):
        return {expression.strip("|")}
    return set().union(*map(_symbols, expression)) if expression else set()


def _claims_own(commands: Sequence[list[Expression]]) -> set[str]:
    """What a body must not speak of: constants and functions that stand for all there are, and what is made of them.

    A bound for every x would otherwise be x itself.
    """
    own: set[str] = set()
    for one in commands:
        if one[0] in ("declare-const", "declare-fun") or (one[0] == "define-fun" and own & _symbols(one[2:])):
            own |= _symbols(one[1])
    return own


def _commands(statement: str, where: str | None) -> list[list[Expression]]:
    where = where or repr(statement[:60])
    fix = "write it as declarations, holes as `(synth-fun name ((x Int)) Int)`, and one `(assert (not claim))`"
    try:
        parsed = parse(statement)
    except NotAProof as error:
        raise LuthierError(f"the statement is no SMT-LIB: {error}", where=where, fix=fix) from error
    commands = [one for one in parsed if isinstance(one, list) and one]
    claims = [one for one in commands if one[0] == "assert"]
    denied = len(claims) == 1 and len(claims[0]) == 2 and isinstance(claims[0][1], list) and claims[0][1][:1] == ["not"]
    if not denied:
        raise LuthierError("the statement has to hold exactly one `(assert (not claim))`", where=where, fix=fix)
    holes = [one for one in commands if one[0] == "synth-fun"]
    if not holes or any(len(one) != 4 for one in holes):
        raise LuthierError("the statement has no `(synth-fun …)` for a response to fill", where=where, fix=fix)
    for one in parsed:
        if not isinstance(one, list) or not one or one[0] not in STATED:
            raise LuthierError(f"the statement holds {written(one)[:60]}", where=where, fix=fix)
    return commands


def _open(statement: str, where: str | None) -> str:
    """The statement with its holes left open."""
    commands = _commands(statement, where)
    return "\n".join(_declared(one) if one[0] == "synth-fun" else written(one) for one in commands)


def _declared(hole: list[Expression]) -> str:
    """A hole as a function nothing is known of."""
    sorts: list[Expression] = [one[1] for one in hole[2] if isinstance(one, list) and len(one) == 2]
    return written(["declare-fun", hole[1], sorts, hole[3]])


@dataclass(frozen=True)
class Z3:
    """The SMT solver Z3 (`pip install 'luthier[proof]'`). unsat: proved; sat, unknown and too late: wrong."""

    limits: Limits = field(default_factory=Limits)

    @property
    def name(self) -> str:
        return "z3"

    def available(self) -> bool:
        return program() is not None

    def check(self, claim: Claim, proof: str) -> Verdict:
        """Judge one response. Raises LuthierError for a statement that is not of the one form allowed."""
        try:
            script = filled(claim.statement, proof, claim.where)
        except NotAProof as error:
            return Verdict("wrong", str(error))
        found = program()
        if found is None:
            return Verdict("failed", "z3 is not there")
        with tempfile.TemporaryDirectory(prefix="luthier-z3-") as made:
            folder = Path(made)
            (folder / "claim.smt2").write_text(script, encoding="utf-8")
            answer = run([found, "-smt2", "claim.smt2"], folder, self.limits)
            stated = folder / "stated.smt2"
            stated.write_text(_open(claim.statement, claim.where), encoding="utf-8")
            plainly = run([found, "-smt2", stated.name], folder, self.limits) if "(error" in answer.output else None
        if answer.late:
            return Verdict("wrong", f"it takes more than {self.limits.seconds:g} seconds")
        said = answer.output.strip()
        if said == "unsat":
            return Verdict("right")
        if plainly is not None and "(error" in plainly.output:
            raise LuthierError(
                f"the statement is not one that Z3 takes: {plainly.output.strip()[:200]}",
                where=claim.where or repr(claim.statement[:60]),
                fix="mend `statement`",
            )
        return Verdict("wrong", said[:300] or f"z3 ended with status {answer.status}")

    def check_many(self, jobs: Sequence[Job]) -> list[Verdict]:
        return spread(lambda part: [self.check(*job) for job in part], jobs, 1)


def program() -> str | None:
    """Where Z3's program is: beside this Python, as pip puts it, or on the path."""
    beside = Path(sysconfig.get_path("scripts")) / "z3"
    return str(beside) if beside.is_file() else shutil.which("z3")
