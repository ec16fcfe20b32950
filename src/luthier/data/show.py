"""Rows on screen, the tokens that train in colour; where there is none, as in a pipe, in brackets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from luthier.data.encode.template import Template
from luthier.types import Encoded, TokenStore

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.text import Text

TRAINS = "bold green"
CONTEXT = "dim"
BRACKETS = ("⟦", "⟧")


def show(store: TokenStore, template: Template, n: int = 5) -> Rows:
    """The first `n` rows. Tokens that train are green, context is dim; other weights than 1 and scores are named."""
    return Rows(store, template, n)


@dataclass(frozen=True)
class Rows:
    """The first `n` rows of a store, for a console."""

    store: TokenStore
    template: Template
    n: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """A panel for each row."""
        from rich.console import Group
        from rich.panel import Panel
        from rich.text import Text

        coloured = console.color_system is not None
        if not coloured:
            yield Text(f"What trains stands in {''.join(BRACKETS)}.")
        for index in range(min(self.n, len(self.store))):
            encoded = self.store[index]
            scored = int(self.store.scored[index])
            title = f"{self.store.source(index)} · {int(self.store.lengths[index]):,} tokens, {scored:,} train"
            margin = encoded.column("margin")
            title += f" · margin {margin:g}" if margin else ""
            texts = [marked(encoded, i, self.template, coloured=coloured) for i in range(len(encoded.ids))]
            yield Panel(Group(*texts), title=Text(title), title_align="left")


def marked(encoded: Encoded, i: int, template: Template, *, coloured: bool) -> Text:
    """Sequence i as text, run by run of equal weight, cut behind judged steps."""
    from rich.text import Text

    ids, weights = encoded.ids[i], encoded.weights[i]
    text = Text()
    heading = _heading(encoded, i)
    if heading:
        text.append(f"[{heading}]\n", "italic")
    steps = _steps(encoded, i)
    edges = sorted({0, *(np.flatnonzero(np.diff(weights)) + 1).tolist(), *steps, len(ids)})
    for start, end in pairwise(edges):
        weight = float(weights[start])
        run = template.tokenizer.decode(ids[start:end].tolist(), skip_special_tokens=False)
        run = run if isinstance(run, str) else "".join(run)
        before, after = ("", "") if coloured or not weight else BRACKETS
        text.append(before + run + after, TRAINS if weight else CONTEXT)
        if weight not in (0.0, 1.0):
            text.append(f"[weight {weight:g}]", "italic")
        if end in steps:
            text.append(f"[step {steps[end]:g}]", "italic")
    return text


def _steps(encoded: Encoded, i: int) -> dict[int, float]:
    """The place behind each judged step of sequence i, and its label."""
    ends, labels = (encoded.column(name)[i] for name in ("step_end", "step_reward"))
    return {int(end) + 1: float(label) for end, label in zip(ends, labels, strict=True)}


def _heading(encoded: Encoded, i: int) -> str:
    """Which response of several it is, and its reward."""
    rewards = encoded.columns.get("reward")
    kind = "sequence" if rewards is None else "response"
    parts = [f"{kind} {i + 1} of {len(encoded.ids)}"] if len(encoded.ids) > 1 else []
    if rewards is not None:
        score = rewards[i]
        parts.append("no score" if math.isnan(score) else f"score {score:g}")
    return ", ".join(parts)
