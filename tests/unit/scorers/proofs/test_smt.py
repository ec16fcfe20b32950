"""Claims with holes, filled by a response and refuted by Z3 or not."""

import pytest

from luthier.errors import LuthierError
from luthier.scorers.proofs.checker import Claim, NotAProof
from luthier.scorers.proofs.launch import Limits
from luthier.scorers.proofs.smt import Z3, filled, parse, program, written

z3_there = pytest.mark.skipif(program() is None, reason="Z3 is not there: pip install 'luthier[proof]'")
LARGER = """; the larger of two
(synth-fun top ((x Int) (y Int)) Int)
(declare-const a Int) (declare-const b Int)
(assert (not (and (>= (top a b) a) (>= (top a b) b) (or (= (top a b) a) (= (top a b) b)))))"""
BOUND = "(declare-const a Int)\n(synth-fun bound () Int)\n(assert (not (<= (mod a 7) bound)))"


@z3_there
@pytest.mark.parametrize(
    ("statement", "response", "judged"),
    [
        (LARGER, "(define-fun top ((x Int) (y Int)) Int (ite (> x y) x y))", "right"),
        (LARGER, "Here:\n```smt2\n(define-fun top ((x Int) (y Int)) Int\n  (ite (< x y) y x)) ; so\n```", "right"),
        (LARGER, "(define-fun top ((x Int) (y Int)) Int x)", "wrong"),
        (LARGER, "(define-fun top ((x Int) (y Int)) Int z)", "wrong"),
        (LARGER, "(define-fun top ((x Int) (y Int)) Int (top x y))", "wrong"),
        (BOUND, "(define-fun bound () Int 6)", "right"),
        (BOUND, "(define-fun bound () Int 5)", "wrong"),
        (BOUND, "(define-fun bound () Int (mod a 7))", "wrong"),
        (BOUND, "(define-fun bound () Int (mod |a| 7))", "wrong"),
        (BOUND, "(define-fun bound () Int (let ((b 6)) b))", "right"),
    ],
)
def test_z3_judges(statement: str, response: str, judged: str) -> None:
    verdict = Z3().check(Claim(statement), response)
    assert verdict.judged == judged, verdict.message


@pytest.mark.parametrize(
    ("response", "why"),
    [
        ("(assert false)", "not a definition"),
        ("(define-fun bound () Int 6) (assert false)", "not a definition"),
        ('(echo "unsat")', "not a definition"),
        ("(define-fun bound () Int 6)) (assert false", "bracket too many"),
        ("(define-fun bound () Int 6", "not closed"),
        ("(define-fun bound () Real 6.0)", "another signature"),
        ("(define-fun bound ((x Int)) Int x)", "another signature"),
        ("(define-fun-rec bound () Int bound)", "not a definition"),
        ("(define-fun bound () Int 6) (define-fun bound () Int 7)", "twice"),
        ("(define-fun mod ((x Int) (y Int)) Int 0)", "not asked for"),
        ("(define-fun bound () Int a)", "stands for any value"),
        ('(define-fun bound () Int "', "not SMT-LIB"),
        ("(" * 500, "deep"),
        ("", "not defined"),
        ("six", "not a definition"),
    ],
)
def test_a_response_is_definitions_and_nothing_else(response: str, why: str) -> None:
    with pytest.raises(NotAProof, match=why):
        filled(BOUND, response)


def test_what_is_made_of_a_claims_constants_is_hidden_as_they_are() -> None:
    statement = BOUND.replace("(synth", "(define-fun same () Int a)\n(synth")
    with pytest.raises(NotAProof, match="same"):
        filled(statement, "(define-fun bound () Int same)")


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("(declare-const a Int) (assert (not (= a a)))", "no `\\(synth-fun"),
        ("(synth-fun f () Int)", "exactly one"),
        (BOUND + "(assert (> a 3))", "exactly one"),
        (BOUND + "(check-sat)", "check-sat"),
        ("(((", "no SMT-LIB"),
    ],
)
def test_a_statement_of_another_form_is_named(statement: str, why: str) -> None:
    with pytest.raises(LuthierError, match=rf"rows\.jsonl:7: .*{why}"):
        filled(statement, "(define-fun bound () Int 6)", "rows.jsonl:7")


@z3_there
def test_a_statement_that_z3_does_not_take_is_the_rows_fault_and_time_is_the_proofs() -> None:
    with pytest.raises(LuthierError, match="not one that Z3 takes"):
        Z3().check(Claim(BOUND.replace("(mod a 7)", "(modulo a 7)")), "(define-fun bound () Int 6)")
    hard = "(synth-fun n () Int)(declare-const x Int)(declare-const y Int)(declare-const z Int)(assert (not "
    hard += "(not (and (> x n) (> y n) (> z n) (= (+ (* x x x) (* y y y)) (* z z z))))))"
    assert Z3(Limits(seconds=1.0)).check(Claim(hard), "(define-fun n () Int 9)").judged == "wrong"


def test_expressions_come_back_as_they_went() -> None:
    assert [written(one) for one in parse('(a |b c| "d ""e") ; f\n(g (h))')] == ['(a |b c| "d ""e")', "(g (h))"]
