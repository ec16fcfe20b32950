"""vLLM's decoding on the CPU, by its own engine: the time of NEW more tokens of all rows.

    PYTHON benchmarks/peers/vllm_decode.py MODEL ROWS CONTEXT NEW

Prints one JSON object. Without compilation (`enforce_eager`), which a CPU run of this size does not earn back.
"""

from __future__ import annotations

import json
import os
import sys
import time

os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}


def main() -> None:
    import numpy as np
    from vllm import LLM, SamplingParams

    rows, context, new = map(int, sys.argv[2:5])
    options = {"enforce_eager": True, "max_model_len": 1024, "max_num_seqs": 64, "enable_prefix_caching": False}
    engine = LLM(sys.argv[1], dtype="bfloat16", **options)
    generator = np.random.default_rng(0)
    prompts = [{"prompt_token_ids": generator.integers(100, 40_000, context).tolist()} for _ in range(rows)]

    def seconds(count: int) -> tuple[float, float]:
        began, spent = time.perf_counter(), time.process_time()
        sampling = SamplingParams(temperature=0, max_tokens=count, ignore_eos=True)
        engine.generate(prompts, sampling, use_tqdm=False)
        return time.perf_counter() - began, time.process_time() - spent

    seconds(2)
    first, all_ = seconds(1), seconds(1 + new)
    print(
        json.dumps({
            "rows": rows,
            "tokens_per_s": rows * new / (all_[0] - first[0]),
            "tokens_per_cpu_s": rows * new / (all_[1] - first[1]),
            "prefill_per_s": rows * context / first[0],
            "prefill_per_cpu_s": rows * context / first[1],
        })
    )  # fmt: skip


if __name__ == "__main__":
    main()
