"""Steps of curation: each takes rows and gives rows. `step` says what one is; the others are theirs.

One more step is a file here and a line below; `tests/contract/test_steps.py` holds it to what all of them promise.
"""

from __future__ import annotations

from luthier.data.steps.step import Columns, Dropped, Noted, Outcome, Reread, RowStep, SetStep, Step, Verdicts
from luthier.data.steps.tools import Tools
from luthier.registry import Registry

STEPS = Registry(
    "step",
    {
        "balance": "luthier.data.selecting.balance:Balance",
        "chunk": "luthier.data.steps.chunk:Chunk",
        "clean": "luthier.data.steps.clean:Clean",
        "decontaminate": "luthier.data.steps.decontaminate:Decontaminate",
        "dedup": "luthier.data.steps.dedup:Dedup",
        "diverse": "luthier.data.selecting.diverse:Diverse",
        "exact": "luthier.data.steps.exact:Exact",
        "language": "luthier.data.steps.language:InLanguage",
        "length": "luthier.data.steps.length:Length",
        "pii": "luthier.data.steps.pii:Pii",
        "repetition": "luthier.data.steps.repetition:Repeating",
        "sample": "luthier.data.steps.sample:Sample",
        "select": "luthier.data.steps.select:Select",
        "tournament": "luthier.data.selecting.tournament:Tournament",
    },
)

__all__ = [
    "STEPS",
    "Columns",
    "Dropped",
    "Noted",
    "Outcome",
    "Reread",
    "RowStep",
    "SetStep",
    "Step",
    "Tools",
    "Verdicts",
]
