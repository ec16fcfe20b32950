"""How long a run will take: what it computes, over what this machine computes in a second. A range, never a point.

    seconds of a step = F / (η R) + 9 ns · N + what each micro-batch costs by itself

F are the floating-point operations of a step, R the rate of plain matrix products, measured here once for each type and
number of threads (`calibration`), η the share of it that training reaches, N how many numbers train. η differs from
machine to machine: each run that ends here says what it was, and the range narrows (`history`).
"""

from __future__ import annotations

from dataclasses import dataclass

from luthier.advisor.load import Laid, Load
from luthier.advisor.setup import Setup

PER_NUMBER = 9e-9
"""Seconds of an optimiser's step for each number that trains."""
PER_BLOCK = 1.0e-3
"""Seconds that a block costs in each micro-batch, whatever it computes."""
PER_CODE = 1.0e-9
"""Seconds to make a number of a matrix out of its code, each time that it is multiplied with, on a processor."""
LOW, HIGH = 0.45, 0.95
"""η of fused blocks where nothing has been measured yet: 0.60 to 0.84 elsewhere, 0.58 to 0.76 in fp32 on AVX2, and room
for other machines."""
PLAIN_LOW, PLAIN_HIGH = 0.35, 0.85
"""The same of the model's own layers: 0.46 under DoRA."""


@dataclass(frozen=True)
class Work:
    """What a step takes."""

    flops: float
    codes: float
    """Numbers made of codes of few bits."""
    numbers: float
    """Stepped."""
    calls: float
    """Blocks computed forwards and backwards."""

    def seconds(self, rate: float, share: float = 1.0) -> float:
        """At `share` of `rate` operations a second."""
        extra = self.codes * PER_CODE + self.numbers * PER_NUMBER + self.calls * PER_BLOCK
        return self.flops / (rate * share) + extra


def work(setup: Setup, laid: Laid) -> Work:
    """What a step of a run takes on average."""
    load, shape, trains = laid.step, setup.shape, setup.trains
    through = shape.blocks - trains.first
    flops = _forward(setup, load)
    passes = 1.0
    if setup.checkpointing:
        flops += _blocks(setup, load, through)
        passes += through / shape.blocks
    # backwards: a product for the input of each matrix, one more for its own gradient where it trains
    flops += 2 * shape.worked * through * load.tokens + 2 * trains.matrices * load.tokens
    flops += 10 * load.pairs * shape.asked * through
    flops += 6 * trains.added * load.tokens
    flops += (6 if trains.head else 2) * shape.vocabulary * shape.width * load.scored
    passes += through / shape.blocks
    if setup.reference in ("off", "copy", "second"):
        flops += _forward(setup, load)
        passes += 1
    flops += setup.evaluated * _forward(setup, load)
    passes += setup.evaluated
    inside = shape.blocks * shape.matrices
    codes = inside * passes * laid.micro if setup.quantize and setup.device == "cpu" else 0.0
    return Work(flops, codes, trains.numbers, passes * shape.blocks * laid.micro)


def _forward(setup: Setup, load: Load) -> float:
    shape = setup.shape
    return _blocks(setup, load, shape.blocks) + 2 * shape.vocabulary * shape.width * load.scored


def _blocks(setup: Setup, load: Load, count: int) -> float:
    return count * (2 * setup.shape.worked * load.tokens + 4 * load.pairs * setup.shape.asked)
