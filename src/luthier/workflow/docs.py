"""The generated parts of docs/recipes.md, docs/generation.md, docs/acquire.md and docs/advice.md, and docs/adapters.md.

`python -m luthier.workflow.docs` writes them, tests say when they are stale.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from luthier.advisor import rules, shown
from luthier.data import formats_table, materials_table
from luthier.models.adapters.kit import guide
from luthier.recipe.describe import Entry, entries, plugin_entries
from luthier.recipe.generation import Generation
from luthier.recipe.mixture import Curriculum, Long, Mix, Rehearse
from luthier.recipe.schema import (
    Follow,
    Model,
    Recipe,
    Reference,
    Reward,
    Rollout,
    Source,
    Task,
    Teacher,
    Train,
    Validate,
)
from luthier.recipe.tokens import TokenCleaning
from luthier.run import write_atomically
from luthier.workflow.registries import REGISTRIES

PAGE = Path("docs/recipes.md")
GENERATION_PAGE = Path("docs/generation.md")
ACQUIRE_PAGE = Path("docs/acquire.md")
ADVICE_PAGE = Path("docs/advice.md")
ADAPTERS_PAGE = Path("docs/adapters.md")
KEYS = (
    ("", Recipe),
    ("model", Model),
    ("data", Source),
    ("mix", Mix),
    ("mix.long", Long),
    ("mix.order", Curriculum),
    ("rehearse", Rehearse),
    ("reference", Reference),
    ("teacher", Teacher),
    ("tokens", TokenCleaning),
    ("rollout", Rollout),
    ("rollout.follow", Follow),
    ("reward", Reward),
    ("train", Train),
    ("validate", Validate),
    ("evaluate", Task),
)
PLUGINS = {
    "objective": "`objective`",
    "credit": "`credit` of objectives that learn from rollouts",
    "adapter": "`adapt`",
    "quantizer": "`quantize`",
    "optimizer": "`train.optimizer`",
    "schedule": "`train.schedule`",
    "benchmark": "`evaluate`, benchmarks",
    "scorer": "`evaluate.scorers`, `reward`",
    "engine": "`engine`",
    "step": "`steps`",
    "exporter": "`export`",
    "tracker": "`train.trackers`",
    "material": "`data.*.format`, materials",
}
_PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def keys() -> str:
    """Every key of the recipe: type, default, meaning, and why the default is what it is."""
    parts = []
    for name, cls in KEYS:
        parts.append(f"### {f'`{name}`' if name else 'Top level'}\n\n{_summary(cls)}\n\n{_table(entries(cls))}")
    return "\n".join(parts)


def plugins() -> str:
    """Every built-in plug-in with its keys, by the key that names it."""
    parts = []
    for kind, title in PLUGINS.items():
        parts.append(f"### {title}\n")
        for name in REGISTRIES[kind].names():
            cls = REGISTRIES[kind].get(name)
            found = plugin_entries(cls)
            parts.append(f"**`{name}`** {_summary(cls)}\n")
            if found:
                parts.append(_table(found))
    return "\n".join(parts)


def _summary(cls: type) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split())


def _table(found: Sequence[Entry]) -> str:
    lines = ["| key | type | default | |", "|---|---|---|---|"]
    for entry in found:
        default = f"`{entry.default}`" if entry.default not in ("", "required") else entry.default
        meaning = entry.doc + (f" *Why: {entry.why}.*" if entry.why else "")
        lines.append(f"| `{entry.key}` | {_cell(entry.type)} | {_cell(default)} | {_cell(meaning)} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def generation() -> str:
    """The keys of `luthier generate`."""
    return _table(entries(Generation))


PARTS: dict[str, Callable[[], str]] = {
    "keys": keys,
    "plugins": plugins,
    "shapes": formats_table,
    "generation": generation,
    "materials": materials_table,
    "lines": lambda: shown.markdown_lines(rules.lines()),
    "rules": lambda: shown.markdown(rules.rules()),
}


def filled(page: str) -> str:
    """The page with its generated parts made anew."""
    return _PART.sub(lambda part: f"{part[1]}\n{PARTS[part[2]]().strip()}\n\n{part[3]}", page)


def main() -> None:
    """Write docs/adapters.md, and the generated parts of the other pages; the rest of these stays as it is."""
    for page in (PAGE, GENERATION_PAGE, ACQUIRE_PAGE, ADVICE_PAGE):
        if not page.exists():
            sys.exit(f"run this in the repository's root: there is no {page}")
        write_atomically(page, filled(page.read_text(encoding="utf-8")))
    write_atomically(ADAPTERS_PAGE, guide.page())


if __name__ == "__main__":
    main()
