"""The scorer `proof`: rows with a statement, responses, and what cannot be said; Lean's filter."""

import shutil
from importlib.util import find_spec

import pytest

from luthier.data import FORMATS
from luthier.errors import LuthierError
from luthier.scorers import SCORERS
from luthier.scorers.proofs.checker import Claim, NotAProof, Verdict
from luthier.scorers.proofs.lean import Lean, tactics
from luthier.scorers.proofs.proof import claim_of
from luthier.types import Example, Response, Source, Turn

coq_there = pytest.mark.skipif(shutil.which("coqc") is None, reason="Coq is not there: apt install coq")


def said(text: str) -> Response:
    return Response((Turn("assistant", text),))


def row(statement: object, header: object = "Require Import Lia.") -> Example:
    return Example(
        (Turn("user", "Prove it."),), source=Source("rows.jsonl", 3), meta={"statement": statement, "header": header}
    )


@coq_there
def test_rows_of_several_headers_are_judged_each_in_its_place() -> None:
    scorer = SCORERS.build("proof")
    plain, lia, none = row("1 + 1 = 2", ""), row("forall n : nat, n < n + 1"), Example((Turn("user", "?"),))
    pairs = [
        (lia, said("intros. lia.")),
        (plain, said("reflexivity.")),
        (none, said("reflexivity.")),
        (lia, said("reflexivity.")),
        (lia, said("intros. lia.")),
        (plain, Response(())),
    ]
    assert scorer.many(pairs) == [1.0, 1.0, None, 0.0, 1.0, 0.0]
    assert scorer.statistics_many(pairs[:3]) == [(1.0, 1.0), (1.0, 1.0), None]
    assert [one and one.judged for one in scorer.verdicts(pairs[2:4])] == [None, "wrong"]


@pytest.mark.skipif(find_spec("z3") is None, reason="Z3 is not there: pip install 'luthier[proof]'")
def test_z3_by_name() -> None:
    claim = row("(synth-fun n () Int)(assert (not (= (* n n) 49)))", "")
    assert SCORERS.build("proof", {"checker": "z3"}).many(
        [(claim, said(f"(define-fun n () Int {n})")) for n in (7, 8)]
    ) == [1, 0]


def test_a_checker_that_is_not_there_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(LuthierError, match=r"the checker coq is not there\n.*apt install coq"):
        SCORERS.build("proof").check()
    with pytest.raises(LuthierError, match="the checker lean is not there"):
        SCORERS.build("proof", {"checker": "lean"})(row("True"), said("trivial"))
    with pytest.raises(LuthierError, match="`fresh` is for coq only"):
        SCORERS.build("proof", {"checker": "z3", "fresh": True}).check()
    assert Lean().check(Claim("True"), "trivial") == Verdict("failed", "lean is not there")


@pytest.mark.parametrize(("statement", "header"), [(4, ""), (" ", ""), ("True", 4)])
def test_a_row_whose_statement_is_no_text_is_named(statement: object, header: object) -> None:
    with pytest.raises(LuthierError, match=r"rows\.jsonl:3: `statement` or `header` is no text"):
        claim_of(row(statement, header))


def test_rows_of_the_shape_theorem_bring_what_the_scorer_needs() -> None:
    read = FORMATS.build("theorem").read
    asked = {"prompt": "Prove 1 = 1.", "statement": "1 = 1", "header": "Require Import Lia."}
    assert claim_of(read(asked)) == Claim("1 = 1", "Require Import Lia.") and read(asked).responses == ()
    assert read({**asked, "proof": "lia."}).responses == (said("lia."),)


def test_lean_is_handed_tactics_only() -> None:
    assert tactics("```lean\nby exact h\n```") == [" exact h"] and tactics("simp [Nat.end_le]") == ["simp [Nat.end_le]"]
    for bad in ("sorry", "exact h\naxiom a : False", "native_decide", "#eval 1", "open Nat in simp", "", "end\nrfl"):
        with pytest.raises(NotAProof):
            tactics(bad)
