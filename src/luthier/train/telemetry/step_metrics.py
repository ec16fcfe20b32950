"""What a step shows of the rows' worth: rewards of better and worse responses, their log-probabilities and lengths.

The sums of each micro-batch, still on the device, may come from other processes; `take` adds them up in the order of
the step and reads them once.

Shape suffixes: N = rows, P = pairs, S = scored tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from luthier.objectives import shown as inside
from luthier.objectives.rows import Rows

NUMBERS = ("reward", "logp", "length")
"""What is averaged over the better and the worse responses."""
INSIDE = "inside."
"""Before the names of what the objective shows of itself (`luthier.objectives.shown`)."""
SUMS = (
    "pairs",
    "right",
    "good",
    "bad",
    "kl",
    "tokens",
    *(f"{n}_{side}" for n in NUMBERS for side in ("better", "worse")),
    *(INSIDE + name for name in (*inside.SUMS, *inside.MAXIMA)),
)
"""All that a micro-batch may show."""


class Shown:
    """The sums of one micro-batch."""

    def __init__(self, rows: Rows, implicit_N: Tensor, *, words: bool = True) -> None:
        """Rows without a score do not count. `words`: do the rows hold log-probabilities?"""
        assert rows.reward_N is not None
        self.sums: dict[str, Tensor] = {}
        self._log_ratio(rows)
        values = {"reward": implicit_N, "length": rows.length_N}
        if words:
            values["logp"] = rows.total(rows.logp_S.detach())
        if rows.better_P is not None and rows.worse_P is not None and len(rows.better_P):
            self._sum("pairs", torch.ones_like(rows.better_P, dtype=torch.float32))
            for name, value_N in values.items():
                self._sum(f"{name}_better", value_N[rows.better_P])
                self._sum(f"{name}_worse", value_N[rows.worse_P])
            margin_P = implicit_N[rows.better_P] - implicit_N[rows.worse_P]
            self._sum("right", (margin_P > 0).float() + 0.5 * (margin_P == 0).float())
            return
        for name, chosen_N in (("good", rows.reward_N > 0.5), ("bad", rows.reward_N <= 0.5)):
            self._sum(name, chosen_N.float())
            for what, value_N in values.items():
                self._sum(f"{what}_{'better' if name == 'good' else 'worse'}", value_N[chosen_N])

    def _log_ratio(self, rows: Rows) -> None:
        if rows.ref_S is not None:
            apart_S = rows.ref_S - rows.logp_S.detach()
            self._sum("kl", apart_S.exp() - 1 - apart_S)
            self._sum("tokens", torch.ones_like(apart_S))

    def _sum(self, name: str, values: Any) -> None:
        self.sums[name] = values.sum().float()


class StepMetrics:
    """Sums over one optimiser step."""

    def __init__(self) -> None:
        self._shown: list[Mapping[str, Tensor]] = []

    def add(self, shown: Sequence[Mapping[str, Tensor]]) -> None:
        """The sums of further micro-batches."""
        self._shown.extend(shown)

    def take(self) -> dict[str, float]:
        """Means over the step; {} where nothing was judged, and nothing shown.

        `kl` estimates KL(policy, reference) a token on the data's tokens by exp(d) - 1 - d, d = log ref - log policy
        (never negative; exact only for tokens that the policy itself wrote).
        """
        sums: dict[str, Tensor] = {}
        for shown in self._shown:
            for name, value in shown.items():
                if name not in sums:
                    sums[name] = value
                elif name.removeprefix(INSIDE) in inside.MAXIMA:
                    sums[name] = torch.maximum(sums[name], value)
                else:
                    sums[name] = sums[name] + value
        if not sums:
            return {}
        names = list(sums)
        numbers = torch.stack([sums[name].double() for name in names]).tolist()
        every = dict(zip(names, numbers, strict=True))
        own = {name.removeprefix(INSIDE): value for name, value in every.items() if name.startswith(INSIDE)}
        found = {name: value for name, value in every.items() if not name.startswith(INSIDE)}
        return {**self._judged(found), **inside.means(own)}

    @staticmethod
    def _judged(found: Mapping[str, float]) -> dict[str, float]:
        """Of the better and the worse responses."""
        better = found.get("pairs", found.get("good", 0.0))
        worse = found.get("pairs", found.get("bad", 0.0))
        means: dict[str, float] = {}
        for side, count in (("better", better), ("worse", worse)):
            if count:
                means |= {name: found[name] / count for what in NUMBERS if (name := f"{what}_{side}") in found}
        if "reward_better" in means and "reward_worse" in means:
            means["margin"] = means["reward_better"] - means["reward_worse"]
        if found.get("pairs"):
            means["accuracy"] = found["right"] / found["pairs"]
        elif better + worse:
            means["good"] = better / (better + worse)
        if found.get("tokens"):
            means["kl"] = found["kl"] / found["tokens"]
        return means
