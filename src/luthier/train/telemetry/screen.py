"""What a person sees while training, on stderr: a live line in a terminal, plain lines now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

REFRESH = 0.2
"""Seconds between redraws of the live line. We redraw from the loop: a refresh thread would take time from it."""
_WORDS = {"clipped": "clipped", "kl": "KL", "mismatch_k3": "mismatch", "training_seconds": "trained in s:"}
PLAIN_EVERY = 10.0
"""Seconds between plain lines."""
STILL_EVERY = 60.0
"""Seconds of answering after which a plain line says how far it has come."""


class Screen:
    """Follows the steps of one run. Use as a context manager."""

    def __init__(self, total: int, console: Console | None = None, *, silent: bool = False) -> None:
        """`silent`: another process of the run shows its steps."""
        self.console = console or Console(stderr=True, highlight=False, quiet=silent)
        self.total, self.begun_at, self.began = total, 0, time.monotonic()
        self._drawn = 0.0
        self._said = ""
        """What the last rollout came to."""
        self._live = self._progress() if self.console.is_terminal and not silent else None
        self._task = self._live.add_task("train", total=total, numbers="") if self._live else None

    def __enter__(self) -> Screen:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.refresh()
            self._live.stop()

    def continue_at(self, done: int) -> None:
        """Begin with `done` steps behind us."""
        self.begun_at, self.began = done, time.monotonic()
        if self._live and self._task is not None:
            self._live.update(self._task, completed=done)

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, markup=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """A warning that stays."""
        self.console.print(f"warning: {text}", style="yellow", markup=False, soft_wrap=True)

    def step(self, event: Mapping[str, Any]) -> None:
        """Show a `step` event."""
        now, done = time.monotonic(), event["step"]
        numbers = self.numbers(event, now)
        if self._live and self._task is not None:
            self._live.update(self._task, completed=done, numbers=numbers)
            if now - self._drawn >= REFRESH or done == self.total:
                self._live.refresh()
                self._drawn = now
        elif now - self._drawn >= PLAIN_EVERY or done == self.total or self._drawn == 0.0:
            self.say(f"step {done}/{self.total}  {numbers}")
            self._drawn = now

    def rollout(self, event: Mapping[str, Any] | None) -> None:
        """What a rollout came to: shown beside the steps that it serves. None: they learn from the data's own
        answers."""
        if event is None:
            self._said = "the data's own answers  "
            return
        parts = [f"right {event['right']:.2f}"] if "right" in event else []
        known = [name for name in event if name.startswith("reward_") and name != "reward_std"]
        if len(known) > 1:
            parts += [f"{name.removeprefix('reward_')} {event[name]:.2f}" for name in known]
        beside = f" ({', '.join(parts)})" if parts else ""
        judged = f"reward {event['reward']:.3f} ± {event['reward_std']:.2f}{beside}  " if "reward" in event else ""
        judged += f"silent {event['silent']:.0%}  " if "silent" in event else ""
        self._said = (
            f"{judged}"
            f"length {event['length']:.0f} (cut {event['cut']:.0%})  entropy {event['entropy']:.2f}  "
            f"said in {event['speaking_seconds']:.1f} s, judged in {event['scoring_seconds']:.1f} s, "
            f"{event['made_per_s']:,.0f} tokens/s  "
        )

    def answering(self, done: int, of: int) -> None:
        """So many answers of a rollout are there, which may take minutes."""
        now, text = time.monotonic(), f"answering {done:,}/{of:,}"
        if self._live and self._task is not None:
            if now - self._drawn >= REFRESH:
                self._live.update(self._task, numbers=text)
                self._live.refresh()
                self._drawn = now
        elif now - max(self._drawn, self.began) >= STILL_EVERY:
            self.say(text)
            self._drawn = now

    def numbers(self, event: Mapping[str, Any], now: float) -> str:
        """Loss, tokens a second, time left and memory in one line."""
        each = (now - self.began) / max(1, event["step"] - self.begun_at)
        left = clock(each * (self.total - event["step"]))
        judged = f"accuracy {event['accuracy']:.2f}  " if "accuracy" in event else ""
        judged += f"margin {event['margin']:.3f}  " if "margin" in event else ""
        if self._said:
            judged = judged if "clipped" in event else f"loss {round(event['loss'], 4) + 0.0:.4f}  {judged}"
            for name, form in (("clipped", ".1%"), ("kl", ".4f"), ("mismatch_k3", ".1e"), ("training_seconds", ".1f")):
                judged += f"{_WORDS[name]} {event[name]:{form}}  " if name in event else ""
            judged += "no weight moved  " if event.get("unmoved") == 1 else ""
            return f"{self._said}{judged}{event['tokens_per_s']:,.0f} tokens/s trained  {left} left"
        return (
            f"loss {event['loss']:.4f}  {judged}{event['tokens_per_s']:,.0f} tokens/s  "
            f"{left} left  {event['memory'] / 2**30:.1f} GiB"
        )

    def _progress(self) -> Progress:
        columns = (TextColumn("training"), BarColumn(20), MofNCompleteColumn(), TextColumn("{task.fields[numbers]}"))
        return Progress(*columns, console=self.console, auto_refresh=False)


def clock(seconds: float) -> str:
    """Seconds as m:ss, or h:mm:ss from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
