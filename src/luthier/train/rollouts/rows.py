"""From judged answers to rows: credit over whole groups, then a row a group, its prompt shared, its columns filled.

What trains is what was drawn, token by token, and the stop token with it; nothing is tokenised again.

Shape suffixes: P = tokens of a prompt, T = sampled tokens of one answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier import columns
from luthier.objectives.credit import Credit, Judged, Worth
from luthier.train.rollouts.drawn import Floats, Group
from luthier.types import GROUP, PAIR, Encoded, Needs


@dataclass(frozen=True)
class Computed:
    """Numbers of each token of each answer of each group, by the weights that the rollout began with."""

    old_logp: Sequence[Sequence[Floats]] | None = None
    reference: Sequence[Sequence[Floats]] | None = None
    values: Sequence[Sequence[Floats]] | None = None


def bare(group: Group) -> Encoded:
    """The group's prompt and answers, with how likely the engine found them; nothing of what they are worth."""
    prompt = np.array(group.prompt.ids, np.int32)
    return Encoded(
        ids=tuple(np.concatenate([prompt, np.array(answer.ids, np.int32)]) for answer in group.answers),
        weights=tuple(_behind(prompt, np.ones(len(answer.ids), np.float32), 0.0) for answer in group.answers),
        shared=len(prompt) if len(group.answers) > 1 else 0,
        columns={"sampler_logp": _beside(group, "sampler_logp", [answer.logp_T for answer in group.answers])},
        source=group.prompt.example.source,
    )


def credited(groups: Sequence[Group], credit: Credit, computed: Computed, reward_kl: float = 0.0) -> list[list[Worth]]:
    """What each token of each answer was worth. `reward_kl`: so much of each token's log-ratio from the reference is
    taken off its reward."""
    judged = []
    for g, group in enumerate(groups):
        some = []
        for i, (answer, reward) in enumerate(zip(group.answers, group.rewards, strict=True)):
            penalty_T = None
            if reward_kl:
                assert computed.old_logp is not None and computed.reference is not None
                apart_T = computed.old_logp[g][i].astype(np.float64) - computed.reference[g][i]
                penalty_T = -reward_kl * apart_T
            values_T = None if computed.values is None else computed.values[g][i].astype(np.float64)
            some.append(Judged(reward, len(answer.ids), penalty_T, values_T, answer.cut))
        judged.append(some)
    return credit(judged)


def row(group: Group, number: int, worth: Sequence[Worth] | None, computed: Computed) -> Encoded:
    """The group, which is the rollout's `number`-th, with all that is known of it."""
    made = bare(group)
    known: dict[str, Any] = {**made.columns, "reward": tuple(group.rewards)}
    if any(group.right):
        known["right"] = tuple(float(one or False) for one in group.right)
    if group.rivals:
        known["of_reference"] = tuple(float(i >= len(group.answers) - group.rivals) for i in range(len(group.answers)))
    tokens: dict[str, Sequence[NDArray[Any]]] = {}
    if worth is not None:
        tokens["advantage"] = [one.advantage_T for one in worth]
        if all(one.return_T is not None for one in worth):
            tokens["return"] = [one.return_T for one in worth if one.return_T is not None]
    if computed.old_logp is not None:
        tokens["old_logp"] = computed.old_logp[number]
    if computed.values is not None:
        tokens["old_value"] = computed.values[number]
    known |= {name: _beside(group, name, values) for name, values in tokens.items()}
    return replace(made, columns=known)


def split(made: Encoded, needs: Needs, budget: int) -> list[Encoded]:
    """The row in parts of at most `budget` computed tokens, where its answers need not lie beside one another; the
    prompt is computed once in each. Where rivals are another policy's, each answer beside its own rival."""
    if needs.rivals == "reference":
        half = len(made.ids) // 2
        return [_part(made, (i, half + i)) for i in range(half)]
    together = needs.responses > 1 and needs.unit in (PAIR, GROUP)
    if together or len(made.ids) == 1:
        return [made]
    parts: list[list[int]] = [[]]
    used = made.shared
    for i, ids in enumerate(made.ids):
        size = len(ids) - made.shared
        if parts[-1] and used + size > budget:
            parts.append([])
            used = made.shared
        parts[-1].append(i)
        used += size
    return [made] if len(parts) == 1 else [_part(made, part) for part in parts]


def _part(made: Encoded, chosen: Sequence[int]) -> Encoded:
    return replace(
        made,
        ids=tuple(made.ids[i] for i in chosen),
        weights=tuple(made.weights[i] for i in chosen),
        shared=made.shared if len(chosen) > 1 else 0,
        columns=columns.pick(made.columns, chosen),
    )


def differ(rewards: Sequence[float]) -> bool:
    """Is one of these better than another?"""
    known = [reward for reward in rewards if not math.isnan(reward)]
    return bool(known) and max(known) > min(known)


def pays(made: Encoded) -> bool:
    """Has any token of the row an advantage? (Rows with the data's own answers have none.)"""
    return any(np.any(one_T != 0) for one_T in made.columns.get("advantage", ()))


def advantage_of(worth: Worth | None) -> float | None:
    """The mean advantage of an answer's tokens, for people."""
    return None if worth is None or not len(worth.advantage_T) else float(np.mean(worth.advantage_T))


def _beside(group: Group, name: str, values: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], ...]:
    column = columns.of(name)
    prompt = np.array(group.prompt.ids, np.int32)
    return tuple(_behind(prompt, np.asarray(value_T, column.dtype), column.fill) for value_T in values)


def _behind(prompt: NDArray[np.int32], value_T: NDArray[Any], fill: float) -> NDArray[Any]:
    """A value a token of the answer, behind a prompt of which nothing is known."""
    return np.concatenate([np.full(len(prompt), fill, value_T.dtype), value_T])
