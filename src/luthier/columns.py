"""What may be known of a row besides its tokens: each column declared once, for all the forms a row takes on its way.

Reading, truncating, storing, packing, moving to a device and what an objective sees walk over these declarations, so
that one more column is a line here and its use. This module never imports torch.

A column's values lie by its level:

    token      one array a response, as long as its ids
    response   one number a response
    step       one array a response, as long as the response has judged steps
    example    one number
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Level = Literal["token", "response", "step", "example"]
STEP_END = "step_end"
"""The column that says where judged steps end: whoever has others of steps has it."""


@dataclass(frozen=True)
class Column:
    """One column. `of` finds it in an Example; None: it is made elsewhere (while encoding, or by a step source)."""

    name: str
    level: Level
    dtype: str
    fill: float
    about: str
    of: Callable[[Any], Any] | None = None

    def values(self, given: Any, ids: Sequence[NDArray[np.int32]], ends: Any = None) -> Any:
        """`given` in the form of the level, filled for a row of these responses where it is None. `ends`: where the
        row's judged steps end, if it has some."""
        if self.level == "example":
            return self.fill if given is None else given
        if self.level == "response":
            return (self.fill,) * len(ids) if given is None else given
        if self.level == "step":
            counts = [0] * len(ids) if ends is None else [len(one) for one in ends]
            return tuple(np.full(count, self.fill, self.dtype) for count in counts) if given is None else given
        return tuple(np.full(len(one), self.fill, self.dtype) for one in ids) if given is None else given

    def numbers(self, given: Any, ids: Sequence[NDArray[np.int32]], ends: Any = None) -> NDArray[Any]:
        """The values end to end."""
        values = self.values(given, ids, ends)
        if self.level == "example":
            return np.array([values], self.dtype)
        if self.level == "response":
            return np.asarray(values, self.dtype)
        return np.concatenate([np.asarray(one, self.dtype) for one in values])

    def known(self, values: Any) -> bool:
        """Does a row's column say anything but the fill?"""
        if self.level in ("token", "step"):
            return any(len(one) and (self.level == "step" or self._differs(one)) for one in values)
        return self._differs(np.atleast_1d(values))

    def _differs(self, values: Any) -> bool:
        numbers = np.asarray(values, self.dtype)
        return bool((~np.isnan(numbers)).any() if math.isnan(self.fill) else (numbers != self.fill).any())


def _rewards(example: Any) -> Any:
    if all(response.reward is None for response in example.responses):
        return None
    return tuple(math.nan if r.reward is None else float(r.reward) for r in example.responses)


def _step_rewards(example: Any) -> Any:
    if not any(response.step_rewards for response in example.responses):
        return None
    return tuple(np.array(r.step_rewards or (), np.float32) for r in example.responses)


COLUMNS = (
    Column("reward", "response", "<f4", math.nan, "what the response is worth; above 0.5 is good", _rewards),
    Column(
        "margin", "example", "<f4", 0.0, "by how much the better response is better", lambda e: e.meta.get("margin")
    ),
    Column(STEP_END, "step", "<i4", 0, "the place of the step's last token"),
    Column("step_reward", "step", "<f4", 0.0, "the step's label", _step_rewards),
    Column("old_logp", "token", "<f4", math.nan, "log-probability under the weights that the rollout began with"),
    Column("sampler_logp", "token", "<f4", math.nan, "the same as the engine told it when the token was drawn"),
    Column("right", "response", "<f4", 0.0, "1 where the first scorer of a rollout says that the response is right"),
    Column("of_reference", "response", "<f4", 0.0, "1 where the reference drew the response, not the policy"),
    Column("advantage", "token", "<f4", 0.0, "how much better than expected the token turned out"),
    Column("old_value", "token", "<f4", 0.0, "what the critic expected from the token on, when it was drawn"),
    Column("return", "token", "<f4", 0.0, "what the critic should have expected from the token on"),
)
"""All columns, in the order they are stored."""
_BY_NAME = {column.name: column for column in COLUMNS}


def of(name: str) -> Column:
    """The declaration of a column. Raises KeyError."""
    return _BY_NAME[name]


def read(example: Any, count: int) -> dict[str, Any]:
    """What an Example of `count` encoded responses says, by column; columns that say nothing are left out."""
    found = {}
    for column in COLUMNS:
        value = None if column.of is None else column.of(example)
        if value is not None and (column.level == "example" or len(value) == count):
            found[column.name] = value
    return found


def cut(found: Mapping[str, Any], lengths: Sequence[int]) -> dict[str, Any]:
    """The columns of a row whose responses are cut to these lengths: tokens go, and steps that no longer end in it."""
    kept = dict(found)
    ends = found.get(STEP_END)
    for name, values in found.items():
        level = _BY_NAME[name].level
        if level == "token":
            kept[name] = tuple(one[:length] for one, length in zip(values, lengths, strict=True))
        elif level == "step" and ends is not None:
            whole = [np.asarray(each) < length for each, length in zip(ends, lengths, strict=True)]
            kept[name] = tuple(np.asarray(one)[mask] for one, mask in zip(values, whole, strict=True))
    return kept


def pick(found: Mapping[str, Any], responses: Sequence[int]) -> dict[str, Any]:
    """The columns of a row of which only these responses are kept."""
    return {
        name: values if _BY_NAME[name].level == "example" else tuple(values[i] for i in responses)
        for name, values in found.items()
    }
