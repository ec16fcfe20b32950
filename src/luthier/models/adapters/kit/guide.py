"""The adapters' cards for readers: the table of all methods, and one method's card. Torch is not needed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from luthier.models.adapters import ADAPTERS
from luthier.models.adapters.kit.card import Card
from luthier.models.adapters.kit.shape import DEFAULT

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

SIZES = ("what trains", "share", "memory")
HEADINGS = ("name", "paper", *SIZES, "kept as", "merges", "on 4 or 8 bits", "choose it", "leave it")
EACH = 16
"""Bytes for each number that trains: itself and its gradient in fp32, and Adam's two moments."""
KEPT = {"base": "a whole model", "peft": "PEFT's adapter", "own": "an adapter"}
MEMORY = f"for its weights in bf16 and {EACH} bytes a number that trains (AdamW); activations come on top"


def rows() -> list[tuple[str, ...]]:
    """One line of the table for each adapter, in order of name."""
    return [_row(name, ADAPTERS.get(name)) for name in ADAPTERS.names()]


def _row(name: str, adapter: Any) -> tuple[str, ...]:
    card: Card = adapter.card
    bits = _yes(adapter.quantisable)
    sizes = card.trains, share(adapter), memory(adapter)
    return name, paper(card), *sizes, KEPT[adapter.kind], _merges(adapter), bits, card.choose, card.avoid


def numbers(adapter: Any) -> int | None:
    """How many numbers an adapter with its default keys trains on the default model; None where that is not known
    beforehand, or where it takes a key to say what trains."""
    required = any(
        each.init and each.default is each.default_factory is dataclasses.MISSING
        for each in dataclasses.fields(adapter)
    )
    return None if required else adapter().count(DEFAULT)


def share(adapter: Any) -> str:
    """`numbers` as a share of the default model's own, to two digits."""
    count = numbers(adapter)
    if count is None:
        return "–"
    return "100 %" if count == DEFAULT.total else f"{100 * count / DEFAULT.total:.2g} %"


def memory(adapter: Any) -> str:
    """What the default model in bf16 and `EACH` for all that trains take together, rounded."""
    count = numbers(adapter)
    if count is None:
        return "–"
    mebibytes = (2 * DEFAULT.total + EACH * count) / 2**20
    return f"{mebibytes:.0f} MiB" if mebibytes < 1000 else f"{mebibytes / 1024:.1f} GiB"


def _yes(value: Any) -> str:
    """Some kinds alone; a property of the class says that it depends on the keys."""
    if isinstance(value, tuple):
        return f"{' and '.join(value)} only"
    return ("yes" if value else "no") if isinstance(value, bool) else "by its keys"


def compared(adapter: Any) -> str:
    """The reference of preference training, and whether the model begins as it."""
    exact, elsewhere = adapter.exact_start, adapter.starts_elsewhere
    if not isinstance(elsewhere, bool):
        near = "the model as training began, with virtual tokens " if exact is False else ""
        return f"{near}the base, as which it need not begin: its keys say"
    if elsewhere:
        return "the base, as which it does not begin: the first loss is not that of equal models"
    if not isinstance(exact, bool):
        return "the base, or the model as training began where its keys draw other first weights"
    return "the base" if exact else "the model as training began"


def paper(card: Card) -> str:
    """Short name of where it was published."""
    return card.paper.removeprefix("https://")


def table() -> Table:
    """What `luthier explain adapt` prints."""
    from rich.table import Table

    shown = Table(box=None, header_style="bold", pad_edge=False, show_lines=False)
    for heading in HEADINGS:
        shown.add_column(heading, overflow="fold", no_wrap=heading == "name")
    for row in rows():
        shown.add_row(*row)
    shown.caption = (
        f"share: of {DEFAULT.name}'s numbers, with the default keys; – where data, model or keys decide. "
        f"memory: {MEMORY}"
    )
    return shown


def facts(name: str) -> list[tuple[str, str]]:
    """A method's card, line by line. Raises LuthierError for an unknown name."""
    adapter = ADAPTERS.get(name)
    card: Card = adapter.card
    abilities = [
        ("begins as the base", adapter.exact_start),
        ("trains on a base in 4 or 8 bits", adapter.quantisable),
        ("rows are packed", adapter.packs),
        ("gradient checkpointing", adapter.checkpoints),
    ]
    return [
        ("paper", f"{paper(card)} ({card.authors}; {card.venue})"),
        ("problem", card.problem),
        ("idea", card.idea),
        ("formula", card.formula),
        ("trains", card.trains),
        ("share", _share(adapter)),
        ("memory", f"{memory(adapter)} {MEMORY}" if numbers(adapter) is not None else ""),
        ("kept as", KEPT[adapter.kind]),
        ("learning rate", f"{adapter.default_lr:g} unless the recipe sets one"),
        ("merges into the base's weights", _merges(adapter)),
        *((what, _yes(value)) for what, value in abilities),
        ("preference training compares with", compared(adapter)),
        ("choose it", card.choose),
        ("leave it", card.avoid),
        ("limits", card.limits),
        ("related", ", ".join(card.related)),
    ]


def _merges(adapter: Any) -> str:
    return "needs none" if adapter.kind == "base" else _yes(adapter.mergeable)


def _share(adapter: Any) -> str:
    count = numbers(adapter)
    return "" if count is None else f"{count:,} numbers: {share(adapter)} of {DEFAULT.name}'s, with the default keys"


def shown(name: str, keys: Sequence[tuple[str, str, str]]) -> Group:
    """What `luthier explain lora` prints. `keys`: key, default and meaning of each of its keys."""
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table

    lines = Table(box=None, show_header=False, pad_edge=False)
    lines.add_column(style="bold", no_wrap=True)
    lines.add_column(overflow="fold")
    for what, text in facts(name):
        if text:
            lines.add_row(what, escape(text))
    inside = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("key", "default", "meaning"):
        inside.add_column(heading, overflow="fold")
    for each in keys:
        inside.add_row(*map(escape, each))
    title = f"[bold]{escape(name)}[/]: {escape(ADAPTERS.get(name).card.title)}\n"
    return Group(title, lines, "", inside) if keys else Group(title, lines)


def page() -> str:
    """docs/adapters.md."""
    parts = [
        "# Ways to adapt a model",
        "",
        "`adapt:` in a recipe takes a name, `{name: {key: value}}`, or a list of them that composes. This page is made "
        "from the adapters' own declarations (`make docs`); their keys are in [recipes.md](recipes.md#adapt). "
        "`luthier explain adapt` prints the table, `luthier explain NAME` a method's card. "
        f"*share*: how many numbers train with the default keys, of {DEFAULT.name}'s {DEFAULT.total:,}; – where the "
        f"data, the model or the keys decide. *memory*: {MEMORY}.",
        "",
        "| " + " | ".join(HEADINGS) + " |",
        "|" + "---|" * len(HEADINGS),
    ]
    for name, where, *rest in rows():
        cells = [f"[`{name}`](#{name})", _link(where), *rest]
        parts.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    for name in ADAPTERS.names():
        parts += ["", f"## {name}", "", f"**{ADAPTERS.get(name).card.title}.**", ""]
        parts += [f"- **{what}**: {_cell(text)}" for what, text in facts(name) if text]
    return "\n".join(parts) + "\n"


def _link(where: str) -> str:
    if where.startswith("arXiv:"):
        return f"[{where}](https://arxiv.org/abs/{where.removeprefix('arXiv:')})"
    return where


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
