"""What `luthier explain NAME` prints of a plug-in or of a part of the recipe: what it is, and each of its keys."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING

from luthier.models.adapters.kit import guide
from luthier.recipe.describe import Entry, entries, plugin_entries
from luthier.workflow.docs import KEYS, PLUGINS
from luthier.workflow.registries import REGISTRIES

if TYPE_CHECKING:
    from rich.console import Group, RenderableType


def names() -> list[str]:
    """All that has a card."""
    plugins = {name for kind in PLUGINS for name in REGISTRIES[kind].names()}
    return sorted({"adapt", *plugins, *(name for name, _ in KEYS if name)})


def cards(name: str) -> list[RenderableType]:
    """The cards of this name: a part of the recipe, and plug-ins of every kind that has one so called."""
    if name == "adapt":
        return [guide.table()]
    found: list[RenderableType] = [_card(name, "of a recipe", cls, entries(cls)) for key, cls in KEYS if key == name]
    for kind, where in PLUGINS.items():
        if name not in REGISTRIES[kind].names():
            continue
        cls = REGISTRIES[kind].get(name)
        keys = plugin_entries(cls)
        if kind == "adapter":
            found.append(guide.shown(name, [(entry.key, entry.default, entry.doc) for entry in keys]))
        else:
            found.append(_card(name, f"for {where.replace('`', '')}", cls, keys))
    return found


def _card(name: str, where: str, cls: type, keys: Sequence[Entry]) -> Group:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    head = Text.assemble((name, "bold"), f" ({where})\n")
    about = [" ".join(part.split()) for part in (inspect.getdoc(cls) or "").split("\n\n")]
    inside = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("key", "default", "meaning"):
        inside.add_column(heading, overflow="fold")
    for entry in keys:
        why = f" Why: {entry.why}." if entry.why else ""
        inside.add_row(*map(Text, (entry.key, entry.default, " ".join(f"{entry.doc}{why}".split()))))
    return Group(head, Text("\n".join(about)), *(("", inside) if keys else ()))
