"""Find each peer's best settings: one axis after another, keeping the fastest value of each.

    python benchmarks/sweep.py TOOL [--pairs] [--rows 64] [--model FOLDER]

Run it on an idle machine; copy what it finds into contenders.py and its table into NOTES.md. Packing is no axis: it
changes how many rows an optimiser step sees, so the work would not be the same.
"""

from __future__ import annotations

import argparse
from typing import Any

import pairs
from contenders import Contender
from contest import run
from workload import prepare

SIZES: list[dict[str, Any]] = [{"per_device_train_batch_size": size} for size in (1, 2, 4, 8, 16)]
LENGTHS: list[dict[str, Any]] = [{}, {"train_sampling_strategy": "group_by_length"}]
TRL_DTYPES: list[dict[str, Any]] = [
    {"model_init_kwargs": {"dtype": dtype}, "bf16": bf16} for dtype in ("float32", "bfloat16") for bf16 in (0, 1)
]
START: dict[str, dict[str, Any]] = {
    "trl": {"bf16": True, "gradient_checkpointing": False},
    "llamafactory": {"use_cpu": True, "disable_gradient_checkpointing": True},
    "unsloth": {"use_gradient_checkpointing": False},
}
AXES: dict[str, dict[str, list[list[dict[str, Any]]]]] = {
    "sft": {
        "trl": [TRL_DTYPES, SIZES, LENGTHS, [{}, {"padding_free": True}]],
        "llamafactory": [[{}, {"bf16": True}], SIZES, LENGTHS],
        "unsloth": [
            [{}, {"bf16": True}, {"env": {"UNSLOTH_CPU_COMPILE": "1"}}],
            SIZES,
            LENGTHS,
            [{}, {"padding_free": True}],
        ],
    },
    "dpo": {"trl": [TRL_DTYPES, SIZES[:4]], "llamafactory": [[{}, {"bf16": True}], SIZES[:4]]},
}
"""By stage and tool. Pairs have no column by which transformers could group lengths; TRL has no `padding_free`."""
FIRST_SIZE = {"sft": 4, "dpo": 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tool", choices=sorted(START))
    parser.add_argument("--pairs", action="store_true", help="the preference workload, not SFT")
    parser.add_argument("--rows", type=int, help="default: 64, or 16 pairs")
    parser.add_argument("--model")
    parser.add_argument("--data")
    given = parser.parse_args()
    if given.pairs:
        work = pairs.demo(given.rows or 16, 8, given.model, given.data)
    else:
        work = prepare(given.rows or 64, 8, given.model, given.data)
    if given.tool not in AXES[work.stage]:
        parser.error(f"{given.tool} does not run {work.stage} here")
    best, seen = START[given.tool] | {"per_device_train_batch_size": FIRST_SIZE[work.stage]}, {}
    for axis in AXES[work.stage][given.tool]:
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
