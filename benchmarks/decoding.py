"""One contender of `generate.py` in this environment: prompts are read, then all rows go on a token at a time.

    python benchmarks/decoding.py luthier|transformers MODEL ROWS CONTEXT NEW [--lora R] [--dtype bf16] [--threads 2]

Prints one JSON object: tokens a second of the median step, and of a second of processor time.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

Step = Callable[[], None]


def luthier(
    module: Any, tokenizer: Any, prompts: list[list[int]], new: int, given: argparse.Namespace
) -> Iterator[Step]:
    """The engine as it serves: scheduling, sampling and all."""
    from luthier.engines import LocalEngine
    from luthier.engines.local.scheduler import BESIDE
    from luthier.types import Request, Sampling

    engine = LocalEngine(module, tokenizer, (), weights=given.weights)
    # those whose prompts are read first go on while the others are read
    more = sum(len(prompt) for prompt in prompts) // BESIDE
    drawn: dict[str, Any] = {} if given.seed is None else {"temperature": 1.0, "seed": given.seed}
    sampling = Sampling(max_new_tokens=new + more + 2, **drawn)
    for prompt in prompts:
        engine.submit(Request(tuple(prompt), sampling))
    scheduler = engine._lanes[None].scheduler

    def read() -> None:
        while scheduler.waiting or any(row.rest > 1 for row in scheduler._running):
            engine.step()

    yield read
    while True:
        yield lambda: engine.step() and None


def transformers(
    module: Any, tokenizer: Any, prompts: list[list[int]], new: int, given: argparse.Namespace
) -> Iterator[Step]:
    """transformers' forward over its own cache."""
    state: dict[str, Any] = {}

    def forward(ids: torch.Tensor) -> None:
        with torch.no_grad():
            out = module(ids, past_key_values=state.get("cache"), use_cache=True, logits_to_keep=1)
        logits = out.logits[:, -1].float()
        chosen = logits.argmax(-1) if given.seed is None else torch.multinomial(logits.softmax(-1), 1)[:, 0]
        state.update(cache=out.past_key_values, ids=chosen[:, None])

    yield lambda: forward(torch.tensor(prompts))
    while True:
        yield lambda: forward(state["ids"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tool", choices=("luthier", "transformers"))
    parser.add_argument("model")
    for name in ("rows", "context", "new"):
        parser.add_argument(name, type=int)
    parser.add_argument("--lora", type=int, default=0)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--weights", default="own", help="how Luthier's engine reads them: own, bf16, int8")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    module: Any = AutoModelForCausalLM.from_pretrained(given.model, dtype=getattr(torch, given.dtype)).eval()
    module.requires_grad_(False)
    if given.lora:
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(r=given.lora, target_modules="all-linear", init_lora_weights=False)
        module = get_peft_model(module, config).eval()
    generator = np.random.default_rng(0)
    prompts = [generator.integers(100, 40_000, given.context).tolist() for _ in range(given.rows)]
    tool = {"luthier": luthier, "transformers": transformers}[given.tool]
    steps: list[list[float]] = []
    contender = tool(module, AutoTokenizer.from_pretrained(given.model), prompts, given.new, given)
    for _ in range(given.new + 1):
        step = next(contender)
        began, spent = time.perf_counter(), time.process_time()
        step()
        steps.append([time.perf_counter() - began, time.process_time() - spent])
    wall, cpu = (median(step[n] for step in steps[1:]) for n in (0, 1))
    tokens = given.rows * given.context
    print(
        json.dumps({
            "rows": given.rows, "tokens_per_s": given.rows / wall, "tokens_per_cpu_s": given.rows / cpu,
            "prefill_per_s": tokens / steps[0][0], "prefill_per_cpu_s": tokens / steps[0][1],
        })
    )  # fmt: skip


if __name__ == "__main__":
    main()
