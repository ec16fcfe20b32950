"""One event, told everywhere: the run's events.jsonl, the screen, the trackers, and whoever watches from Python."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from luthier.recipe import Recipe
from luthier.recipe.resolve import flat
from luthier.run import Run
from luthier.train import TRACKERS
from luthier.train.telemetry.screen import Screen
from luthier.types import Tracker

Watch = Callable[[Mapping[str, Any]], None]


class Log:
    """The events of a run."""

    def __init__(self, run: Run, screen: Screen, watch: Watch | None = None, *, silent: bool = False) -> None:
        """`silent`: another process of the run records its events."""
        self.run, self.screen, self.watch, self.silent = run, screen, watch, silent
        self.trackers: list[Tracker] = []

    def open_trackers(self, recipe: Recipe) -> None:
        """Begin with the trackers the recipe names."""
        for plugin in () if self.silent else recipe.train.trackers:
            self.trackers.append(TRACKERS.build(plugin.name, plugin.args).open(self.run, flat(recipe)))

    def close(self) -> None:
        """End the trackers."""
        for tracker in self.trackers:
            tracker.close()

    def begin_at(self, size: int) -> None:
        """Cut events.jsonl to `size` bytes: what came after them will happen again."""
        if self.silent:
            return
        self.run.folder.mkdir(parents=True, exist_ok=True)
        with self.run.events_path.open("ab") as file:
            here = file.tell()
        if here < size:
            self.screen.warn(f"events.jsonl has {here:,} bytes, the checkpoint knew {size:,}: some events are lost")
        os.truncate(self.run.events_path, min(size, here))

    def event(self, kind: str, **fields: Any) -> None:
        """Record an event and tell everyone."""
        if self.silent:
            return
        event = self.run.event(kind, **fields)
        if kind == "rollout":
            self.screen.rollout(event)
        if kind == "step":
            self.screen.step(event)
        for tracker in self.trackers:
            tracker.log(event)
        if self.watch:
            self.watch(event)

    def warn(self, guard: str, step: int, text: str) -> None:
        """A `warning` event, shown on screen too."""
        self.screen.warn(text)
        self.event("warning", step=step, guard=guard, text=text)
