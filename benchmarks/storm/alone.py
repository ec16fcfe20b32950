"""The engine by itself, as the server's thread drives it but with nobody to tell: for each line on stdin, one round.

    python benchmarks/storm/alone.py MODEL

A line is a list of [prompt, tokens, bias]; a line with what was measured comes back (see `between`).
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Collection
from typing import Any

Moment = tuple[float, float, float]
"""The clock, processor time spent, tokens drawn."""


def between(begun: Moment, ended: Moment) -> dict[str, float]:
    """Tokens, seconds, processor seconds. Raises ValueError where no token was drawn: ask for longer answers."""
    seconds, spent, tokens = (b - a for a, b in zip(begun, ended, strict=True))
    if tokens <= 0:
        raise ValueError("the answers were never under way all at once: ask for longer ones")
    return {"tokens": tokens, "seconds": seconds, "cpu_seconds": spent}


def main() -> None:
    from luthier.data import Template
    from luthier.engines import LocalEngine
    from luthier.models import embeddings, load
    from luthier.recipe import Model
    from luthier.types import RAW, Request, Sampling, Turn

    policy = load(Model(name=sys.argv[1]), train=False)
    template = Template(policy.tokenizer, embeddings(policy.module))
    engine = LocalEngine(policy.module, policy.tokenizer, template.stop_ids)
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        tickets = []
        for number, (prompt, tokens, bias) in enumerate(asked):
            sampling = Sampling(max_new_tokens=tokens, logit_bias=tuple((int(k), v) for k, v in bias.items()))
            request = Request(tuple(template.prompt_ids([Turn(RAW, prompt)])), sampling)
            tickets.append(engine.submit(request, listen=True, place=number))
        print(json.dumps(_round(engine, tickets)), flush=True)


def _round(engine: Any, tickets: Collection[Any]) -> dict[str, float]:
    """From the moment when each answer has its first token to the moment when one of them has its last."""
    drawn: Counter[Any] = Counter()
    begun = ended = None
    while engine.busy:
        for ticket in engine.step():
            drawn[ticket] += len(ticket.pieces)
            ticket.pieces.clear()
        now = time.perf_counter(), time.process_time(), drawn.total()
        if begun is None and len(drawn) == len(tickets):
            begun = now
        if ended is None and any(not ticket.left for ticket in tickets):
            ended = now
    assert begun is not None and ended is not None
    return between(begun, ended)


if __name__ == "__main__":
    main()
