"""Plans and forecasts as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from luthier.advisor.forecast import Forecast, size
from luthier.advisor.hardware import Hardware
from luthier.advisor.plan import Candidate, Plan
from luthier.advisor.rows import Rows
from luthier.advisor.rules import Line, Rule
from luthier.advisor.setup import Setup

if TYPE_CHECKING:
    from rich.table import Table

FITS = {True: "yes", False: "no", None: "maybe"}
NAMES = {
    "library": "libraries", "weights": "the model's weights", "trained": "what trains, and its optimiser",
    "activations": "activations", "head": "the head or a block at work", "gradients": "gradients beyond that",
}  # fmt: skip


def rows_lines(rows: Rows, name: str) -> Iterator[str]:
    """What the rows are."""
    seen, count = rows.seen, rows.count
    yield (
        f"rows        {count:,} of {seen.kind} in {name}; tokens: half have up to {rows.percentile(50):,}, 99 of 100 "
        f"up to {rows.percentile(99):,}, the longest {int(rows.lengths.max()):,}; {int(rows.lengths.sum()):,} in all, "
        f"{rows.scored:.0%} of them train"
    )
    told = [f"{name} {share:.0%}" for name, share in seen.languages.items()]
    if told:
        yield f"languages   {', '.join(told)} (of the first {seen.rows:,} rows)"
    if seen.kind == "labels":
        yield f"labels      {seen.good:,} good, {seen.bad:,} bad"
    if seen.answers > 1:
        yield (
            f"classes     {seen.answers} different answers, the commonest {seen.largest:,}×, "
            f"the rarest {seen.smallest:,}×"
        )
    if rows.duplicates:
        yield f"duplicates  {rows.duplicates:,} rows say what an earlier one says"


def machine_line(hardware: Hardware, setup: Setup) -> str:
    """What it is to run on, and with what."""
    several = f", {hardware.count} of them: each holds the whole model, and they share the rows" * (hardware.count > 1)
    note = "" if hardware.measured else "; memory and time are not calibrated here"
    billions = setup.shape.total / 1e9
    model = f"{billions:.2f}B" if billions >= 0.1 else f"{setup.shape.total / 1e6:.1f}M"
    return (
        f"machine     {hardware.name} ({size(hardware.memory)} to use){several}{note}\n"
        f"model       {setup.shape.name}: {model} numbers, {setup.shape.blocks} blocks, {setup.dtype}"
    )


def candidates_table(plan: Plan) -> Table:
    """The ways that were compared."""
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("", "method", "bits", "trains", "memory", "fits", "time"):
        table.add_column(heading, justify="right" if heading in ("bits", "trains") else "left")
    for one in plan.candidates:
        mark = "→" if one is plan.chosen else "or" if one in plan.others else ""
        forecast = one.forecast
        memory = f"{size(forecast.memory.total)} ({size(forecast.least)}–{size(forecast.most)})"
        share = f"{100 * one.share:.3g} %"
        time = forecast.said_time() if plan.facts.get("kind") != "prompts" else "by what it says"
        table.add_row(mark, one.way.name, _bits(one), share, memory, FITS[one.fits], time)
    return table


def _bits(one: Candidate) -> str:
    return one.way.bits if one.way.quantize else str(8 * one.setup.number)


def parts_table(forecast: Forecast) -> Table:
    """What takes a run's memory."""
    from dataclasses import asdict

    from rich.table import Table

    table = Table("memory", "", box=None, header_style="bold", pad_edge=False)
    for name, value in asdict(forecast.memory).items():
        if value >= 2**19:
            table.add_row(NAMES[name], size(value))
    return table


def rules_table(rules: Sequence[Rule]) -> Table:
    """Rules with their sources, and beside them what is newer."""
    from rich.table import Table

    table = Table("rule", "kind", "says", "from", "newer", box=None, header_style="bold", pad_edge=False)
    for rule in rules:
        newer = " ".join(f"{one.says} ({one.source})" for one in rule.newer)
        table.add_row(rule.id, rule.kind, rule.says, rule.source, newer)
    return table


def markdown(rules: Sequence[Rule]) -> str:
    """All rules as a table of a page."""
    lines = ["|rule|kind|holds when|says|from|newer evidence|", "|---|---|---|---|---|---|"]
    for rule in rules:
        when = ", ".join(f"{name} {_condition(asked)}" for name, asked in rule.when.items()) or "always"
        newer = " ".join(f"{one.says} ({one.source})" for one in rule.newer)
        cells = [f"`{rule.id}`", rule.kind, when, rule.says, rule.source, newer]
        lines.append("|" + "|".join(cell.replace("|", "\\|") for cell in cells) + "|")
    return "\n".join(lines)


def markdown_lines(lines: Sequence[Line]) -> str:
    """Which command shows which line of the guides, as a table of a page."""
    table = ["|guide|what|command|rules|", "|---|---|---|---|"]
    for one in lines:
        named = ", ".join(f"`{name}`" for name in one.rules) or "the table of candidates"
        table.append(f"|{one.guide}|{one.line}|`{one.command}`|{named}|")
    return "\n".join(table)


def _condition(asked: Any) -> str:
    if isinstance(asked, list):
        return " or ".join(str(one).lower() if isinstance(one, bool) else str(one) for one in asked)
    return str(asked).lower() if isinstance(asked, bool) else str(asked)
