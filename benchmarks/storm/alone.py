"""The engine by itself, as the server's thread drives it but with nobody to tell: for each line on stdin, one round.

    python benchmarks/storm/alone.py MODEL

A line is a list of [prompt, tokens, bias]; a line with what was measured comes back (see `Span`).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Span:
    """The tokens drawn while all answers of a round were under way, and the time and processor time they took: from the
    moment when each has its first token to the moment when the first of them has its last."""

    rows: int
    last: int
    """Tokens of an answer."""
    spent: Callable[[], float]
    """Seconds of processor time so far."""
    counts: dict[int, int]
    begun: tuple[float, float, int] | None = None
    ended: tuple[float, float, int] | None = None

    def add(self, row: int) -> None:
        """An answer has one token more."""
        self.counts[row] = self.counts.get(row, 0) + 1
        if self.begun is None and len(self.counts) == self.rows:
            self.begun = self._now()
        if self.ended is None and self.counts[row] == self.last:
            self.ended = self._now()

    def _now(self) -> tuple[float, float, int]:
        return time.perf_counter(), self.spent(), sum(self.counts.values())

    @property
    def found(self) -> dict[str, float]:
        """Tokens, seconds, processor seconds. Raises ValueError where the answers were never all under way."""
        if self.begun is None or self.ended is None or self.ended[2] <= self.begun[2]:
            raise ValueError("the answers were never under way all at once: ask for longer ones")
        seconds, spent, tokens = (b - a for a, b in zip(self.begun, self.ended, strict=True))
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
        tickets = {}
        for number, (prompt, tokens, bias) in enumerate(asked):
            sampling = Sampling(max_new_tokens=tokens, logit_bias=tuple((int(k), v) for k, v in bias.items()))
            request = Request(tuple(template.prompt_ids([Turn(RAW, prompt)])), sampling)
            tickets[engine.submit(request, listen=True, place=number)] = number
        span = Span(len(asked), asked[0][1], time.process_time, {})
        while engine.busy:
            for ticket in engine.step():
                for _ in ticket.pieces:
                    span.add(tickets[ticket])
                ticket.pieces.clear()
        print(json.dumps(span.found), flush=True)


if __name__ == "__main__":
    main()
