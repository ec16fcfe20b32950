"""Looking for a proof tactic by tactic over Coq's own states: best-first, and RMaxTS (arXiv:2408.08152, §3).

Both ask a callable for tactics, `propose(state, n)`: an engine with a prover behind it, or a fixed list. A proposal may
be one tactic or a whole script: it is cut at its first tactic that fails, and the search goes on from the states
reached.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from luthier.scorers.proofs.checker import Claim
from luthier.scorers.proofs.coq import Coq
from luthier.scorers.proofs.states import Climb, State

Propose = Callable[[State, int], list[str]]
"""At most n ways on from a state."""
Cost = Callable[[State], float]
GAMMA = 0.99
"""Of the paper's discounted upper confidence bound."""
LEAST = 1e-2
"""Stands for a visitation of nothing, as in the paper's own code."""


@dataclass(frozen=True, slots=True)
class Found:
    """How a search ended. `proof`: the tactics, judged like any other proof; None where none was found."""

    proof: str | None
    asked: int
    """Proposals asked for."""
    states: int
    """States the search knows, that of the statement included."""


def open_goals(state: State) -> float:
    """How much is left: goals, then the length of their text. The smaller, the sooner a state is looked at."""
    return 1000.0 * (len(state.goals.focused) + len(state.goals.waiting)) + len(state.text)


def best_first(
    coq: Coq, claim: Claim, propose: Propose, *, budget: int = 64, width: int = 4, cost: Cost = open_goals
) -> Found:
    """Always go on from the state that costs least, with `width` proposals; at most `budget` of them in all."""
    with Climb(coq, claim) as climb:
        seen, asked, order = {climb.root}, 0, 0
        waiting: list[tuple[float, int, State]] = [(cost(climb.root), order, climb.root)]
        while waiting and asked < budget:
            _, _, state = heapq.heappop(waiting)
            proposals = propose(state, min(width, budget - asked))
            asked += len(proposals)
            for proposal in proposals:
                for reached in climb.walk(state, proposal):
                    if reached.done:
                        return _found(coq, claim, reached, asked, len(seen) + 1)
                    if reached not in seen:
                        seen.add(reached)
                        order += 1
                        heapq.heappush(waiting, (cost(reached), order, reached))
    return Found(None, asked, len(seen))


@dataclass
class Node:
    """A state in the tree of RMaxTS. `own` counts the times the search went on from here, `below` all through here."""

    state: State
    parent: Node | None = None
    children: dict[State, Node] = field(default_factory=dict)
    own: Discounted = field(default_factory=lambda: Discounted())
    below: Discounted = field(default_factory=lambda: Discounted())


@dataclass
class Discounted:
    """Rewards and visits of an arm, older ones weighing less: W ← γW + r, N ← γN + 1."""

    rewards: float = 0.0
    visits: float = 0.0

    def add(self, reward: float, gamma: float) -> None:
        self.rewards = gamma * self.rewards + reward
        self.visits = gamma * self.visits + 1.0

    def bound(self, total: float) -> float:
        """W / N + √(2 ln ΣN / N): the discounted upper confidence bound; with γ = 1 it is UCB1."""
        visits = max(self.visits, LEAST)
        return self.rewards / visits + math.sqrt(2.0 * math.log(max(total, 2.0)) / visits)


def rmax_ts(coq: Coq, claim: Claim, propose: Propose, *, budget: int = 64, gamma: float = GAMMA) -> Found:
    """RMaxTS: choose a state by the bound, go on from it with one proposal, and be paid 1 for reaching any new state.

    At each state one arm stands for going on from it, one for each known state below it; the highest bound is followed.
    """
    with Climb(coq, claim) as climb:
        root = Node(climb.root)
        known, asked = 1, 0
        while asked < budget:
            node = selected(root)
            proposals = propose(node.state, 1)
            if not proposals:
                break
            asked += 1
            reached, grown = node, 0
            for state in climb.walk(node.state, proposals[0]):
                if state.done:
                    return _found(coq, claim, state, asked, known + grown + 1)
                if state == reached.state:  # a tactic that changes nothing is no step in the tree
                    continue
                if state not in reached.children:
                    reached.children[state] = Node(state, reached)
                    grown += 1
                reached = reached.children[state]
            known += grown
            rewarded(node, float(grown > 0), gamma)
    return Found(None, asked, known)


def selected(root: Node) -> Node:
    """Down from the root along the highest bound, until the arm that goes on from a node itself is it."""
    node = root
    while node.children:
        arms = [child.below for child in node.children.values()]
        total = node.own.visits + sum(arm.visits for arm in arms)
        best = max(node.children.values(), key=lambda child: child.below.bound(total))
        if node.own.bound(total) >= best.below.bound(total):
            return node
        node = best
    return node


def rewarded(node: Node, reward: float, gamma: float) -> None:
    """Tell a node, and all above it, what going on from it brought."""
    node.own.add(reward, gamma)
    above: Node | None = node
    while above is not None:
        above.below.add(reward, gamma)
        above = above.parent


def _found(coq: Coq, claim: Claim, state: State, asked: int, states: int) -> Found:
    """The end of a search that ran out of goals: its proof is judged like any other."""
    right = coq.check(claim, state.proof).judged == "right"
    return Found(state.proof if right else None, asked, states)
