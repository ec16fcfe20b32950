"""Do clean + dedup + select help? Alpaca with four tenths of its rows spoilt, the default model with LoRA.

    python benchmarks/curating/noise.py [--rows 512] [--steps 20] [--seeds 0 1 2] [--minutes 11]

What is planted stands in spoiling.py, what trains and why in arms.py. Each arm is a recipe of `luthier train` with the
steps in it; how much of what was planted is left after each step is read from `luthier curate`. All arms train for the
same number of steps of 8 rows. Scored are rows of Alpaca that were drawn first and are in no arm (`decontaminate` has
looked for them), rows of self-instruct's users (another hand), and what is answered in words.

What is done is not done again (.peers/work/noise): call it until it says that all is done; --minutes begins no further
run after so long. Then the results are written.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import arms
import results
import spoiling
import told
import workload
import yaml
from arms import Counts, Data
from environments import PEERS
from learning import runs

HOME = PEERS / "work" / "noise"
ANSWER, QUESTION = (5, 50), 30
"""Words of an answer, least and most, and of a question at most: short rows, for three seeds in an hour of one core."""
HELD_OUT, OTHERS = 96, 48
STORIES = "data/tinystories-sample/b/tinystories.txt"
USERS = "data/self-instruct/human_eval/user_oriented_instructions.jsonl"


def short(rows: Sequence[dict[str, str]]) -> list[dict[str, Any]]:
    """Those that are short and whole, as messages, in an order of chance."""
    least, most = ANSWER
    drawn = random.Random(0).sample(rows, len(rows))
    fit = (
        row
        for row in drawn
        if least <= len(row["output"].split()) <= most
        and len(f"{row['instruction']} {row['input']}".split()) <= QUESTION
        and "<noinput>" not in row["input"].lower()
    )
    return [workload.messages(row) for row in fit]


def users() -> list[dict[str, str]]:
    """Tasks that people wrote, with their answers (arXiv:2212.10560, the user-oriented ones)."""
    lines = (workload.shared() / USERS).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [{"instruction": row["instruction"], **row["instances"][0]} for row in rows]


def prepared(count: int) -> tuple[Data, list[spoiling.Row]]:
    """The files, written where they are not there yet, and the rows of the pool with what is wrong with them."""
    home = HOME / f"{count}"
    data = Data(*(str(home / f"{name}.jsonl") for name in ("pool", "unspoilt", "held-out", "others")))
    own = count - round(spoiling.SHARES["copy"] * count)
    candidates = short(workload.alpaca(None))[: HELD_OUT + own + own // 8]
    there(data.held_out, candidates[:HELD_OUT])
    there(data.others, short(users())[:OTHERS])
    drawn = there(str(home / "drawn.jsonl"), candidates[HELD_OUT:])
    free = curated(home / "free.jsonl", drawn, [{"decontaminate": {"against": [data.held_out, data.others]}}])
    rows = [{"messages": row["messages"]} for row in free][:own]
    stories = [one for one in (workload.shared() / STORIES).read_text(encoding="utf-8").split("\n\n") if len(one) > 300]
    pool = spoiling.pool(rows, stories, count)
    there(data.unspoilt, rows)
    there(data.pool, [row.messages for row in pool])
    return data, pool


def there(path: str, rows: Sequence[dict[str, Any]]) -> str:
    """The file with these rows, left alone where it has them: another run may be reading it."""
    beside = f"{path}.new"
    runs.write(Path(beside), rows)
    if Path(path).exists() and Path(path).read_bytes() == Path(beside).read_bytes():
        Path(beside).unlink()
    else:
        Path(beside).rename(path)
    return path


def curated(out: Path, pool: str, steps: arms.Steps) -> list[dict[str, Any]]:
    """What `luthier curate` leaves of the rows, each with its source."""
    path = out.with_suffix(".yaml")
    text = yaml.safe_dump({"model": arms.MODEL, "data": pool, "steps": steps})
    if not (out.exists() and path.exists() and path.read_text(encoding="utf-8") == text):
        path.write_text(text, encoding="utf-8")
        runs.luthier(out.with_suffix(".log"), "curate", str(path), "--out", str(out), "--processes", "1")
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def counted(data: Data, pool: Sequence[spoiling.Row]) -> Counts:
    """How many rows the arms have."""
    likely = curated(folder(data, "sets") / "curated.jsonl", data.pool, arms.steps(arms.CURATED, Counts(1, 1)))
    return Counts(len(likely), len(pool) // 10)


def looked_at(data: Data, pool: Sequence[spoiling.Row], counts: Counts) -> list[dict[str, Any]]:
    """Of each set of rows what is left of what was spoiling."""
    found = []
    for number, (name, steps) in enumerate(arms.sets(counts).items()):
        out = folder(data, "sets") / f"{number}.jsonl"
        rows = curated(out, data.pool, steps or [{"length": {"min": 0}}])
        left = {row["source"][1] - 1: row["messages"][-1]["content"] for row in rows}
        words = fmean(len(answer.split()) for answer in left.values())
        found.append({"set": name, "rows": len(left), "words": words, "bad": spoiling.bad(pool, left)})
    return found


def folder(data: Data, name: str) -> Path:
    """One beside the rows."""
    made = Path(data.pool).parent / name
    made.mkdir(exist_ok=True)
    return made


def trained(recipe: dict[str, Any]) -> bool:
    """Is there a run of this very recipe that has ended?"""
    output = Path(recipe["output"])
    path = output.parent / f"{output.name}.yaml"
    same = path.exists() and path.read_text(encoding="utf-8") == yaml.safe_dump(recipe)
    return same and (output / "summary.json").exists()


def read(recipe: dict[str, Any]) -> dict[str, Any]:
    """What a run's folder says: scores as its summary has them, and of each row its score, the same rows in order.
    Perplexities of rows are told in nats a token."""
    output = Path(recipe["output"])
    summary = json.loads((output / "summary.json").read_text(encoding="utf-8"))
    rows: dict[str, dict[str, list[float]]] = {}
    for line in (output / "samples.jsonl").read_text(encoding="utf-8").splitlines():
        sample = json.loads(line)
        for system, answer in sample["systems"].items():
            (score,) = answer["scores"].values()
            value = score if sample["task"] == arms.WORDS else math.log(score)
            rows.setdefault(system, {}).setdefault(sample["task"], []).append(value)
    scores = {name: {**task["scores"][0]["systems"]} for name, task in summary["scores"].items()}
    cut = summary["scores"][arms.WORDS]["cut"]
    return {"tokens": summary["tokens"], "seconds": summary["seconds"], "scores": scores, "cut": cut, "rows": rows}


def recipes(
    data: Data, counts: Counts, seeds: Sequence[int], length: int, some: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """All of some arms, one seed after the other."""
    home = folder(data, f"steps-{length}")
    for seed in seeds:
        for arm in some:
            output = home / f"{arm.replace(' ', '_').replace(chr(39), '')}-{seed}"
            yield arm, arms.recipe(arm, data, counts, seed, length, output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=512, help="of the pool")
    parser.add_argument("--steps", type=int, default=20, help="of each arm")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no run after so many")
    parser.add_argument("--parts", action="store_true", help="also the arms that say how much each part does")
    parser.add_argument("--now", action="store_true", help="train nothing, write what is done")
    parser.add_argument("--results", type=Path, default=results.FOLDER)
    given = parser.parse_args()
    until = time.monotonic() + 60 * given.minutes
    data, pool = prepared(given.rows)
    counts = counted(data, pool)
    some = (*arms.ARMS, *(arms.PARTS if given.parts else ()))
    wanted = list(recipes(data, counts, given.seeds, given.steps, some))
    for number, (arm, recipe) in enumerate(wanted, 1):
        if given.now or trained(recipe):
            continue
        if time.monotonic() > until:
            print(f"{number - 1} of {len(wanted)} runs are done: call it again", flush=True)
            return
        began = time.monotonic()
        runs.ran(recipe)
        print(f"{number} of {len(wanted)}: {arm}, seed {recipe['seed']}, {time.monotonic() - began:.0f} s", flush=True)
    done: dict[str, list[dict[str, Any]]] = {}
    for arm, recipe in wanted:
        if not trained(recipe):
            print(f"not done: {arm}, seed {recipe['seed']}")
            continue
        done.setdefault(arm, []).append(read(recipe))
    found = looked_at(data, pool, counts)
    document = {"steps": given.steps, "seeds": given.seeds, "rows": given.rows, "sets": found, "runs": done}
    text = f"{told.of_sets(found)}\n\n{told.of_runs(done)}\n\n{told.of_differences(done)}\n"
    results.write("noise", {"hardware": results.output_of("hardware.py"), **document}, text, given.results)


if __name__ == "__main__":
    main()
