"""The results of a contest as a Markdown table with what it was measured on."""

from __future__ import annotations

import math
from statistics import median
from typing import Any

HELD_OUT = {"loss": ".4f", "accuracy": ".2f", "margin": "+.4f"}
"""What the common yardstick may say of an adapter, and how it is printed."""

NOTES = {
    "sft": "Held-out loss: one fp32 script for all, on {held} rows; the untuned model has {base:.4f}.",
    "dpo": "A row is a pair; {left_out} of the first {rows} were left out for every tool, because their prompt fills "
    "the window. Held-out: DPO's loss, and the accuracy and margin of its rewards, by one fp32 script for all, on "
    "{held} pairs; the untuned model has {base:.4f}, and no preference. Prompt : response is {ratio:.2f} : 1 in the "
    "training rows. First losses are within {off:.0e} of log 2.",
}
"""What the text below a table says of each stage."""


def middle(runs: list[dict[str, Any]], key: str) -> float:
    """The median of one measure over the repeats."""
    return float(median(run[key] for run in runs))


def rivals_best(part: dict[str, Any], key: str) -> float | None:
    """The smallest median among the rivals; None when no rival ran."""
    values = [middle(runs, key) for name, runs in part["results"].items() if name not in part["ours"]]
    return min(values, default=None)


def _times(best: float | None, value: float) -> str:
    return f"{best / value:.2f}" if best else "–"


def _cells(name: str, runs: list[dict[str, Any]], fastest: float | None, leanest: float | None) -> dict[str, str]:
    """One line by its columns' titles."""
    seconds, peak = middle(runs, "seconds"), middle(runs, "peak_gib")
    losses, judged = runs[0]["losses"], runs[0]["held_out"]
    shared = {"shared": f"{runs[0]['shared']:.0%}"} if runs[0].get("shared") is not None else {"shared": "–"}
    return {
        "tool": name,
        "seconds": f"{seconds:.1f}",
        "speed ×": _times(fastest, seconds),
        "tokens/s": f"{middle(runs, 'tokens_per_s'):,.0f}",
        "peak GiB": f"{peak:.2f}",
        "memory ×": _times(leanest, peak),
        "to first step, s": f"{middle(runs, 'to_first_step'):.1f}",
        "loss first → last (mean)": f"{losses[0]:.3f} → {losses[-1]:.3f} ({sum(losses) / len(losses):.3f})",
        **{f"held-out {key}": format(judged[key], form) for key, form in HELD_OUT.items() if key in judged},
        "tokens fed": f"{runs[0]['fed']:,}",
        **shared,
        "scored": f"{runs[0]['scored']:,}" if runs[0]["scored"] is not None else "–",
    }


def _table(lines: list[dict[str, str]]) -> str:
    rows = [list(lines[0]), ["---"] * len(lines[0]), *(list(line.values()) for line in lines)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _bars(part: dict[str, Any]) -> str:
    """Whether the first contender clears its bars; empty where there are none, or nobody to compare with."""
    ours = part["results"].get(part["ours"][0])
    words = {"seconds": "the time of the fastest rival", "peak_gib": "the peak memory of the leanest rival"}
    said = []
    for key, bar in part["bars"].items():
        best = rivals_best(part, key)
        if ours and best:
            times = best / middle(ours, key)
            said.append(f"{words[key]} is {times:.2f}× its own (bar {bar:g}: {'met' if times >= bar else 'NOT met'})")
    return f"{part['ours'][0]}: {'; '.join(said)}.\n\n" if said else ""


def _notes(part: dict[str, Any]) -> str:
    runs = [run for repeats in part["results"].values() for run in repeats]
    rates = [run["gflops_before"] for run in runs]
    sittings = sorted({run["sitting"] for run in runs})
    work, counts = part["workload"], part["train"]
    common = (
        f"Medians of {part['repeat']} run(s) each, in turn, one at a time. speed × and memory ×: the fastest (leanest) "
        "rival over this line, so above 1 is better than every rival. tokens/s: the "
        f"{counts['tokens']:,} tokens of the rows as the chat template renders them ({counts['scored']:,} of them "
        "answers), over the seconds of the epoch; tokens fed is with the padding the tool computes (Luthier has "
        "none); shared is the part of them that Luthier did not compute, because rows have it in common. Just before "
        f"a run the processor was at most "
        f"{max(run['busy_before'] for run in runs):.0f} % busy, and bf16 matrix products ran at {min(rates):,.0f} to "
        f"{max(rates):,.0f} Gflop/s. "
    )
    own = NOTES[work["stage"]].format(
        held=part["held_out_rows"],
        base=part["base"]["loss"],
        left_out=work["left_out"],
        rows=work["rows"] + work["left_out"],
        ratio=counts["prompt"] / counts["scored"],
        off=max(abs(run["losses"][0] - math.log(2)) for run in runs),
    )
    merged = f" Merged from sittings of {', '.join(sittings)}." if len(sittings) > 1 else ""
    return f"{common}{own}{merged}\n\n"


def markdown(part: dict[str, Any], title: str | None = None) -> str:
    """The table with what it was measured on; ratios above 1 are better than the best rival."""
    fastest, leanest = rivals_best(part, "seconds"), rivals_best(part, "peak_gib")
    lines = [_cells(name, runs, fastest, leanest) for name, runs in part["results"].items()]
    heading = f"## {title}\n\n" if title else ""
    versions = "\n".join(f"- {name}: {_versions(runs[0])}" for name, runs in part["results"].items())
    return f"{heading}{_table(lines)}\n\n{_bars(part)}{_notes(part)}{versions}\n"


def _versions(run: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    return f"`{run['settings']}`; {versions}"
