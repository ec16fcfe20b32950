"""What rollouts leave in the run folder: the open ones for going on, and for people what was said and what it earned.

rollouts/step-000012.jsonl   a line an answer of the rollout that step 12 began: prompt, text, parts, reward, …
rollouts/open-000012.jsonl   the same as it came about (`journal`), while a checkpoint may still need it
prompts.jsonl                how each prompt has done over the run
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from luthier.errors import LuthierError
from luthier.objectives.credit import Worth
from luthier.run import Run, json_line, write_atomically
from luthier.train.rollouts.drawn import Group
from luthier.train.rollouts.rows import advantage_of


class Records:
    """The files of one run's rollouts."""

    def __init__(self, run: Run, per_rollout: int) -> None:
        self._run, self._per = run, per_rollout
        self.saved: list[int] = []
        """The rollout that each of the last checkpoints goes on with."""

    def journal(self, number: int) -> Path:
        """Where a rollout is written as it comes about."""
        return self._run.rollouts / f"open-{self._step(number):06d}.jsonl"

    def begin_anew(self) -> None:
        """Forget what an earlier try left for people."""
        for path in self._run.rollouts.glob("step-*.jsonl"):
            path.unlink()

    def lost(self, number: int) -> LuthierError:
        """The error for a rollout that a checkpoint needs and that is not whole."""
        return LuthierError(
            "the run was killed between two steps of one rollout, and what was said in it is not whole any more",
            where=str(self.journal(number)),
            fix="remove the newest folder in checkpoints/ and run the same command again: the run goes on from the one "
            "before it",
        )

    def write(self, number: int, drawn: Sequence[Group], worth: Mapping[int, Sequence[Worth | None] | None]) -> None:
        """What was said in a rollout, and what it earned. Groups without `worth` gave way to others."""
        self._run.still_held()
        lines = []
        for group in drawn:
            earned = worth.get(group.place)
            for index, answer in enumerate(group.answers):
                reward = group.rewards[index]
                line: dict[str, Any] = {
                    "step": self._step(number),
                    "source": group.prompt.where,
                    "prompt": group.prompt.key,
                    "index": index,
                    "asked": group.prompt.example.prompt[-1].text,
                    "text": answer.text,
                    "reward": None if math.isnan(reward) else reward,
                    "right": group.right[index],
                    "parts": group.parts[index],
                    "advantage": None if earned is None else advantage_of(earned[index]),
                    "trained": group.place in worth and (earned is None or earned[index] is not None),
                    "finish": answer.finish,
                    "tokens": len(answer.ids),
                    "logp": round(float(answer.logp_T.sum()), 4),
                }
                lines.append(json_line(line))
        write_atomically(self._run.rollouts / f"step-{self._step(number):06d}.jsonl", "".join(lines))

    def rates(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """How each prompt has done."""
        if rows:
            self._run.still_held()
            write_atomically(self._run.prompts_path, "".join(json_line(row) for row in rows))

    def prune(self, number: int, keep: int) -> int:
        """A checkpoint is about to be written that goes on with rollout `number`: what none of those needs that are on
        disk, of which `keep` stay, may go. Returns the oldest rollout that one of them needs."""
        oldest = self.saved[-keep - 1] if len(self.saved) > keep else 0
        self.saved = [*self.saved[-keep:], number]
        self._drop(self._step(oldest))
        return oldest

    def end(self) -> None:
        """No rollout is open any more."""
        self._drop(None)

    def _drop(self, before: int | None) -> None:
        for path in self._run.rollouts.glob("open-*.jsonl"):
            if before is None or int(path.stem.removeprefix("open-")) < before:
                path.unlink()

    def _step(self, number: int) -> int:
        return number * self._per + 1
