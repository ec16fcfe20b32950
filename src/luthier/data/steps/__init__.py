"""Steps of curation: each takes rows and gives rows. `step` says what one is; the others are theirs.

One more step is a file here and a line below; `tests/contract/test_steps.py` holds it to what all of them promise.
"""

from __future__ import annotations

from luthier.data.steps.step import Columns, Dropped, MakeStep, Noted, Outcome, Reread, RowStep, SetStep, Step, Verdicts
from luthier.data.steps.tools import Tools
from luthier.registry import Registry

STEPS = Registry(
    "step",
    {
        "backtranslate": "luthier.data.steps.making.backtranslate:Backtranslate",
        "balance": "luthier.data.selecting.balance:Balance",
        "chunk": "luthier.data.steps.chunk:Chunk",
        "clean": "luthier.data.steps.texts.clean:Clean",
        "decontaminate": "luthier.data.steps.decontaminate:Decontaminate",
        "dedup": "luthier.data.steps.dedup:Dedup",
        "evolve": "luthier.data.steps.making.evolve:Evolve",
        "diverse": "luthier.data.selecting.diverse:Diverse",
        "exact": "luthier.data.steps.exact:Exact",
        "language": "luthier.data.steps.texts.language:InLanguage",
        "length": "luthier.data.steps.length:Length",
        "pairs": "luthier.data.steps.making.pairs:Pairs",
        "pii": "luthier.data.steps.texts.pii:Pii",
        "questions": "luthier.data.steps.making.questions:Questions",
        "repetition": "luthier.data.steps.texts.repetition:Repeating",
        "rewrite": "luthier.data.steps.making.rewrite:Rewrite",
        "roleplay": "luthier.data.steps.making.roleplay:Roleplay",
        "round_trip": "luthier.data.steps.making.rewrite:RoundTrip",
        "sample": "luthier.data.steps.sample:Sample",
        "select": "luthier.data.steps.select:Select",
        "self_instruct": "luthier.data.steps.making.self_instruct:SelfInstruct",
        "synonyms": "luthier.data.steps.making.synonyms:Synonyms",
        "tournament": "luthier.data.selecting.tournament:Tournament",
    },
)

__all__ = [
    "STEPS",
    "Columns",
    "Dropped",
    "MakeStep",
    "Noted",
    "Outcome",
    "Reread",
    "RowStep",
    "SetStep",
    "Step",
    "Tools",
    "Verdicts",
]
