"""The scorer `code`: does the program in a response pass the tests of its row?"""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from luthier.recipe.schema import Why
from luthier.scorers.code.program import completed, program
from luthier.scorers.code.tests import Pair, Tests, tests_of
from luthier.scorers.metric import Metric, text
from luthier.scorers.sandbox import CORES, Limits, Running, Sandbox
from luthier.types import Example, Response

ROOM = "luthier.scorers.code"
SERVER = (f"{ROOM}.values", f"{ROOM}.line", f"{ROOM}.answering")
ASKER = (*SERVER, f"{ROOM}.asking")


@dataclass(frozen=True)
class Verdict:
    """What came of a program. `share` is None where the sandbox failed: that says nothing about the program."""

    share: float | None
    why: str = ""
    """The first thing that went wrong."""


@dataclass(frozen=True)
class Code(Metric):
    """1 when the Python program in a response passes all tests of its row, otherwise 0.

    The program is the last fenced block, else the whole response. The tests are those of MBPP, HumanEval, or a column
    `tests` (asserts, or pairs of input and output); else the row's answer, if that is asserts. Program and tests run in
    two sandboxes: the program never sees the tests, only the arguments it is called with, and what it returns is
    compared as plain values on the other side. None where the sandbox itself fails, or the row has no tests.
    """

    share: bool = False
    """Give the share of the tests that pass, each assert by itself, instead of all or nothing."""
    seconds: Annotated[float, Field(gt=0, le=3600), Why("the slowest reference solution of MBPP takes under one")] = 5.0
    """CPU time a program may use; by the clock it has three times that, and a second."""
    memory_mb: Annotated[int, Field(ge=64)] = 512
    """Memory it may use."""
    walls: Literal["required", "best"] = "required"
    """required: refuse where nothing keeps programs from this machine's files and network. best: run them all the same,
    with your rights."""
    packages: bool = False
    """May programs import the installed packages (numpy, …)? Otherwise the standard library only."""
    needs_reference: ClassVar[bool] = False

    def __call__(self, example: Example, response: Response) -> float | None:
        return self.many([(example, response)])[0]

    def check(self) -> None:
        """Raise LuthierError where the walls asked for do not stand; say which do."""
        self._sandbox.tell("code")

    @property
    def waits(self) -> bool:
        return True

    def lacks(self, example: Example) -> str | None:
        tests = tests_of(example, self.share)
        return "no `tests`, nor asserts as an `answer`" if tests is None or tests.count == 0 else None

    def statistics_many(self, pairs: Sequence[tuple[Example, Response]]) -> list[tuple[float, ...] | None]:
        return [None if score is None else (score, 1.0) for score in self.many(pairs)]

    def many(self, pairs: Sequence[tuple[Example, Response]]) -> list[float | None]:
        """The score of each response, as many at once as there are cores; equal programs for a row run once."""
        return [verdict.share for verdict in self.verdicts(pairs)]

    def verdicts(self, pairs: Sequence[tuple[Example, Response]]) -> list[Verdict]:
        """Like `many`, with what went wrong."""
        if not pairs:
            return []
        self.check()
        known: dict[int, Tests | None] = {}
        asked: list[tuple[int, str | None]] = []
        for example, response in pairs:
            if id(example) not in known:
                known[id(example)] = tests_of(example, self.share)
            asked.append((id(example), program(text(response))))
        once = list(dict.fromkeys(asked))
        with ThreadPoolExecutor(min(CORES, len(once))) as pool:
            found = dict(zip(once, pool.map(lambda one: self._verdict(known[one[0]], one[1]), once), strict=True))
        return [found[one] for one in asked]

    @property
    def _sandbox(self) -> Sandbox:
        return Sandbox(Limits(seconds=self.seconds, memory_mb=self.memory_mb), self.walls)

    def _verdict(self, tests: Tests | None, source: str | None) -> Verdict:
        if tests is None or tests.count == 0:
            return Verdict(None, "the row has no tests")
        if source is None:
            return Verdict(0.0, "no program")
        with self._sandbox.place():
            if tests.pairs:
                return self._by_pairs(tests.pairs, source)
            return self._by_calls(tests, completed(tests.begins, source, tests.entry) if tests.begins else (source,))

    def _by_pairs(self, pairs: Sequence[Pair], source: str) -> Verdict:
        """Run it as a script once for each input. What it is to print never goes into the sandbox."""
        passed, why = 0, ""
        for pair in pairs:
            work = {"sources": [source], "fds": None}
            with self._sandbox.start(modules=SERVER, work=work, stdin=pair.input, packages=self._packages) as running:
                ended = running.finish(self._sandbox.limits.clock)
            if ended.ended == "start":
                return Verdict(None, ended.err[-500:])
            right = ended.ended == "exit" and ended.code == 0 and _lines(ended.out) == _lines(pair.output)
            passed += right
            why = why or ("" if right else ended.err[-500:] or f"{ended.ended}: printed {ended.out[:200]!r}")
            if not right and not self.share:
                return Verdict(0.0, why)
        return Verdict(passed / len(pairs), why)

    def _by_calls(self, tests: Tests, sources: Sequence[str]) -> Verdict:
        """Run it in one sandbox and the tests in another, with two pipes between them."""
        asked, answered = os.pipe(), os.pipe()
        try:
            server = {"sources": list(sources), "fds": (asked[0], answered[1])}
            with self._start(SERVER, server) as running:
                os.close(asked[0])
                asked = (-1, asked[1])
                os.close(answered[1])
                answered = (answered[0], -1)
                return self._judged(tests, running, answered[0], asked[1])
        finally:
            for end in (*asked, *answered):
                if end >= 0:
                    os.close(end)

    def _judged(self, tests: Tests, running: Running, read: int, write: int) -> Verdict:
        clock = self._sandbox.limits.clock
        work = {
            "fds": (read, write), "clock": clock, "random": tests.random, "before": tests.before, "setup": tests.setup,
            "names": [(True, list(tests.classes)), (False, [n for n in tests.names if n not in tests.classes])],
            "blocks": list(tests.blocks), "stop": not self.share,
        }  # fmt: skip
        sandbox = self._sandbox
        sandbox = replace(sandbox, limits=replace(sandbox.limits, seconds=2 * self.seconds + 2))
        with sandbox.start(modules=ASKER, work=work, packages=self._packages, fds=(read, write)) as judge:
            ended = judge.finish(clock + 5.0, beside=(running,))
        said = dict(line.partition(" ")[::2] for line in ended.out.split("\n") if line)
        if "passed" in said:
            passed, broken = len(said["passed"].split()), int(said["broken"])
            share = passed / (tests.count + broken)
            return Verdict(share if self.share else float(share == 1.0), said["why"])
        if ended.ended == "start" or not running.has_begun():
            return Verdict(None, f"the sandbox failed: {ended.err[-500:]}")
        return Verdict(0.0, f"{ended.ended}: the tests never ended")

    def _start(self, modules: Sequence[str], work: dict[str, Any]) -> Running:
        return self._sandbox.start(modules=modules, work=work, packages=self._packages, fds=work["fds"], quiet=True)

    @property
    def _packages(self) -> tuple[str, ...]:
        folders = (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
        return tuple(dict.fromkeys(folders)) if self.packages else ()


def _lines(text: str) -> list[str]:
    """What was printed, without blanks at the ends of lines and at the end."""
    return [line.rstrip() for line in text.rstrip().split("\n")]
