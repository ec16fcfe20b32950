"""Rows on screen, the tokens that train in colour."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from luthier.data.template import Template
from luthier.types import Encoded, TokenStore

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

TRAINS = "bold green"
CONTEXT = "dim"


def show(store: TokenStore, template: Template, n: int = 5) -> RenderableType:
    """The first `n` rows. Tokens that train are green, context is dim; weights other than 1 are named."""
    from rich.console import Group
    from rich.panel import Panel
    from rich.text import Text

    panels = []
    for index in range(min(n, len(store))):
        encoded = store[index]
        scored = int(store.scored[index])
        title = f"{store.source(index)} · {int(store.lengths[index]):,} tokens, {scored:,} train"
        texts = [coloured(encoded, i, template) for i in range(len(encoded.ids))]
        panels.append(Panel(Group(*texts), title=Text(title), title_align="left"))
    return Group(*panels)


def coloured(encoded: Encoded, i: int, template: Template) -> Text:
    """Sequence i as text, run by run of equal weight."""
    from rich.text import Text

    ids, weights = encoded.ids[i], encoded.weights[i]
    text = Text()
    if len(encoded.ids) > 1:
        text.append(f"[sequence {i + 1} of {len(encoded.ids)}]\n", "italic")
    edges = [0, *(np.flatnonzero(np.diff(weights)) + 1).tolist(), len(ids)]
    for start, end in pairwise(edges):
        weight = float(weights[start])
        run = template.tokenizer.decode(ids[start:end].tolist(), skip_special_tokens=False)
        text.append(run if isinstance(run, str) else "".join(run), TRAINS if weight else CONTEXT)
        if weight not in (0.0, 1.0):
            text.append(f"[weight {weight:g}]", "italic")
    return text
