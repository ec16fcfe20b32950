"""Every benchmark, one after another, in one go: what `make bench` runs.

    python benchmarks/run.py [startup] [data] [sft] [preference] [adapters] [generate] [serve] [many_adapters]
                             [-- options of each]

Each is a script of its own with its own options (`python benchmarks/sft.py --help`) and writes
benchmarks/results/DATE-NAME.json and .md.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TRAINING = ("startup", "data", "sft", "preference", "adapters")
SERVING = ("generate", "serve", "serve_cost", "many_adapters", "lm_eval_check")
BENCHMARKS = (*TRAINING, *SERVING)


def main(arguments: list[str]) -> None:
    """Run the named benchmarks, all by default; what follows `--` is handed to each."""
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    names, options = arguments[:cut] or list(BENCHMARKS), arguments[cut + 1 :]
    unknown = sorted(set(names) - set(BENCHMARKS))
    if unknown:
        sys.exit(f"unknown benchmark: {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    for name in names:
        subprocess.run([sys.executable, str(Path(__file__).parent / f"{name}.py"), *options], check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
