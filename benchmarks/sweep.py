"""Find each peer's best settings: one axis after another, keeping the fastest value of each.

    python benchmarks/sweep.py TOOL [--rows 64] [--model FOLDER]

Run it on an idle machine; copy what it finds into contenders.py and its table into NOTES.md. Packing is no axis: it
changes how many rows an optimiser step sees, so the work would not be the same.
"""

from __future__ import annotations

import argparse
from typing import Any

from contenders import Contender
from sft import run
from workload import prepare

SIZES: list[dict[str, Any]] = [{"per_device_train_batch_size": size} for size in (1, 2, 4, 8, 16)]
LENGTHS: list[dict[str, Any]] = [{}, {"train_sampling_strategy": "group_by_length"}]
START: dict[str, dict[str, Any]] = {
    "trl": {"bf16": True, "gradient_checkpointing": False, "per_device_train_batch_size": 4},
    "llamafactory": {"use_cpu": True, "disable_gradient_checkpointing": True, "per_device_train_batch_size": 4},
    "unsloth": {"use_gradient_checkpointing": False, "per_device_train_batch_size": 4},
}
AXES: dict[str, list[list[dict[str, Any]]]] = {
    "trl": [
        [{"model_init_kwargs": {"dtype": dtype}, "bf16": bf16} for dtype in ("float32", "bfloat16") for bf16 in (0, 1)],
        SIZES,
        LENGTHS,
        [{}, {"padding_free": True}],
    ],
    "llamafactory": [[{}, {"bf16": True}], SIZES, LENGTHS],
    "unsloth": [
        [{}, {"bf16": True}, {"env": {"UNSLOTH_CPU_COMPILE": "1"}}],
        SIZES,
        LENGTHS,
        [{}, {"padding_free": True}],
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tool", choices=sorted(START))
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--model")
    parser.add_argument("--data")
    given = parser.parse_args()
    work = prepare(given.rows, 8, given.model, given.data)
    best, seen = START[given.tool], {}
    for axis in AXES[given.tool]:
        for value in axis:
            settings = {**best, **value}
            key = repr(sorted(settings.items()))
            if key in seen:
                continue
            env = settings.pop("env", {})
            try:
                done = run(Contender("sweep", given.tool, settings, env), work, nice=0)
            except RuntimeError as error:
                print(f"| {settings} {env} | failed: {str(error).splitlines()[-1]} | | |", flush=True)
                continue
            seen[key] = (done["seconds"], {**settings, **({"env": env} if env else {})})
            mean = sum(done["losses"]) / len(done["losses"])
            print(f"| {settings} {env} | {done['seconds']:.1f} | {done['peak_gib']:.2f} | {mean:.3f} |", flush=True)
        best = min(seen.values(), key=lambda pair: pair[0])[1]
    print(f"best: {best}")


if __name__ == "__main__":
    main()
