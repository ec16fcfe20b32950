"""The system on one page: each verb is a short function over a recipe or a run.

A run folder is all that passes between them, so each verb starts alone from what is on disk. Heavy imports stay inside.
"""

import logging
import os

from luthier.verbs.advising import plan
from luthier.verbs.exporting import combine, export
from luthier.verbs.judging import agrees, arena, blind, judge, page, unseal
from luthier.verbs.looking import data, explain, models, schema
from luthier.verbs.scoring import diagnose, evaluate, samples
from luthier.verbs.talking import chat, generate, serve
from luthier.verbs.training import alone, demo, run, train

__all__ = [
    "agrees",
    "alone",
    "arena",
    "blind",
    "chat",
    "combine",
    "data",
    "demo",
    "diagnose",
    "evaluate",
    "explain",
    "export",
    "generate",
    "judge",
    "models",
    "page",
    "plan",
    "run",
    "samples",
    "schema",
    "serve",
    "train",
    "unseal",
]

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # nothing phones home
# bitsandbytes warns of an optional kernel each time it is imported, and PEFT imports it wherever it is installed
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
# torch compiles a CPU matrix product for each size it meets and keeps 1,024 of them, near a megabyte each
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")
