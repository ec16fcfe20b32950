"""`luthier diagnose`: what the checks find in a run, as it is shown."""

from __future__ import annotations

from pathlib import Path

import psutil

from luthier.errors import LuthierError
from luthier.evaluate.diagnosis import CHECKS, Evidence, Finding, diagnose
from luthier.recipe import Recipe
from luthier.run import Run
from luthier.workflow import export_check


def findings(run: Run, recipe: Recipe) -> list[Finding]:
    """Raises LuthierError where the run has not begun."""
    seen = Evidence(run, recipe, psutil.virtual_memory().total)
    if not seen.events:
        raise LuthierError("nothing has happened in this run yet", where=str(run.folder), fix="train it first")
    return diagnose(seen, [read_otherwise])


def read_otherwise(seen: Evidence) -> Finding | None:
    """An exported folder whose tokenizer or template reads rows otherwise than training did."""
    from luthier.models.loading import on_disk

    exported = [path.parent for path in sorted(seen.run.folder.glob(f"*/{export_check.EXPORTED}"))]
    exported = [folder for folder in exported if (folder / "tokenizer_config.json").is_file()]
    if not exported:
        return None
    tokenizer = on_disk.of_run(seen.run).tokenizer
    rows = export_check.samples(seen.recipe)
    for folder in exported:
        try:
            export_check.compare(tokenizer, folder, rows, seen.recipe)
        except LuthierError as error:
            return Finding(
                "template",
                "the exported model reads text otherwise than in training",
                (f"{folder.name}: {error.what}",),
                advice=f"export it again (`luthier export {seen.run.folder} --to {folder.name}`), and let nothing else "
                "rewrite its tokenizer",
                weight=0.9,
            )
    return None


def lines(run: Run, found: list[Finding]) -> list[str]:
    """What is shown, for a terminal that knows rich's marks."""
    from rich.markup import escape

    if not found:
        looked = f"{len(CHECKS) + 1} checks have found nothing wrong with {run.folder}"
        return [f"{escape(looked)}; read what it says all the same: report.html has samples"]
    told = []
    for number, finding in enumerate(found, 1):
        told.append(f"[bold]{number}. {escape(finding.title)}[/bold]  [dim]({finding.name})[/dim]")
        told += [f"     {escape(line)}" for line in finding.evidence]
        if finding.changes:
            told.append(f"   → {escape(finding.changes[0])}")
            told += [f"     or {escape(change)}" for change in finding.changes[1:]]
        if finding.advice:
            told.append(f"   {'→' if not finding.changes else ' '} {escape(finding.advice)}")
    first = next((finding.changes[0] for finding in found if finding.changes), None)
    if first is not None:
        again = run.folder.with_name(f"{run.folder.name}-2")
        told.append("")
        told.append(escape(f"try it: luthier train {_recipe(run)} {first} output={again}"))
    return told


def _recipe(run: Run) -> Path:
    return run.recipe_path
