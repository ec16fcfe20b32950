"""The results as a Markdown table."""

from __future__ import annotations

from statistics import median
from typing import Any

HEAD = (
    "tool",
    "seconds",
    "speed ×",
    "tokens/s",
    "peak GiB",
    "memory ×",
    "to first step, s",
    "loss first → last (mean)",
    "held-out loss",
    "tokens fed",
    "scored",
)


def middle(runs: list[dict[str, Any]], key: str) -> float:
    """The median of one measure over the repeats."""
    return float(median(run[key] for run in runs))


def peers_best(results: dict[str, list[dict[str, Any]]], key: str) -> float | None:
    """The smallest median among the peers; None when no peer ran."""
    values = [middle(runs, key) for name, runs in results.items() if not name.startswith("luthier")]
    return min(values, default=None)


def _times(best: float | None, value: float) -> str:
    return f"{best / value:.2f}" if best else "–"


def _row(name: str, runs: list[dict[str, Any]], fastest: float | None, leanest: float | None) -> list[str]:
    seconds, peak = middle(runs, "seconds"), middle(runs, "peak_gib")
    losses = runs[0]["losses"]
    return [
        name,
        f"{seconds:.1f}",
        _times(fastest, seconds),
        f"{middle(runs, 'tokens_per_s'):,.0f}",
        f"{peak:.2f}",
        _times(leanest, peak),
        f"{middle(runs, 'to_first_step'):.1f}",
        f"{losses[0]:.3f} → {losses[-1]:.3f} ({sum(losses) / len(losses):.3f})",
        f"{middle(runs, 'held_out_loss'):.4f}",
        f"{runs[0]['fed']:,}",
        f"{runs[0]['scored']:,}" if runs[0]["scored"] is not None else "–",
    ]


def markdown(document: dict[str, Any]) -> str:
    """The table with what it was measured on; ratios above 1 are better than the best peer."""
    results = document["results"]
    fastest, leanest = peers_best(results, "seconds"), peers_best(results, "peak_gib")
    rows = [_row(name, runs, fastest, leanest) for name, runs in results.items()]
    lines = [HEAD, ["---"] * len(HEAD), *rows]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return (
        f"{table}\n\n"
        "Medians of {repeat} run(s) each, in turn, one at a time. speed × and memory ×: the fastest (leanest) peer "
        "over this line, so above 1 is better than every peer. tokens/s: the {tokens:,} tokens of the rows "
        "as the chat template renders them ({scored:,} of them answers), over the seconds of the epoch; tokens fed "
        "is with the padding the tool computes (Luthier has none, and computes prefixes that rows share but once). "
        "Held-out loss: one fp32 script for all, on {held} rows; "
        "the untuned model has {base:.4f}. Just before a run the processor was at most {busy:.0f} % busy.\n\n".format(
            repeat=document["repeat"],
            tokens=document["train"]["tokens"],
            scored=document["train"]["scored"],
            held=document["held_out_rows"],
            base=document["base_loss"],
            busy=max(run["busy_before"] for runs in results.values() for run in runs),
        )
        + f"Matrix products ran at {document['hardware']['bf16_gflops']:,.0f} Gflop/s before and "
        + f"{document['bf16_gflops_after']:,.0f} after.\n\n"
        + "\n".join(f"- {name}: {_versions(runs[0])}" for name, runs in results.items())
        + "\n"
    )


def _versions(run: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    return f"`{run['settings']}`; {versions}"
