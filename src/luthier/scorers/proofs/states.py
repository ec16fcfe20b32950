"""The states of one proof in Coq, as a tree to climb: a tactic leads from one state to the next, or is refused."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import takewhile
from types import TracebackType

from luthier.scorers.proofs.checker import Claim
from luthier.scorers.proofs.coq import Coq, pool_for
from luthier.scorers.proofs.ide import Goals, Overrun, Refused, Session
from luthier.scorers.proofs.sentences import is_tactic, whole
from luthier.scorers.proofs.sitting import begin, header_of

NAME = "luthier_search"


@dataclass(frozen=True, slots=True)
class State:
    """Where a proof stands: the tactics that led there and what is left to prove. Equal goals make equal states."""

    path: tuple[str, ...] = field(compare=False)
    goals: Goals

    @property
    def text(self) -> str:
        """The goals in focus, as a model is to read them."""
        return "\n\n".join(self.goals.focused)

    @property
    def done(self) -> bool:
        return self.goals.done

    @property
    def proof(self) -> str:
        return "\n".join(self.path)


class Climb:
    """One claim in a session lent to it: a state is reached from the nearest one above it that the session still has.

    Use as a context manager. Raises LuthierError for a claim that is not Coq.
    """

    def __init__(self, coq: Coq, claim: Claim) -> None:
        self._coq, self._claim = coq, claim
        self._lent = ExitStack()
        self.steps = 0
        """Sentences run so far."""

    def __enter__(self) -> Climb:
        self._open()
        self.root = State((), self._session.goals())
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        try:
            if fault is None:
                self._session.fresh_budget()
                self._session.back(self._start)
        finally:
            self._lent.__exit__(kind, fault, at)

    def step(self, state: State, tactic: str) -> State | None:
        """Where a tactic leads; None where Coq refuses it, it gives a goal up, takes too long or is no tactic."""
        if not is_tactic(tactic):
            return None
        try:
            self._session.fresh_budget()
            self._stand_at(state.path)
            self._run(tactic)
            goals = self._session.goals()
        except Refused:
            return None
        except Overrun:
            self._session.close()
            self._lent.close()
            self._open()
            return None
        return None if goals.given_up else State((*state.path, tactic), goals)

    def walk(self, state: State, script: str) -> list[State]:
        """The states a script leads through, as far as the first of its tactics that fails."""
        found: list[State] = []
        for tactic in whole(script):
            if tactic == "Proof." and not found:
                continue
            following = self.step(found[-1] if found else state, tactic)
            if following is None:
                break
            found.append(following)
        return found

    def _open(self) -> None:
        lent = pool_for(self._coq.limits).borrowed(header_of(self._claim), self._claim.where)
        self._session: Session
        self._session, self._start = self._lent.enter_context(lent)
        self._session.fresh_budget()
        self._numbers = [begin(self._session, self._start, self._claim, NAME)]
        self._path: tuple[str, ...] = ()

    def _stand_at(self, path: tuple[str, ...]) -> None:
        """Make `path` the way that the session has gone, keeping what it shares with the way gone last."""
        shared = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(path, self._path, strict=False))))
        if shared < len(self._path):
            self._session.back(self._numbers[shared])
            del self._numbers[shared + 1 :]
            self._path = self._path[:shared]
        for tactic in path[shared:]:
            self._run(tactic)

    def _run(self, tactic: str) -> None:
        self.steps += 1
        self._numbers.append(self._session.add(tactic, self._numbers[-1]))
        self._path = (*self._path, tactic)
