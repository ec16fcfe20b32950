"""Columns that rows keep beside what they say: what a step goes by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from luthier.types import Example


def kept(example: Example, names: Sequence[str], ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Example:
    """The example with these columns as `meta`, by the file's names or ours; what its shape keeps comes first."""
    if not names:
        return example
    there = {name: _plain(theirs[name] if name in theirs else ours[name]) for name in names if name in {*theirs, *ours}}
    return replace(example, meta={**there, **example.meta}) if there else example


def _plain(value: Any) -> Any:
    """As JSON can say it: dates, for one, as text."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return value if value is None or isinstance(value, str | int | float | list | tuple | dict) else str(value)


__all__ = ["kept"]
