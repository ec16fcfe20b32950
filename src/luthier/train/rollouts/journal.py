"""One rollout as it comes about, on disk: a line for each answer, its scores, and what was computed of it.

A run that was killed goes on with what is there, and draws the rest: every draw has a seed of its own. A last line that
was cut off by the kill is none. Numbers are kept by their bytes, so that what is read is what was written.

Shape suffixes: T = sampled tokens of one answer.
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from luthier.run import json_line, naming
from luthier.train.rollouts.drawn import Answer, Floats, Parts

SYNC_EVERY = 1.0
"""Seconds between syncs: a killed process loses nothing that was handed to the machine; a machine that loses its power,
what it got in the last second."""


class Journal:
    """The file of one rollout, opened for going on with it."""

    def __init__(self, path: Path, head: Mapping[str, Any]) -> None:
        """`head`: what the rollout hangs on. A file that was begun under another one is begun anew."""
        self.path = path
        self.answers: dict[tuple[int, int], Answer] = {}
        self.parts: dict[tuple[int, int], Parts] = {}
        self.passes: dict[tuple[str, int], list[Floats]] = {}
        self._synced = time.monotonic()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = path.open("a+b")
        if not self._read(dict(head)):
            self.answers, self.parts, self.passes = {}, {}, {}
            self._file.truncate(0)
            self._write(head)

    def answer(self, place: int, index: int, answer: Answer) -> None:
        """One more answer to the prompt that was drawn at `place`."""
        self.answers[place, index] = answer
        line = {"ids": list(answer.ids), "logp": _packed(answer.logp_T), "text": answer.text, "finish": answer.finish}
        self._write({"place": place, "index": index, **line})

    def judged(self, place: int, index: int, parts: Parts) -> None:
        """What scorers said of an answer, those that said it before among them."""
        self.parts[place, index] = known = {**self.parts.get((place, index), {}), **parts}
        self._write({"place": place, "index": index, "parts": known})

    def said(self, place: int, index: int) -> set[str]:
        """The names of the scorers whose word on an answer is there."""
        return set(self.parts.get((place, index), ()))

    def computed(self, what: str, place: int, values: Sequence[Floats]) -> None:
        """Numbers for each token of each answer of a group, by the weights that the rollout began with."""
        self.passes[what, place] = list(values)
        self._write({"place": place, "pass": what, "values": [_packed(value_T) for value_T in values]})

    def close(self) -> None:
        """All of it is on the disk when this returns."""
        with naming(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def _write(self, line: Mapping[str, Any]) -> None:
        with naming(self.path):
            self._file.write(json_line(line).encode("utf-8", "backslashreplace"))
            self._file.flush()
            if time.monotonic() - self._synced > SYNC_EVERY:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()

    def _read(self, head: dict[str, Any]) -> bool:
        """Take over what is there, up to the first line that is not whole. False where it is another rollout's."""
        self._file.seek(0)
        end = 0
        for number, line in enumerate(self._file):
            try:
                if not line.endswith(b"\n"):
                    break
                content = json.loads(line)
                if number == 0:
                    if content != json.loads(json.dumps(head)):
                        return False
                else:
                    self._take(content)
            except (ValueError, KeyError, TypeError, RecursionError):
                break
            end += len(line)
        self._file.truncate(end)
        return end > 0

    def _take(self, content: Mapping[str, Any]) -> None:
        place = int(content["place"])
        if "pass" in content:
            self.passes[content["pass"], place] = [_unpacked(text) for text in content["values"]]
        elif "parts" in content:
            self.parts[place, int(content["index"])] = dict(content["parts"])
        else:
            logp_T = _unpacked(content["logp"])
            answer = Answer(tuple(content["ids"]), logp_T, content["text"], content["finish"])
            self.answers[place, int(content["index"])] = answer


def _packed(values: Floats) -> str:
    return base64.b64encode(np.asarray(values, "<f4").tobytes()).decode("ascii")


def _unpacked(text: str) -> Floats:
    return np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float32)
