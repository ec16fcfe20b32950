"""The core types: everything is an Example, a prompt and n judged responses.

Zero responses is a task; one is SFT; a better and a worse one are DPO; one with a label is KTO; one with step
rewards is a process reward; n rewarded samples are GRPO. This room never imports torch.
"""

from __future__ import annotations

from luthier.types.engines import Completion, Engine, Grammar, Piece, Request, Sampling
from luthier.types.examples import RAW, Encoded, Example, Media, Response, Source, Turn
from luthier.types.needs import (
    DECIDED_STEP,
    GOOD_TOKEN,
    GROUP,
    PAIR,
    ROW,
    STEP,
    TOKEN,
    Needs,
    Preference,
    Reads,
    Unit,
    constant,
    jsd,
)
from luthier.types.seams import Format, GroupScorer, Rows, Scorer, StepSource, TokenStore, Tracker

__all__ = [
    "DECIDED_STEP",
    "GOOD_TOKEN",
    "GROUP",
    "PAIR",
    "RAW",
    "ROW",
    "STEP",
    "TOKEN",
    "Completion",
    "Encoded",
    "Engine",
    "Example",
    "Format",
    "Grammar",
    "GroupScorer",
    "Media",
    "Needs",
    "Piece",
    "Preference",
    "Reads",
    "Request",
    "Response",
    "Rows",
    "Sampling",
    "Scorer",
    "Source",
    "StepSource",
    "TokenStore",
    "Tracker",
    "Turn",
    "Unit",
    "constant",
    "jsd",
]
