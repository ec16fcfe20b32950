"""Proofs judged by Coq: right ones are, hostile ones gain nothing and hurt nothing."""

import shutil
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from hostile_proofs import ENDLESS, FALSE, HOSTILE, LEMMA
from processes import must_be_gone

from luthier.errors import LuthierError
from luthier.scorers.proofs.checker import Checker, Claim, NotAProof
from luthier.scorers.proofs.coq import Coq, pool_for
from luthier.scorers.proofs.launch import Limits
from luthier.scorers.proofs.sentences import plain, split, tactics
from luthier.scorers.proofs.sitting import Script

pytestmark = pytest.mark.skipif(shutil.which("coqc") is None, reason="Coq is not there: apt install coq")
COQ, FRESH, TIGHT = Coq(), Coq(fresh=True), Coq(Limits(seconds=1.0, memory=1024))
WRITTEN = Path("/tmp/luthier-was-here.out")
RIGHT = [
    "induction n; simpl; auto.",
    "Proof. intros. lia. Qed.",
    f"Theorem any_name : {LEMMA}.\nProof.\n  intros n. lia.\nQed.",
    "Lemma l : forall n : nat,\n   n + 0 = n. (* by induction *) induction n.\n"
    "- reflexivity.\n- simpl. rewrite IHn. reflexivity.\nDefined.",
    "Let me think.\n```coq\nintros. { lia. }\n```\nDone.",
    "intros; abstract lia.",
    "all: intros. 1: lia.",
    "assert (H : forall m, m + 0 = m). 2: exact H. intros. Nat.nzsimpl. reflexivity.",
    'idtac "a word. And (* more". intros. lia.',
]


@pytest.mark.parametrize("proof", RIGHT)
def test_a_right_proof_is_right(proof: str) -> None:
    assert isinstance(COQ, Checker) and COQ.available()
    assert COQ.check(Claim(LEMMA), proof).message == ""
    assert COQ.check(Claim(LEMMA), proof).score == 1.0


def test_hostile_proofs_gain_nothing() -> None:
    WRITTEN.unlink(missing_ok=True)
    assert len(HOSTILE) >= 50
    verdicts = COQ.check_many([(Claim(FALSE), proof) for proof in HOSTILE.values()])
    judged = dict(zip(HOSTILE, verdicts, strict=True))
    assert [name for name, one in judged.items() if one.judged != "wrong" or not one.message] == []
    assert not WRITTEN.exists()
    assert COQ.check(Claim(LEMMA), "intros. lia.").judged == "right", "the next proof is judged as if nothing had been"


def test_the_second_wall_stands_without_the_first() -> None:
    """Sentences go to Coq as they are, commands and all: what Coq says of the theorem is enough."""
    WRITTEN.unlink(missing_ok=True)
    unguarded, said = Coq(Limits(seconds=5.0)), {}
    for name, proof in HOSTILE.items():
        with suppress(NotAProof):  # nothing that Coq could read
            if name != "no positivity":  # it takes its time
                script = Script(Claim(FALSE), tuple(split(plain(proof))))
                said[name] = unguarded.check_scripts([script])[0]
    assert not WRITTEN.exists(), "the walls round Coq keep `Redirect` from this machine's files"
    assert said["redirect"].judged == "wrong"
    assert len(said) >= 40 and {one.judged for one in said.values()} == {"wrong"}
    for name in (
        "axiom",
        "parameter",
        "hypothesis",
        "conjecture",
        "variable with attribute",
        "forged answer to an axiom",
    ):
        assert said[name].message.startswith("it rests on Axioms:"), "Coq took the proof, and says what it rests on"
    assert all("guarded" in said[name].message for name in ("no guard", "bypassed guard"))


def test_an_axiom_that_the_header_brings_is_still_an_axiom() -> None:
    claim = Claim("forall A : Prop, A \\/ ~ A", "Require Import Classical.")
    verdict = COQ.check(claim, "intros. apply classic.")
    assert verdict.judged == "wrong" and "classic" in verdict.message
    same = [(claim, "intros. apply classic."), (Claim("True", claim.header), "exact I."), (claim, "tauto.")]
    assert [one.judged for one in COQ.check_many(same)] == ["wrong", "right", "wrong"], (
        "each by itself where not all are"
    )


@pytest.mark.parametrize("name", ENDLESS)
def test_what_does_not_end_is_wrong_and_ended(name: str) -> None:
    jobs = [(Claim(LEMMA), "intros. lia."), (Claim(LEMMA), ENDLESS[name]), (Claim(LEMMA), "now intros; lia.")]
    assert [one.judged for one in TIGHT.check_many(jobs)] == ["right", "wrong", "right"]


def test_a_worn_or_broken_session_leaves_no_process_behind() -> None:
    pool = pool_for(TIGHT.limits)
    with pytest.raises(ValueError, match="on purpose"), pool.borrowed("", None) as (session, _):
        raise ValueError("on purpose")
    assert not session.alive
    must_be_gone(session.process.pid)


def test_sessions_are_lent_to_many_threads() -> None:
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(COQ.check(Claim(LEMMA), "intros. lia.").judged)) for _ in range(4)
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert found == ["right"] * 4


def test_fresh_processes_judge_alike() -> None:
    names = ["admit", "axiom", "unguarded fix"]
    jobs = [(Claim(FALSE), HOSTILE[name]) for name in names]
    assert [one.judged for one in FRESH.check_many([*jobs, (Claim(LEMMA), RIGHT[0])])] == ["wrong"] * 3 + ["right"]
    for name, why in (("no guard", "guarded"), ("forged answer to an axiom", "it rests on")):
        raw = Script(Claim(FALSE), tuple(split(plain(HOSTILE[name]))))
        assert why in FRESH.check_scripts([raw])[0].message


def test_a_bad_statement_or_header_is_the_rows_fault_and_is_named() -> None:
    with pytest.raises(LuthierError, match=r"rows\.jsonl:3: the statement is not one that Coq takes: .*nonsense"):
        COQ.check(Claim("forall n : nonsense, n = n", where="rows.jsonl:3"), "intros. lia.")
    with pytest.raises(LuthierError, match=r"rows\.jsonl:4: the header is not one that Coq takes"):
        COQ.check(Claim("True", "Require Import Nowhere.", where="rows.jsonl:4"), "exact I.")
    with pytest.raises(LuthierError, match="not one that Coq takes"):
        FRESH.check(Claim("forall n : nonsense, n = n"), "intros. lia.")


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("intros n. lia.", ["intros n.", "lia."]),
        ("- lia.\n+ { auto. }", ["-", "lia.", "+", "{", "auto.", "}"]),
        ("rewrite Nat.add_comm. exact (x.(f) y).", ["rewrite Nat.add_comm.", "exact (x.(f) y)."]),
        ("(* a (* b *) c. *)auto.(* d *)", ["auto."]),
        ('idtac "x. y"". z". auto.', ['idtac "x. y"". z".', "auto."]),
        ("2: { auto. }", ["2: {", "auto.", "}"]),
        ("Unshelve. exact 0.", ["Unshelve.", "exact 0."]),
    ],
)
def test_sentences_are_told_apart(text: str, sentences: list[str]) -> None:
    assert tactics(text, "True") == sentences


@pytest.mark.parametrize(("text", "why"), [("intros", "full stop"), ("x" * 30_000, "characters"), ("\x00.", "0000")])
def test_what_is_no_proof_says_why(text: str, why: str) -> None:
    with pytest.raises(NotAProof, match=why):
        tactics(text, "True")
