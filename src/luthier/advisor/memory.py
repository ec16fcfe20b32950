"""The most memory that a run will use, from sizes alone.

    peak = library + weights + what trains (itself or its master, the optimiser's state)
           + max(φ T ΣK + max(head, block) + head's gradient,  4 N + block)

T, S are the tokens of the heaviest micro-batch and those of them that are scored; K the bytes that a block keeps of a
token for the backward pass, summed from the lowest block that gradients go through; N how many numbers train. The first
term is the top of the backward pass, where all activations are there and no gradients; the second its end.

The constants were fitted on runs of the default model: in bf16 on 2 cores with AVX512-BF16 (r₀, c, φ, head), in fp32 on
2 cores with AVX2 (`benchmarks/predict.py --fit`; figures in docs/results.md). On GPUs nothing is fitted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from luthier.advisor.load import Laid, Load
from luthier.advisor.setup import Setup
from luthier.forward.head import BLOCK, CHUNK
from luthier.types import Needs

MIB = 2**20
LIBRARY = 510 * MIB
"""Of a process that has imported what training needs; most of it are pages of libraries."""
COMPILED = 60 * MIB
"""Matrix products that oneDNN has compiled."""
CONTEXT = 512 * MIB
"""Of a process on a GPU; not measured here."""
SLACK = 1.10
"""φ: what lies between activations and is used by nobody."""
SPREAD = 0.10
"""How far off a prediction may be where no run of the machine has narrowed it."""


@dataclass(frozen=True)
class Memory:
    """Bytes, by what takes them."""

    library: float
    weights: float
    trained: float
    """What trains, its masters and the optimiser's state."""
    activations: float
    head: float
    """The output head at work, or a block, and its gradient."""
    gradients: float
    """Where the end of the backward pass takes more than its beginning: what there is more."""

    @property
    def total(self) -> float:
        """All of it."""
        return self.library + self.weights + self.trained + self.activations + self.head + self.gradients


def most(setup: Setup, laid: Laid) -> Memory:
    """The most that a run takes: in its heaviest micro-batch, in that of its first step, in which the optimiser has no
    state yet, or in one that finds the gradients of others before it."""
    found = [peak(setup, laid.heaviest)]
    if laid.first is not None and laid.steps > 1:
        early = peak(setup, laid.first)
        found.append(replace(early, trained=early.trained - setup.state))
    if laid.later is not None:
        after = peak(setup, laid.later)
        found.append(replace(after, gradients=max(after.gradients, 4.0 * setup.trains.numbers)))
    return max(found, key=lambda one: one.total)


def peak(setup: Setup, load: Load) -> Memory:
    """The most that a run takes whose heaviest micro-batch is `load`."""
    library = CONTEXT if setup.device == "cuda" else LIBRARY + COMPILED
    shape, trains = setup.shape, setup.trains
    through = shape.blocks - trains.first
    each = kept(setup)
    if setup.checkpointing and through:
        activations = SLACK * load.tokens * (remade(setup) * through + each)
    else:
        activations = SLACK * load.tokens * each * through
    block = working(setup, load)
    own_head = shape.table * setup.number if trains.head and trains.own else 0
    top = activations + max(head(setup, load), block) + own_head
    end = 4.0 * trains.numbers + block + own_head
    if setup.optimizer == "adafactor":  # its updates find no place where activations were: they are too large
        table = shape.table if trains.head and trains.own else max(shape.width, shape.inner) * shape.width
        end = top + 4.0 * trains.numbers + UPDATES * table
    weights = setup.weights + setup.beside + (setup.weights if setup.reference == "copy" else 0)
    return Memory(library, weights, setup.stepped, activations, top - activations, max(0.0, end - top))


def kept(setup: Setup) -> float:
    """K: bytes that a block keeps of each token for the backward pass."""
    shape, b = setup.shape, setup.number
    width, queries, keys, inner = shape.width, shape.asked, shape.keys, shape.inner * shape.active
    gates = (1 + shape.gated) * inner
    attention = queries + 2 * keys + queries
    if setup.blocks_fused:
        norms = (queries + keys) if shape.head_norms else 0
        once = 4 * (2 + shape.heads) if b == 2 or setup.device == "cuda" else 4 * 2
        return b * (2 * width + attention + gates + norms + setup.trains.ranks) + once
    # the model's own layers: what autograd keeps, norms' inputs and outputs in fp32 besides where weights are narrower
    norms = 2 * width + (queries + keys if shape.head_norms else 0)
    wide = 4 * 2 * norms if b == 2 else 0
    outputs = attention - queries + gates + 2 * width
    holes = outputs * (LENGTHS if setup.trains.lengths else BESIDE if setup.trains.added else 0)
    return b * (2 * width + norms + attention + gates + 2 * inner + 2 * setup.trains.ranks + holes) + wide


BESIDE, LENGTHS = 1.76, 3.70
"""Of the outputs of a block's matrices, how many times they lie in memory besides where an adapter's are added to them
by the model's own layers: what is let go of leaves holes between what is kept. The second: under DoRA, two of them are
kept."""


def remade(setup: Setup) -> float:
    """Bytes that a block keeps of each token where the rest is made again."""
    return CHECKPOINTED * setup.number * setup.shape.width


UPDATES = 4 * 4
"""Bytes of an update that Adafactor makes of the largest matrix: squares, their factors, the quotient, the step."""
CHECKPOINTED = 2.3
"""Of a block's input, how many times it lies in memory under gradient checkpointing."""


def working(setup: Setup, load: Load) -> float:
    """Bytes that the backward pass of one block takes for itself."""
    shape, b = setup.shape, setup.number
    inner = shape.inner * shape.active
    feed_forward = load.tokens * b * (inner + 3 * shape.width)
    gradients = load.tokens * (b * (3 * shape.width + 2 * shape.asked + 2 * shape.keys) + 4 * 2 * shape.keys)
    scores = 3 * b * shape.heads * load.pairs if setup.device == "cpu" and b == 4 else 0
    return max(feed_forward, gradients + scores)


def head(setup: Setup, load: Load) -> float:
    """Bytes that the output head takes for itself."""
    shape, b = setup.shape, setup.number
    chunk = min(CHUNK, load.scored)
    if setup.trains.head:
        return (22 if b == 2 else 28) * chunk * shape.vocabulary
    whole = 3 if setup.vocabulary else 1
    return whole * (6 if b == 2 else 4) * chunk * min(BLOCK, shape.vocabulary) + (10 if b == 2 else 12) * (
        load.scored * shape.width
    )


def reads_vocabulary(needs: Needs) -> bool:
    """Does an objective read whole distributions?"""
    return any(name not in ("logp", "mean_logp") for name in needs.readouts)
