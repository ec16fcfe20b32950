"""llama.cpp's own decoding, by its C interface: prompts are read, then all rows go on a token at a time, greedily.

    python benchmarks/peers/llamacpp_decode.py LIBRARIES MODEL.gguf ROWS CONTEXT NEW THREADS

LIBRARIES: the folder `bins/linux-x64` of npm's @node-llama-cpp/linux-x64. Prints one JSON object.
"""

from __future__ import annotations

import ctypes as c
import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

VOCABULARY = 49_152
BATCH = 2_048


class Settings(c.Structure):
    """llama.cpp's structures of settings are passed by value; larger than any of them."""

    _fields_ = [("bytes", c.c_uint8 * 512)]


class Batch(c.Structure):
    """llama_batch"""

    _fields_ = [
        ("count", c.c_int32),
        ("token", c.POINTER(c.c_int32)),
        ("embedding", c.c_void_p),
        ("position", c.POINTER(c.c_int32)),
        ("sequences", c.POINTER(c.c_int32)),
        ("sequence", c.POINTER(c.POINTER(c.c_int32))),
        ("logits", c.POINTER(c.c_int8)),
    ]


def library(folder: Path) -> Any:
    """libllama, with its functions' types and the processor's backend loaded."""
    c.CDLL(str(folder / "libggml-base.so"), mode=c.RTLD_GLOBAL)
    ggml = c.CDLL(str(next(folder.glob("libggml.v*.so"))), mode=c.RTLD_GLOBAL)
    llama = c.CDLL(str(next(folder.glob("libllama.v*.so"))), mode=c.RTLD_GLOBAL)
    llama.quiet = c.CFUNCTYPE(None, c.c_int, c.c_char_p, c.c_void_p)(lambda *_: None)
    llama.llama_log_set(llama.quiet, None)
    ggml.ggml_backend_load_all_from_path.argtypes = [c.c_char_p]
    ggml.ggml_backend_load_all_from_path(f"{folder}/".encode())
    llama.llama_backend_init()
    llama.llama_model_default_params.restype = llama.llama_context_default_params.restype = Settings
    llama.llama_model_load_from_file.argtypes = [c.c_char_p, Settings]
    llama.llama_init_from_model.argtypes = [c.c_void_p, Settings]
    llama.llama_model_load_from_file.restype = llama.llama_init_from_model.restype = c.c_void_p
    llama.llama_batch_init.argtypes, llama.llama_batch_init.restype = [c.c_int32] * 3, Batch
    llama.llama_decode.argtypes = [c.c_void_p, Batch]
    llama.llama_get_logits_ith.argtypes = [c.c_void_p, c.c_int32]
    llama.llama_get_logits_ith.restype = c.POINTER(c.c_float)
    return llama


def opened(llama: Any, model: str, tokens: int, rows: int, threads: int) -> Any:
    """A context for so many tokens. The settings begin with n_ctx, n_batch, n_ubatch, n_seq_max; the two numbers of
    threads are the first that say 4."""
    weights = llama.llama_model_load_from_file(model.encode(), llama.llama_model_default_params())
    settings = llama.llama_context_default_params()
    words = np.frombuffer(settings.bytes, dtype=np.int32).copy()
    place = next(place for place in range(4, 12) if words[place] == words[place + 1] == 4)
    words[[0, 1, 2, 3]] = tokens, BATCH, 512, rows
    words[[place, place + 1]] = threads
    c.memmove(settings.bytes, words.ctypes.data, words.nbytes)
    context = llama.llama_init_from_model(weights, settings)
    if not weights or not context:
        raise SystemExit(f"llama.cpp could not open {model}")
    return context


def main() -> None:
    folder, model = Path(sys.argv[1]), sys.argv[2]
    rows, before, new, threads = map(int, sys.argv[3:7])
    llama = library(folder)
    context = opened(llama, model, rows * (before + new + 64), rows, threads)
    batch = llama.llama_batch_init(BATCH, 0, 1)

    def decode(tokens: list[tuple[int, int, int, bool]]) -> None:
        batch.count = len(tokens)
        for place, (token, position, row, wanted) in enumerate(tokens):
            batch.token[place], batch.position[place], batch.logits[place] = token, position, wanted
            batch.sequences[place], batch.sequence[place][0] = 1, row
        if llama.llama_decode(context, batch):
            raise SystemExit("llama_decode failed")

    def likeliest(place: int) -> int:
        return int(np.ctypeslib.as_array(llama.llama_get_logits_ith(context, place), (VOCABULARY,)).argmax())

    generator = np.random.default_rng(0)
    began, spent = time.perf_counter(), time.process_time()
    for row in range(rows):
        ids = generator.integers(100, 40_000, before).tolist()
        decode([(token, place, row, place == before - 1) for place, token in enumerate(ids)])
    prefill = [time.perf_counter() - began, time.process_time() - spent]
    steps: list[list[float]] = []
    tokens = [5] * rows
    for step in range(new):
        began, spent = time.perf_counter(), time.process_time()
        decode([(tokens[row], before + step, row, True) for row in range(rows)])
        tokens = [likeliest(row) for row in range(rows)]
        steps.append([time.perf_counter() - began, time.process_time() - spent])
    wall, cpu = (median(step[n] for step in steps) for n in (0, 1))
    print(
        json.dumps({
            "rows": rows, "tokens_per_s": rows / wall, "tokens_per_cpu_s": rows / cpu,
            "prefill_per_s": rows * before / prefill[0], "prefill_per_cpu_s": rows * before / prefill[1],
        })
    )  # fmt: skip


if __name__ == "__main__":
    main()
