"""Several objectives at once: their weighted sum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from torch import Tensor

from luthier.errors import LuthierError
from luthier.objectives import OBJECTIVES
from luthier.objectives.base import Objective
from luthier.objectives.credit import Credit
from luthier.objectives.rows import Rows
from luthier.objectives.shown import joined
from luthier.types import TOKEN, Needs, Reads

WEIGHT = "weight"
EXAMPLE = "sum: {dpo: {beta: 0.1}, sft: {weight: 0.2}}"


@dataclass(frozen=True)
class Sum(Objective):
    """The weighted sum of several objectives, each of them a mean over its own unit, the whole step long.

        objective: {sum: {dpo: {beta: 0.1}, sft: {weight: 0.2}}}

    A likelihood term (sft) beside one that compares or judges responses learns from the better ones alone, once each,
    normalised by their tokens. What a step shows of the responses' rewards is as the term sees them that carries a
    state, else the first one that judges responses.
    """

    of: Mapping[str, Any]
    """The objectives by name, each with its keys and its `weight` (1 unless given); `sft: 0.2` is short for the weight
    alone. Written under `of:` or straight under `sum:`."""
    needs: ClassVar[Needs] = Needs()
    rest: ClassVar[str] = "of"
    """The field that takes the keys a sum has not itself."""

    def __post_init__(self) -> None:
        """Build the terms, and take from them what the loop asks of an objective."""
        weights, built, written = [], [], {}
        for name, given in _written(self.of).items():
            keys = dict(given)
            weight = _weight(name, keys.pop(WEIGHT, 1.0))
            term = OBJECTIVES.build(name, keys)
            if isinstance(term, Sum):
                raise LuthierError("a sum cannot be a term of a sum", where="objective.sum.of", fix="write its terms")
            weights.append(weight)
            built.append(term)
            written[name] = {WEIGHT: weight, **{f.name: getattr(term, f.name) for f in fields(term)}}
        rates = [term.default_lr for term in built if term.default_lr is not None]
        for attribute, value in {
            "of": written,
            "needs": _union([term.needs for term in built]),
            "default_lr": min(rates, default=None),
            "_built": tuple(built),
            "_weights": tuple(weights),
            "_terms": tuple(
                (w * inner, term) for w, each in zip(weights, built, strict=True) for inner, term in each.terms()
            ),
        }.items():
            object.__setattr__(self, attribute, value)

    _built: ClassVar[tuple[Objective, ...]] = ()
    _weights: ClassVar[tuple[float, ...]] = ()
    _terms: ClassVar[tuple[tuple[float, Objective], ...]] = ()

    def terms(self) -> tuple[tuple[float, Objective], ...]:
        """Each term with its weight."""
        return self._terms

    def loss(self, rows: Rows) -> Tensor:
        """Not defined: terms may count in different units, so that the loop takes each by itself (`terms`)."""
        raise TypeError("a sum has no values of its own: take the losses of its terms()")

    def implicit_rewards(self, rows: Rows) -> Tensor | None:
        """The rewards of the term with a state, else of the first one that judges responses."""
        for term in sorted(self._built, key=lambda term: not term.begin()):
            implicit_N = term.implicit_rewards(rows)
            if implicit_N is not None:
                return implicit_N
        return None

    def weights(self, version: int) -> tuple[float, ...]:
        """The weights of the terms, each by that of what it is a term of."""
        return tuple(
            weight * inner
            for weight, each in zip(self._weights, self._built, strict=True)
            for inner in each.weights(version)
        )

    def rates(self, version: int) -> dict[str, float]:
        """Those of the terms."""
        return {role: rate for term in self._built for role, rate in term.rates(version).items()}

    @property
    def estimator(self) -> Credit | None:
        """That of the first term with one: all learn from the same advantages."""
        return next((term.estimator for term in self._built if term.estimator is not None), None)

    @property
    def reward_kl(self) -> float:
        """That of the terms together."""
        return sum(term.reward_kl for term in self._built)

    def next_reward_kl(self, weight: float, seen: float, responses: int) -> float:
        """By the first term that takes anything off the rewards."""
        takes = (term for term in self._built if term.reward_kl)
        return next((term.next_reward_kl(weight, seen, responses) for term in takes), weight)

    def shown(self, rows: Rows) -> Mapping[str, Tensor]:
        """What the terms show."""
        return joined(term.shown(rows) for term in self._built)

    def advice(self, good: int, bad: int) -> str | None:
        """What the authors of its first term with an advice say."""
        return next((said for term in self._built if (said := term.advice(good, bad))), None)

    def begin(self) -> dict[str, float]:
        """The states of the terms."""
        return {key: value for term in self._built for key, value in term.begin().items()}

    def updated(self, state: Mapping[str, float], implicit_N: Tensor, reward_N: Tensor) -> dict[str, float]:
        """The states of the terms after a step."""
        new = dict(state)
        for term in self._built:
            if term.begin():
                new |= term.updated(new, implicit_N, reward_N)
        return new


def _written(of: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Each term's keys, the short forms written out."""
    found: dict[str, Mapping[str, Any]] = {}
    for name, given in of.items():
        if given is None:
            given = {}
        elif isinstance(given, int | float):
            given = {WEIGHT: given}
        if not isinstance(given, Mapping):
            raise LuthierError(
                f"the term {name!r} of the sum must be a mapping of its keys, or its weight, got {given!r}",
                where="objective.sum.of",
                fix=f"write it as in `{EXAMPLE}`",
            )
        found[name] = given
    if not found:
        raise LuthierError("the sum has no terms", where="objective.sum.of", fix=f"write `{EXAMPLE}`")
    return found


def _weight(name: str, weight: Any) -> float:
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
        raise LuthierError(
            f"the weight of {name!r} in the sum must be a number above 0, got {weight!r}",
            where=f"objective.sum.of.{name}.weight",
            fix="leave the term out to do without it",
        )
    return float(weight)


def _union(all_needs: list[Needs]) -> Needs:
    """What all terms need together. Each term has its own unit; the sum's is the first one that is not the token."""
    heads: dict[str, Reads] = {}
    for role, reads in (head for needs in all_needs for head in needs.heads):
        if heads.setdefault(role, reads) != reads:
            raise LuthierError(
                "one scalar head cannot be read at the end of responses and of their steps",
                where="objective.sum.of",
                fix="train two reward models",
            )
    units = [needs.unit for needs in all_needs]
    loss_on = {needs.loss_on for needs in all_needs}
    return Needs(
        responses=max(needs.responses for needs in all_needs),
        readouts=tuple(dict.fromkeys(name for needs in all_needs for name in needs.readouts)),
        roles=tuple(dict.fromkeys(role for needs in all_needs for role in needs.roles)),
        heads=tuple(heads.items()),
        apart=tuple(dict.fromkeys(role for needs in all_needs for role in needs.apart)),
        rollouts=any(needs.rollouts for needs in all_needs),
        rewards=any(needs.rewards for needs in all_needs if needs.rollouts or not any(n.rollouts for n in all_needs)),
        dynamic=any(needs.dynamic for needs in all_needs),
        own=max(needs.own for needs in all_needs),
        again=all(needs.again for needs in all_needs),
        rivals=next((needs.rivals for needs in all_needs if needs.rivals != "self"), "self"),
        mixture=next((needs.mixture for needs in all_needs if needs.rivals == "mixture"), 0.0),
        preference=next((needs.preference for needs in all_needs if needs.preference), None),
        labels=any(needs.labels for needs in all_needs),
        kl_baseline=any(needs.kl_baseline for needs in all_needs),
        row_weights=any(needs.row_weights for needs in all_needs),
        whole_step=any(needs.whole_step for needs in all_needs),
        loss_on=loss_on.pop() if len(loss_on) == 1 else None,
        unit=next((unit for unit in units if unit != TOKEN), TOKEN),
    )
