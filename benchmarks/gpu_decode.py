"""Decoding on one CUDA device by recorded steps, by the same model's ordinary steps and by transformers' static cache:
DATE-gpu-decode.{json,md}.

    python benchmarks/gpu_decode.py [--layers N] [--rows 1 16 64] [--context 512] [--new 64] [--limit 220] [--small]

Random weights of Llama 3.1 8B's shape, as many layers as half of the free memory holds: what is said means nothing, the
time it takes does. First come the largest differences between recorded and ordinary steps; then tokens a second, of
decoding alone. A part that would begin after `limit` seconds is left out, and said to be. Needs nothing from the
internet. On a machine without a CUDA device `--small` only tries the script.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import results
import torch
from gpu_adapters import SHAPE
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from luthier.engines import LocalEngine
from luthier.engines.local.paged import PagedReader
from luthier.engines.local.static import StaticSteps
from luthier.models.decode.step import PAGE, Run
from luthier.types import Request, Sampling

SMALL = {**SHAPE, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
LAYER_BYTES = 440 * 2**20
"""Of the shape, in bf16."""


def made(layers: int, shape: dict[str, Any], device: str) -> Any:
    """The model, on the device from the first."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=layers, tie_word_embeddings=False, **shape))
    finally:
        torch.set_default_dtype(before)
    return model.eval()


class Rows:
    """Sequences over a reader: their prompts are read when it is made, `step` brings each on by its likeliest token."""

    def __init__(self, reader: PagedReader, lengths: list[int], new: int, vocabulary: int) -> None:
        self.reader, draw = reader, torch.Generator().manual_seed(0)
        self.lengths, first, self.pages = list(lengths), 0, []
        for length in lengths:
            count = (length + new) // PAGE + 1
            self.pages.append(list(range(first, first + count)))
            first += count
        reader.grow(first)
        self.next = [0] * len(lengths)
        for n, length in enumerate(lengths):
            ids = torch.randint(3, vocabulary, (length,), generator=draw).tolist()
            self.next[n] = int(reader.read([Run(ids, 0, self.pages[n], True)]).argmax())

    def step(self, said: list[int] | None = None) -> torch.Tensor:
        """Reads the tokens chosen last, or those `said`."""
        rows = zip(said or self.next, self.lengths, self.pages, strict=True)
        logits = self.reader.read([Run([token], at, pages, True) for token, at, pages in rows])
        self.lengths = [at + 1 for at in self.lengths]
        self.next = logits.argmax(-1).tolist()
        return logits


def reader(model: Any, recorded: bool) -> PagedReader:
    """A reader with recorded steps (without CUDA: steps of the same shapes), or without."""
    found = PagedReader(model)
    cuda = next(model.parameters()).is_cuda
    found.static = StaticSteps(model, model, found._pool, record=cuda) if recorded else None
    return found


def differences(model: Any, vocabulary: int) -> dict[str, Any]:
    """Between recorded and ordinary steps that are given the same tokens, rows of unequal lengths."""
    lengths = [1, 15, 16, 17, 200, 333, 5]
    recorded, ordinary = (Rows(reader(model, way), lengths, 24, vocabulary) for way in (True, False))
    far, logprob, same, count = 0.0, 0.0, 0, 0
    for _ in range(24):
        said = list(ordinary.next)
        a, b = recorded.step(said), ordinary.step(said)
        far = max(far, float((a - b).abs().max() / b.abs().max()))
        logprob = max(logprob, float((a.log_softmax(-1) - b.log_softmax(-1)).abs().max()))
        same, count = same + sum(map(int.__eq__, recorded.next, ordinary.next)), count + len(lengths)
    static = recorded.reader.static
    assert static is not None
    return {
        "why not recorded": static.why,
        "recordings": len(static.shapes),
        "logits apart, of the largest": far,
        "logprobs apart": logprob,
        "same likeliest": f"{same} of {count}",
    }


def timed(step: Callable[[], Any], new: int, cuda: bool) -> float:
    """Seconds of the median step; the first few are not counted."""
    spent = []
    for _ in range(new):
        begun = time.perf_counter()
        step()
        if cuda:
            torch.cuda.synchronize()
        spent.append(time.perf_counter() - begun)
    return median(spent[4:])


def by_reader(model: Any, rows: int, given: argparse.Namespace, recorded: bool) -> float:
    """Tokens a second of a reader alone, the likeliest token chosen on the device."""
    one = Rows(reader(model, recorded), [given.context] * rows, given.new, model.config.vocab_size)
    return rows / timed(one.step, given.new, next(model.parameters()).is_cuda)


def by_engine(model: Any, rows: int, given: argparse.Namespace) -> float:
    """Tokens a second of the engine as it serves: recorded steps, then tokens chosen on the processor."""
    vocabulary = model.config.vocab_size
    words = Tokenizer(models.WordLevel({f"w{n}": n for n in range(vocabulary)}, unk_token="w0"))
    engine = LocalEngine(model, PreTrainedTokenizerFast(tokenizer_object=words), (), tokens=2**17)
    draw = torch.Generator().manual_seed(0)
    for _ in range(rows):
        prompt = torch.randint(3, vocabulary, (given.context,), generator=draw).tolist()
        engine.submit(Request(tuple(prompt), Sampling(max_new_tokens=given.new + rows * given.context // 64 + 8)))
    scheduler = engine._lanes[None].scheduler
    while scheduler.waiting or any(row.rest > 1 for row in scheduler._running):
        engine.step()
    return rows / timed(engine.step, given.new, next(model.parameters()).is_cuda)


def by_transformers(model: Any, rows: int, given: argparse.Namespace) -> float:
    """Tokens a second of `generate` with its static cache, which it compiles: the time of many tokens less that of
    few."""
    device = next(model.parameters()).device
    ids = torch.randint(3, model.config.vocab_size, (rows, given.context), device=device)
    keys: dict[str, Any] = {"do_sample": False, "cache_implementation": "static", "pad_token_id": 0}
    spent = {}
    for new in (8, given.new + 8, 8, given.new + 8):  # the first two compile
        begun = time.perf_counter()
        model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, min_new_tokens=new, max_length=None, **keys
        ).cpu()
        spent[new] = time.perf_counter() - begun
    return rows * given.new / (spent[given.new + 8] - spent[8])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--limit", type=float, default=220, help="seconds")
    parser.add_argument("--small", action="store_true")
    given = parser.parse_args()
    cuda = torch.cuda.is_available()
    if not cuda and not given.small:
        parser.error("this benchmark needs a CUDA device (--small only tries the script)")
    begun = time.perf_counter()
    layers = given.layers or (2 if given.small else min(32, max(1, torch.cuda.mem_get_info()[0] // 2 // LAYER_BYTES)))
    model = made(layers, SMALL if given.small else SHAPE, "cuda" if cuda else "cpu")
    device = torch.cuda.get_device_name() if cuda else "no CUDA device"
    equal = differences(model, model.config.vocab_size)
    print(device, f"{layers} layers", equal, flush=True)
    ways: dict[str, Callable[[int], float]] = {
        "recorded steps": lambda rows: by_reader(model, rows, given, True),
        "ordinary steps": lambda rows: by_reader(model, rows, given, False),
        "the engine": lambda rows: by_engine(model, rows, given),
        "transformers, static cache": lambda rows: by_transformers(model, rows, given),
    }
    runs: dict[str, dict[int, Any]] = {}
    for name, way in ways.items():
        for rows in given.rows:
            late = time.perf_counter() - begun > given.limit
            with torch.no_grad():
                found = "left out" if late else way(rows)
            runs.setdefault(name, {})[rows] = found
            print(name, rows, found, flush=True)
            if cuda:
                torch.cuda.empty_cache()
    document = {"device": device, "layers": layers, "equal": equal, "runs": runs}
    heads = " | ".join(map(str, given.rows))
    text = (
        f"{device}, {layers} layers; {equal}.\n\n| tokens/s at rows | {heads} |\n|{' --- |' * (1 + len(given.rows))}\n"
    )
    for name, run in runs.items():
        shown = " | ".join(x if isinstance(x, str) else f"{x:,.0f}" for x in run.values())
        text += f"| {name} | {shown} |\n"
    print(text)
    if cuda and not given.small:
        results.write("gpu-decode", document | {"hardware": results.output_of("hardware.py")}, text)


if __name__ == "__main__":
    main()
