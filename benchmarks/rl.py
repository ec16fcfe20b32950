"""Does learning from what the model says teach what its papers say? Runs of minutes on a CPU, three seeds each.

    python benchmarks/rl.py [sums first larger orders teacher preferred theorems] [--seeds 0 1 2] [--at-once 2]

    sums       running sums modulo 10 of 14 digits, of which the last alone pays: GRPO, DAPO, PPO, VAPO from one model
               that was half taught by likelihood. At equal steps, and DAPO at as many drawn tokens as GRPO, too.
    first      of 36 sums the first alone pays: what a critic does with 35 tokens of no account. PPO with
               lambda 0.95 and 1, VAPO, GRPO.
    larger     the default model with LoRA: which of two numbers is larger, as JSON. GRPO, 30 steps of 16 x 8 answers.
    orders     the demo's orders, by GRPO from a default model that likelihood has half taught them.
    teacher    a small model learns running sums from a larger one that knows them: by what it says itself, and by fixed
               answers.
    preferred  the default model by PPO against a reward model that learnt from people's preferences.
    theorems   expert iteration: proofs that Coq finds right are learnt, and there are more of them the next time.

One learning rate serves all methods of a task; what was tried stands with each task, in learning/. Each run is a
`luthier train` of a recipe (or a `luthier run`), in a process and on a thread of its own. What is done is not done
again: remove .peers/work/rl for that.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import results
from learning import larger, orders, preferred, sums, teacher, theorems

Task = Callable[[Sequence[int], int], tuple[dict[str, Any], str]]
"""From seeds, and how many runs go side by side, to what is kept and what is told."""
TASKS: Mapping[str, Task] = {
    "sums": sums.last,
    "first": sums.first,
    "larger": larger.result,
    "orders": orders.result,
    "teacher": teacher.result,
    "preferred": preferred.result,
    "theorems": theorems.result,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=list(TASKS), metavar="task", help=", ".join(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--at-once", type=int, default=2, help="runs side by side, a thread each")
    parser.add_argument("--results", type=Path, default=results.FOLDER)
    given = parser.parse_args()
    if unknown := set(given.tasks) - set(TASKS):
        parser.error(f"there is no task {', '.join(sorted(unknown))}; there are {', '.join(TASKS)}")
    for name in given.tasks:
        document, text = TASKS[name](given.seeds, given.at_once)
        about = {"hardware": results.output_of("hardware.py"), "task": name, "seeds": given.seeds}
        results.write(f"rl-{name}", {**about, **document}, text, given.results)


if __name__ == "__main__":
    main()
