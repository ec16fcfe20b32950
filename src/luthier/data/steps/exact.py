"""Rows that say the very same as an earlier one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from luthier.data.steps.said import answers
from luthier.data.steps.step import Columns, Reread, SetStep, Verdicts
from luthier.data.steps.tools import Tools
from luthier.types import Example


@dataclass(frozen=True)
class Exact(SetStep):
    """Leaves out rows that say the very same as an earlier one."""

    remembers: ClassVar[bool] = False

    by: Literal["row", "prompt", "answer"] = "row"
    """What is compared: all that a row says; or what is asked, or what is answered, without the white space at their
    ends."""

    def measure(self, batch: Sequence[Example], tools: Tools) -> Columns:
        if self.by == "row":
            return {}  # a row is known by what it says
        said = b"".join(hashlib.blake2b(self._said(example).encode(), digest_size=16).digest() for example in batch)
        return {"said": np.frombuffer(said, "<u8").reshape(-1, 2)}

    def _said(self, example: Example) -> str:
        if self.by == "prompt":
            return "\0".join(f"{turn.role}\0{turn.text.strip()}" for turn in example.prompt)
        return "\0".join(said.strip() for said in answers(example))

    def decide(self, columns: Columns, rows: Reread, seed: int) -> Verdicts:
        keys = np.asarray(rows.keys if self.by == "row" else columns["said"])
        order = np.lexsort((keys[:, 1], keys[:, 0]))  # stable: of equal ones the first comes first
        begins = np.ones(len(keys), np.bool_)
        begins[1:] = (keys[order[1:]] != keys[order[:-1]]).any(axis=1)
        witness = np.empty(len(keys), np.int64)
        witness[order] = order[np.maximum.accumulate(np.where(begins, np.arange(len(keys)), 0))]
        keep = witness == np.arange(len(witness))
        return Verdicts(keep, (f"the same {self.by} as an earlier one",), witness=np.where(keep, -1, witness))
