"""Many adapters over one base: what eight of them in one batch cost, and a thousand on disk under Zipf's law.

    python benchmarks/many_adapters.py [--rows 32] [--steps 12] [--rounds 5] [--only mixed|disk]

`mixed`: batches that go on token by token without an adapter, with eight that are mixed, and by PEFT's `adapter_names`
over transformers; the three take turns in one process. `disk`: requests that come and go, by eight adapters in memory
and by a thousand of which about 64 have room, in turn. Bars: eight at 0.6 of none and 3 times PEFT; a thousand at 0.8
of eight.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import results
import torch
from environments import PEERS
from storm import adapters
from storm.plans import SKEW
from workload import model_folder

BARS = {"eight / none": 0.6, "eight / peft": 3.0, "disk / eight": 0.8}
EIGHT, ROOM = 8, 64
"""Adapters that are mixed, and those that have room in memory when there are many on disk."""
Taken = tuple[int, float, float]
"""Tokens, seconds, processor seconds."""


def timed(work: Callable[[], int]) -> Taken:
    """What one piece of work takes; it gives its tokens."""
    began, spent = time.perf_counter(), time.process_time()
    tokens = work()
    return tokens, time.perf_counter() - began, time.process_time() - spent


def opened(model: str) -> tuple[Any, Any]:
    """A base of its own, in fp32 where `dtype: auto` is that, and its tokenizer."""
    from luthier.models import load
    from luthier.recipe import Model

    policy = load(Model(name=model), train=False)
    return policy.module, policy.tokenizer


def engine_of(base: tuple[Any, Any], folder: Path, names: list[str], rows: int, room: int = 2**34) -> Any:
    """An engine over a base, with these adapters and room for so many rows."""
    from luthier.engines import LocalEngine

    engine = LocalEngine(*base, (), rows=rows, adapters=room)
    for name in names:
        engine.load_adapter(name, str(folder / name))
    return engine


# eight in one batch
def ours(engine: Any, names: list[str], given: argparse.Namespace) -> Iterator[Callable[[], int]]:
    """A batch under way, whose next tokens are drawn whenever it is asked; rows take turns with the adapters."""
    from luthier.types import Request, Sampling

    generator = np.random.default_rng(0)
    long = Sampling(max_new_tokens=given.steps * (given.rounds + 2) + 2 * given.rows)
    for row in range(given.rows):
        prompt = tuple(generator.integers(100, 40_000, given.context).tolist())
        engine.submit(Request(prompt, long, adapter=names[row % len(names)] if names else None))
    drawn = 0
    while drawn < given.rows:  # until all have been read
        drawn = sum(len(ticket.pieces) for ticket in _step(engine))
    while True:
        yield lambda: sum(len(ticket.pieces) for _ in range(given.steps) for ticket in _step(engine))


def _step(engine: Any) -> Iterator[Any]:
    for ticket in engine.step():
        yield ticket
        ticket.pieces.clear()


def peft(base: Any, folder: Path, names: list[str], given: argparse.Namespace) -> Iterator[Callable[[], int]]:
    """transformers' forward over its own cache, with an adapter's name for each row."""
    from peft import PeftModel

    module: Any = PeftModel.from_pretrained(base, folder / names[0], adapter_name=names[0])
    for name in names[1:]:
        module.load_adapter(folder / name, adapter_name=name)
    module.eval()
    generator = np.random.default_rng(0)
    prompts = [generator.integers(100, 40_000, given.context).tolist() for _ in range(given.rows)]
    state: dict[str, Any] = {"cache": None, "ids": torch.tensor(prompts)}
    whose = [names[row % len(names)] for row in range(given.rows)]

    @torch.no_grad()
    def forward() -> None:
        cache = {"past_key_values": state["cache"], "use_cache": True, "logits_to_keep": 1}
        out = module(state["ids"], adapter_names=whose, **cache)
        state.update(cache=out.past_key_values, ids=out.logits[:, -1].argmax(-1)[:, None])

    def steps() -> int:
        for _ in range(given.steps):
            forward()
        return given.rows * given.steps

    forward()
    while True:
        yield steps


def mixed(model: str, folder: Path, names: list[str], given: argparse.Namespace) -> dict[str, list[Taken]]:
    """The three in turn, in one process."""
    base, eight = opened(model), names[:EIGHT]
    beside = opened(model)  # PEFT writes into the module that it is given
    contenders = {
        "none": ours(engine_of(base, folder, [], given.rows), [], given),
        "eight": ours(engine_of(base, folder, eight, given.rows), eight, given),
        "peft": peft(beside[0], folder, eight, given),
    }
    found: dict[str, list[Taken]] = {name: [] for name in contenders}
    for turn in range(given.rounds + 1):
        for name, contender in contenders.items():
            taken = timed(next(contender))
            if turn:  # the first warms up
                found[name].append(taken)
    return found


# a thousand on disk
def traffic(engine: Any, names: list[str], given: argparse.Namespace) -> Callable[[], int]:
    """Requests that come and go, always so many under way; each begins and ends by itself, in chunks of `steps`."""
    from luthier.types import Request, Sampling

    drawn, numbers = random.Random(0), np.random.default_rng(1)
    weights = [(place + 1) ** -SKEW for place in range(len(names))]
    waiting = 2 * given.rows

    def submit() -> None:
        name = drawn.choices(names, weights)[0]
        prompt = tuple(numbers.integers(100, 40_000, given.context).tolist())
        engine.submit(Request(prompt, Sampling(max_new_tokens=drawn.randint(16, 48)), adapter=name))

    for _ in range(waiting):
        submit()

    def chunk() -> int:
        tokens = 0
        while tokens < given.rows * given.steps:
            for ticket in _step(engine):
                tokens += len(ticket.pieces)
                if not ticket.left:
                    submit()
        return tokens

    return chunk


def disk(model: str, folder: Path, names: list[str], given: argparse.Namespace) -> tuple[dict[str, list[Taken]], Any]:
    """Eight that stay in memory and many that do not, in turn; and how often one was read."""
    base = opened(model)
    size = (folder / names[0] / "adapter_model.safetensors").stat().st_size
    engines = {
        "eight": engine_of(base, folder, names[:EIGHT], given.rows),
        "disk": engine_of(base, folder, names, given.rows, room=ROOM * size),
    }
    chunks = {
        "eight": traffic(engines["eight"], names[:EIGHT], given),
        "disk": traffic(engines["disk"], names, given),
    }
    for _ in range(given.warm):
        chunks["disk"]()  # until there is no room left
    chunks["eight"]()
    read = engines["disk"]._beside.read
    found: dict[str, list[Taken]] = {name: [] for name in chunks}
    for _ in range(given.rounds):
        for name, chunk in chunks.items():
            found[name].append(timed(chunk))
    pool = engines["disk"]._beside
    tokens = sum(taken[0] for taken in found["disk"])
    reads = {"read": pool.read - read, "per_1000_tokens": 1000 * (pool.read - read) / tokens, "dropped": pool.dropped}
    return found, {**reads, "held_bytes": pool.held, "adapter_bytes": size}


def ratios(found: dict[str, list[Taken]], one: str, other: str) -> dict[str, float]:
    """How many tokens a second (of the clock, and of processor time) one has of the other's: medians of the rounds."""
    made = {}
    for place, unit in ((1, "wall"), (2, "cpu")):
        rates = [[taken[0] / taken[place] for taken in found[name]] for name in (one, other)]
        made[unit] = median(a / b for a, b in zip(*rates, strict=True))
    return made


def table(document: dict[str, Any]) -> str:
    """In words."""
    lines = ["| what | tokens/s | tokens/s of processor time |", "| --- | --- | --- |"]
    for part in ("mixed", "disk"):
        for name, taken in document.get(part, {}).items():
            wall, cpu = (median(one[0] / one[place] for one in taken) for place in (1, 2))
            lines.append(f"| {part}: {name} | {wall:.0f} | {cpu:.0f} |")
    lines += ["", "| ratio (median of rounds) | wall | processor | bar |", "| --- | --- | --- | --- |"]
    for name, ratio in document["ratios"].items():
        lines.append(f"| {name} | {ratio['wall']:.2f} | {ratio['cpu']:.2f} | {BARS[name]:.1f} |")
    if "pool" in document:
        pool = document["pool"]
        lines += [
            "",
            f"On disk: {document['adapters']} adapters of {pool['adapter_bytes'] / 2**20:.1f} MiB, room for {ROOM}; "
            f"read {pool['read']} times, {pool['per_1000_tokens']:.1f} in 1,000 tokens.",
        ]
    return "\n".join(lines) + "\n"


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--context", type=int, default=32, help="tokens of each prompt")
    parser.add_argument("--steps", type=int, default=12, help="tokens of each row in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warm", type=int, default=10, help="chunks of traffic before counting")
    parser.add_argument("--adapters", type=int, default=1000, help="on disk; 10 MB each at rank 8 in fp32")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="of the adapters' files")
    parser.add_argument("--only", choices=("mixed", "disk"))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--model", help="model folder (default: smollm2-135m-instruct, fetched)")
    parser.add_argument("--results", type=Path, default=results.FOLDER)
    return parser.parse_args()


def main() -> None:
    given = options()
    if given.threads:
        torch.set_num_threads(given.threads)
    model = model_folder(given.model)
    folder = PEERS / "work" / f"adapters-{given.dtype}"
    count = EIGHT if given.only == "mixed" else given.adapters
    names = adapters.make(folder, model, count, dtype=getattr(torch, given.dtype))
    kept = ("rows", "context", "steps", "rounds", "adapters", "dtype", "threads")
    document: dict[str, Any] = {name: getattr(given, name) for name in kept} | {"bars": BARS, "ratios": {}}
    if given.only != "disk":
        document["mixed"] = mixed(model, folder, names, given)
        for rival in ("none", "peft"):
            document["ratios"][f"eight / {rival}"] = ratios(document["mixed"], "eight", rival)
    if given.only != "mixed":
        document["disk"], document["pool"] = disk(model, folder, names, given)
        document["ratios"]["disk / eight"] = ratios(document["disk"], "disk", "eight")
    document["hardware"] = results.output_of("hardware.py")
    results.write("many-adapters", document, table(document), given.results)
    missed = [name for name, ratio in document["ratios"].items() if ratio["cpu"] < BARS[name]]
    if missed:
        sys.exit(f"below the bar by processor time: {', '.join(missed)}")


if __name__ == "__main__":
    main()
