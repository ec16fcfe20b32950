"""Search over Coq's states finds what whole proofs of the same tactics do not; the bound and the rewards by hand."""

import math
import random
import shutil

import pytest

from luthier.scorers.proofs.checker import Claim
from luthier.scorers.proofs.coq import Coq
from luthier.scorers.proofs.ide import Goals
from luthier.scorers.proofs.launch import Limits
from luthier.scorers.proofs.search import Discounted, Found, Node, best_first, rewarded, rmax_ts, selected
from luthier.scorers.proofs.states import Climb, State

coq_there = pytest.mark.skipif(shutil.which("coqc") is None, reason="Coq is not there: apt install coq")
COQ = Coq()
TACTICS = ["intros.", "induction n.", "simpl.", "reflexivity.", "rewrite IHn.", "split."]
STATEMENTS = ["forall n : nat, n + 0 = n", "forall n m : nat, n + S m = S (n + m)"]
BUDGET = 300


@coq_there
@pytest.mark.parametrize("statement", STATEMENTS)
def test_both_searches_prove_what_whole_proofs_of_the_same_tactics_do_not(statement: str) -> None:
    """As many whole proofs, of several tactics each, as the searches ask for tactics."""
    claim, rng = Claim(statement), random.Random(1)
    first = best_first(COQ, claim, lambda state, n: TACTICS[:n], budget=BUDGET, width=len(TACTICS))
    drawn = rmax_ts(COQ, claim, lambda state, n: rng.sample(TACTICS, n), budget=BUDGET)
    for found in (first, drawn):
        assert found.proof and COQ.check(claim, found.proof).judged == "right"
        assert found.asked <= BUDGET and found.states > 2
    scripts = ["\n".join(rng.choices(TACTICS, k=rng.randint(4, 8))) for _ in range(BUDGET)]
    assert not any(one.score for one in COQ.check_many([(claim, script) for script in scripts]))


@coq_there
def test_a_script_is_cut_at_its_first_failure_and_taken_up_again() -> None:
    with Climb(COQ, Claim("forall n m : nat, n + m = m + n")) as climb:
        reached = climb.walk(climb.root, "Proof. intros n m. simpl. rewrite nonsense. lia.")
        assert [one.path for one in reached] == [("intros n m.",), ("intros n m.", "simpl.")]
        assert reached[0].text == "n, m : nat\n⊢ n + m = m + n" and reached[0] == reached[1]
        assert climb.walk(reached[0], "Axiom a : False. lia.") == [] and climb.step(reached[0], "admit.") is None
        other = climb.step(climb.root, "intros a.")
        assert other is not None and other != reached[0]
        ran = climb.steps
        done = climb.step(reached[1], "lia.")
        assert done is not None and done.done and climb.steps == ran + 3, "back at the root: two again, one more"
        again = climb.step(reached[1], "ring.")
        assert again is not None and climb.steps == ran + 4, "from the state it still has"


@coq_there
def test_a_tactic_that_does_not_end_costs_its_session_not_the_search() -> None:
    tight = Coq(Limits(seconds=1.0))
    with Climb(tight, Claim("1 + 1 = 2")) as climb:
        assert climb.step(climb.root, "repeat (assert True by exact I).") is None
        done = climb.step(climb.root, "reflexivity.")
        assert done is not None and done.done
    assert rmax_ts(tight, Claim("1 + 1 = 2"), lambda state, n: []) == Found(None, 0, 1)
    one = best_first(tight, Claim("True"), lambda state, n: ["exact I."])
    assert one == Found("exact I.", 1, 2)


def test_the_bound_is_the_papers_and_ucb1_without_discount() -> None:
    arm = Discounted()
    for reward in (1.0, 0.0, 1.0):
        arm.add(reward, 0.5)
    assert (arm.rewards, arm.visits) == (1.25, 1.75)  # 1 → 1/2, 0 → 1/4 + 1; 1 → 3/2 → 7/4
    assert arm.bound(7.0) == pytest.approx(1.25 / 1.75 + math.sqrt(2 * math.log(7) / 1.75))
    plain = Discounted()
    for reward in (1.0, 0.0, 1.0):
        plain.add(reward, 1.0)
    assert plain.bound(10.0) == pytest.approx(2 / 3 + math.sqrt(2 * math.log(10) / 3))


def test_the_highest_bound_is_followed_and_all_above_are_told() -> None:
    root = Node(State((), Goals(("a",))))
    below = Node(State(("x.",), Goals(("b",))), root)
    root.children[below.state] = below
    rewarded(root, 1.0, 1.0)
    assert selected(root) is below, "what was never tried comes first"
    for _ in range(3):
        rewarded(below, 0.0, 1.0)
    assert (below.own.visits, below.below.visits, root.below.visits, root.own.visits) == (3.0, 3.0, 4.0, 1.0)
    assert selected(root) is root  # 1 + √(2 ln 4) against √(2 ln 4 / 3)
