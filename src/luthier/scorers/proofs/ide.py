"""Coq by the protocol of its editors (`coqidetop`): one sentence at a time, goals and messages told apart by structure.

What a tactic prints comes as a message with its text escaped, so nothing that a proof says can pass for an answer of
Coq. States are numbered; to go back to one forgets all that came after it, whatever that was.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import psutil

from luthier.scorers.proofs.checker import CheckerFailed
from luthier.scorers.proofs.launch import Limits, patience, start

PROGRAM = "coqidetop.opt"
FLAGS = ("-q", "-main-channel", "stdfds", "-async-proofs", "off", "-native-compiler", "no")
"""No file of the user's is read, everything happens in this one process, and nothing is compiled to machine code."""
ROOT = 1
"""The state of a fresh document."""
LONGEST = 4 << 20
"""Bytes of an answer: a proof that makes Coq say more is stopped."""
OURS = 60.0
"""Processor seconds for what is not the proof's doing: to load a header, and to ask what theorems rest on."""
STARVED = ("Out of memory", "Stack overflow")
"""Errors of Coq after which it still answers, but may have no room for the next proof."""
_END = b"</value>"


class Refused(ValueError):
    """Coq does not take a sentence. The message is Coq's."""


class Overrun(ValueError):
    """A sentence used more time or memory, or made Coq say more, than it may. The session is over."""


@dataclass(frozen=True, slots=True)
class Goals:
    """What is left to prove, each goal as text: its hypotheses, `⊢` and its conclusion."""

    focused: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    """Behind bullets and braces, or shelved."""
    given_up: int = 0

    @property
    def done(self) -> bool:
        return not (self.focused or self.waiting or self.given_up)


class Session:
    """One Coq process. `limits` are those of one proof: `fresh_budget` starts the count anew."""

    def __init__(self, folder: Path, limits: Limits, *, lifetime: float) -> None:
        self.limits, self.lifetime, self._closed = limits, lifetime, False
        self._started = start([PROGRAM, *FLAGS], folder, limits, cpu=lifetime)
        self.process, self._known = self._started.process, self._started.command
        self.fresh_budget(OURS)
        try:
            self._call("About", "<unit/>")
            self._call("Init", '<option val="none"/>')
        except (Overrun, Refused) as error:
            self.close()
            raise CheckerFailed(f"coq does not start: {error}") from error

    def close(self) -> None:
        """End it; a second time does nothing."""
        if not self._closed:
            self._closed = True
            self._started.stop()

    def fresh_budget(self, seconds: float | None = None) -> None:
        """From here on there is all the time of a proof again, or as many processor seconds as are given."""
        self._allowed = seconds or self.limits.seconds
        self._begun, self._since = self._cpu(), time.monotonic()

    @property
    def alive(self) -> bool:
        return not self._closed and self.process.poll() is None

    @property
    def worn(self) -> bool:
        """Has it so little of its lifetime left that a proof may not find its time?"""
        return self._cpu() + 2 * self.limits.seconds + OURS > self.lifetime

    def add(self, sentence: str, state: int) -> int:
        """Run one sentence in a state; the number of the state it leads to. Raises Refused, and is back in `state`."""
        place = "<int>0</int></pair><pair><int>0</int><int>0</int></pair></pair>"
        asked = f'<pair><string>{escape(sentence)}</string><int>-1</int></pair><pair><state_id val="{state}"/>'
        value, _ = self._call("Add", f'<pair><pair><pair>{asked}<bool val="true"/></pair></pair>{place}')
        made = int(_found(value, ".//state_id").get("val", "0"))
        try:
            self._call("Status", '<bool val="true"/>')  # only now is it run
        except Refused:
            self.back(state)
            raise
        return made

    def back(self, state: int) -> None:
        """Forget all that came after a state."""
        self._call("Edit_at", f'<state_id val="{state}"/>')

    def goals(self) -> Goals:
        """What is left to prove in the state reached last."""
        value, _ = self._call("Goal", "<unit/>")
        kinds = value.find(".//goals")
        if kinds is None:
            return Goals()
        focused, behind, shelved, given_up = list(kinds)
        waiting = [_spelt(goal) for kind in (behind, shelved) for goal in kind.findall(".//goal")]
        spelt = tuple(_spelt(goal) for goal in focused.findall("goal"))
        return Goals(spelt, tuple(waiting), len(given_up.findall(".//goal")))

    def ask(self, query: str, state: int) -> str:
        """What Coq answers to a query in a state, without what it says on the way. Raises Refused."""
        asked = f'<pair><string>{escape(query)}</string><state_id val="{state}"/></pair>'
        _, messages = self._call("Query", f'<pair><route_id val="7"/>{asked}</pair>')
        return "\n".join(messages)

    def _call(self, name: str, argument: str) -> tuple[ElementTree.Element, list[str]]:
        """One question and its answer, with the messages to route 7 before it. A session that breaks is over."""
        try:
            return self._asked(name, argument)
        except (Overrun, CheckerFailed):
            self.close()
            raise

    def _asked(self, name: str, argument: str) -> tuple[ElementTree.Element, list[str]]:
        try:
            assert self.process.stdin is not None
            self.process.stdin.write(f'<call val="{name}">{argument}</call>\n'.encode())
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None
        told = self._read().decode("utf-8", "replace")
        told = told[told.find("<") :].replace("&nbsp;", " ") if name != "About" else _first_value(told)
        try:
            tree = ElementTree.fromstring(f"<told>{told}</told>")
        except ElementTree.ParseError as error:
            raise CheckerFailed(f"coq answers what is not XML ({error})") from error
        value = _found(tree, "value")
        if value.get("val") != "good":
            said = _text(value)
            raise (Overrun if said.startswith(STARVED) else Refused)(said)
        routed = [feed for feed in tree.findall("feedback") if feed.get("route") == "7"]
        messages = [message for feed in routed for message in feed.findall(".//message")]
        return value, [_text(one) for one in messages if _found(one, "message_level").get("val") == "notice"]

    def _read(self) -> bytes:
        assert self.process.stdout is not None
        pipe, told, pause = self.process.stdout.fileno(), b"", 0.05
        while _END not in told[-len(_END) - 2 :]:
            if not select.select([pipe], [], [], pause)[0]:
                self._watch()
                pause = min(0.5, 2 * pause)
                continue
            part = os.read(pipe, 1 << 16)
            if not part:
                raise self._died()
            told += part
            if len(told) > LONGEST:
                raise Overrun("it makes coq say more than 4 MiB")
        return told

    def _watch(self) -> None:
        if self._cpu() - self._begun > self._allowed:
            raise Overrun(f"it takes more than {self._allowed:g} seconds")
        if time.monotonic() - self._since > patience(self._allowed):
            raise CheckerFailed("coq gets no processor: too much else is running")

    def _died(self) -> Exception:
        """Why there is no answer: a proof brought it down, or it was never there."""
        spent = "the time" if self._cpu() == 0.0 else "the memory"
        status = self.process.wait(timeout=10)
        if status in (126, 127):
            return CheckerFailed(f"{PROGRAM} cannot be run")
        return Overrun(f"coq ended with status {status}: it may have used up {spent} it may take")

    def _cpu(self) -> float:
        try:
            used = self._known.cpu_times()
        except psutil.NoSuchProcess:
            return 0.0
        return float(used.user + used.system)


def _first_value(told: str) -> str:
    """Without the warnings of a start, which are no XML."""
    return told[told.rfind("<value") :].replace("&nbsp;", " ")


def _found(tree: ElementTree.Element, path: str) -> ElementTree.Element:
    found = tree.find(path)
    if found is None:
        raise CheckerFailed(f"coq's answer has no {path}: is this version of Coq known?")
    return found


def _text(node: ElementTree.Element) -> str:
    return " ".join("".join(node.itertext()).split())


def _spelt(goal: ElementTree.Element) -> str:
    """A goal as text: its number in Coq is left out, so that equal goals are equal texts."""
    parts: Sequence[ElementTree.Element] = list(goal)
    hypotheses = [_text(one) for one in parts[1]]
    return "\n".join([*hypotheses, f"⊢ {_text(parts[2])}"])
