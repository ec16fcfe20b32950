"""DPO with Luthier and its peers, and what shared prompts save: benchmarks/results/DATE-preference.{json,md}.

    python benchmarks/preference.py [--only NAME,…] [--long NAME,…] [--rows N] [--merge FILE]

The first workload is LLaMA-Factory's demo pairs; the second has long prompts of their own and compares Luthier with
itself. `--merge` takes the other contenders' runs from an earlier result. Builds each peer's environment in .peers/ at
first use. Everything runs on the CPU.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import results
from contenders import PREFERENCE
from environments import PEERS
from sft import WARM, run
from table import peers_best
from workload import Workload, prepare_long_prompts, prepare_pairs

HEAD = ("tool", "seconds", "speed ×", "peak GiB", "memory ×", "loss first → last", "held-out loss", "accuracy", "fed")
LONG = "luthier,luthier-unshared"


def measure(names: list[str], work: Workload, nice: int) -> dict[str, Any]:
    """Each contender once, one after another, judged by the same script."""
    chosen = [contender for contender in PREFERENCE if contender.name in names]
    runs = {}
    for contender in chosen:
        subprocess.run([str(contender.python()), "-c", WARM], check=True)
        print(f"{contender.name} …", flush=True)
        done = runs[contender.name] = run(contender, work, nice)
        print(f"  {done['seconds']:.1f} s, {done['peak_gib']:.2f} GiB, loss {done['losses'][0]:.4f}", flush=True)
    path = PEERS / "work" / "workload.json"
    work.write(path)
    judged = results.output_of("held_out_pairs.py", str(path), *(one["adapter"] for one in runs.values()))
    for one in runs.values():
        one["held_out"] = judged["found"][one["adapter"]]
    return {"workload": asdict(work), "train": judged["train"], "held_out": judged["held_out_rows"], "results": runs}


def table(measured: dict[str, Any], against: str | None = None) -> str:
    """One line a contender. Ratios: the best peer over the line, or the contender `against` over it."""
    runs = measured["results"]
    peers = {name: [one] for name, one in runs.items()}
    seconds, peak = (runs[against][key] if against else peers_best(peers, key) for key in ("seconds", "peak_gib"))
    lines = [HEAD, ["---"] * len(HEAD)]
    for name, one in runs.items():
        lines.append(
            [
                name,
                f"{one['seconds']:.1f}",
                f"{seconds / one['seconds']:.2f}" if seconds else "–",
                f"{one['peak_gib']:.2f}",
                f"{peak / one['peak_gib']:.2f}" if peak else "–",
                f"{one['losses'][0]:.4f} → {one['losses'][-1]:.4f}",
                f"{one['held_out']['loss']:.4f}",
                f"{one['held_out']['accuracy']:.2f}",
                f"{one['fed']:,}",
            ]
        )
    tokens = measured["train"]
    return (
        "\n".join("| " + " | ".join(line) + " |" for line in lines)
        + f"\n\n{measured['workload']['rows']} pairs, {tokens['tokens']:,} tokens ({tokens['scored']:,} of responses) "
        + f"in rows cut at {measured['workload']['max_tokens']:,}; {measured['held_out']} held-out pairs.\n\n"
        + "\n".join(f"- {name}: `{one['settings']}`" for name, one in runs.items())
        + "\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(contender.name for contender in PREFERENCE))
    parser.add_argument("--long", default=LONG, help="who runs the second workload; '' for nobody")
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--held-out", type=int, default=16)
    parser.add_argument("--model", help="model folder (default: smollm2-135m-instruct, fetched)")
    parser.add_argument("--merge", type=Path, help="an earlier result whose other runs are kept")
    parser.add_argument("--results", type=Path, default=results.FOLDER)
    parser.add_argument("--nice", type=int, default=0, help="for trials beside other work; not for numbers")
    given = parser.parse_args()
    document: dict[str, Any] = json.loads(given.merge.read_text(encoding="utf-8")) if given.merge else {}
    document["hardware"] = results.output_of("hardware.py")
    works = {"pairs": (prepare_pairs, given.only), "long prompts": (prepare_long_prompts, given.long)}
    for name, (prepare, names) in works.items():
        if names:
            new = measure(names.split(","), prepare(given.rows, given.held_out, given.model), given.nice)
            new["results"] = document.get(name, {}).get("results", {}) | new["results"]
            document[name] = new
    text = ""
    if "pairs" in document:
        text += "speed × and memory ×: the fastest (leanest) peer over this line.\n\n" + table(document["pairs"])
    if "long prompts" in document:
        text += "\n## Prompts three times as long as responses\n\nspeed ×: over sharing switched off.\n\n"
        text += table(document["long prompts"], "luthier-unshared")
    results.write("preference", document, text, given.results)


if __name__ == "__main__":
    main()
