"""The tests' side: the row's tests run here as they stand, and what they know of the program are stand-ins that ask it.

Runs inside a sandbox of its own, where the program cannot reach it: neither its memory, its files nor its output. What
the program returns is a plain value of an exact built-in type, compared here. An object of the program's own can be
called and have its attributes read; comparing it, counting it or doing sums with it would be to take its word, so a
test that does fails, unless the tests themselves made it by a class of the program's (`Made`).
"""

from __future__ import annotations

import _signal  # `signal` imports much beside it
import os

from luthier.scorers.code.answering import known_error, said
from luthier.scorers.code.line import Gone, Line
from luthier.scorers.code.values import Unsayable

TYPE_CHECKING = False  # as typing has it: importing that takes longer than all of this
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, TypeVar

    T = TypeVar("T")


class OutOfTime(BaseException):
    """The clock has run out. No `except Exception` of a test stops it."""


class Remote:
    """An object of the program's. Its equal is only another one that the program says is."""

    __slots__ = ("_asks", "_number")

    def __init__(self, asks: Asks, number: int) -> None:
        object.__setattr__(self, "_asks", asks)
        object.__setattr__(self, "_number", number)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._asks.call(self, arguments, named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return self._asks.ask("get", self, name, made=type(self) is Made)

    def __setattr__(self, name: str, value: Any) -> None:
        self._asks.ask("set", self, name, value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and self._asks.ask("operator", "eq", (self, other)) is True

    def __hash__(self) -> int:
        return hash(self._number)

    def __bool__(self) -> bool:
        raise TypeError("an object of the program's is neither true nor false here")

    def __str__(self) -> str:
        return _exactly(str, self._asks.ask("operator", "str", (self,)))

    def __repr__(self) -> str:
        return _exactly(str, self._asks.ask("operator", "repr", (self,)))


class Made(Remote):
    """An object that the tests made by a class of the program's: how it behaves is what they test."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return self._asks.ask("operator", "eq", (self, other)) is True

    __hash__ = Remote.__hash__

    def __bool__(self) -> bool:
        return _exactly(bool, self._asks.ask("operator", "bool", (self,)))

    def __len__(self) -> int:
        return _exactly(int, self._asks.ask("operator", "len", (self,)))

    def __contains__(self, item: object) -> bool:
        return self._asks.ask("operator", "contains", (self, item)) is True

    def __instancecheck__(self, value: object) -> bool:
        """A class of the program's knows its own; that `value` is one is decided by where it came from."""
        return isinstance(value, Remote) and self._asks.ask("operator", "isinstance", (value, self)) is True


def _exactly(kind: type[T], value: Any) -> T:
    if type(value) is not kind:
        raise TypeError(f"the program gave no {kind.__name__}")
    return value


def _operator(name: str, turned: bool = False) -> Any:
    def method(self: Made, *others: Any) -> Any:
        return self._asks.ask("operator", name, (*others, self) if turned else (self, *others), made=True)

    return method


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and_", "or_", "xor"):
    setattr(Made, f"__{_name.strip('_')}__", _operator(_name))
    setattr(Made, f"__r{_name.strip('_')}__", _operator(_name, turned=True))
for _name in ("neg", "pos", "abs", "invert", "lt", "le", "gt", "ge", "getitem", "setitem", "delitem", "iter"):
    setattr(Made, f"__{_name}__", _operator(_name))


class Pulled:
    """An iterator of the program's: its items are asked for one by one, and only once."""

    def __init__(self, asks: Asks, number: int) -> None:
        self.asks, self.number = asks, number

    def __iter__(self) -> Pulled:
        return self

    def __next__(self) -> Any:
        return self.asks.ask("next", self)


class Asks:
    """The line to the program, and the functions of the tests' that it was handed."""

    def __init__(self, read: int, write: int) -> None:
        self.line = Line(read, write, self._own, self._named)
        self.kept: list[Any] = []
        self.made = False

    def _own(self, value: Any) -> tuple[bytes, int] | None:
        if isinstance(value, Remote):
            return b"o", value._number
        if isinstance(value, Pulled):
            return b"o", value.number
        walks = hasattr(value, "__next__")
        if not walks and not callable(value):
            return None
        self.kept.append(_next_of(value) if walks else value)
        return b"I" if walks else b"B", len(self.kept) - 1

    def _named(self, tag: bytes, number: int) -> Any:
        if tag == b"B":
            return self.kept[number]
        if tag not in (b"o", b"g"):
            raise Unsayable("no value")
        return Pulled(self, number) if tag == b"g" else (Made if self.made else Remote)(self, number)

    def call(self, function: Remote, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Call a function of the program's. What it changes in its arguments is changed in ours where it gives None, as
        `list.sort` does: else `f(xs) == sorted(xs)` would be true of one that empties `xs`."""
        packed = [self.line.pack(argument) for argument in arguments]
        made = type(function) is Made
        result, changed = self._exchange(("call", function, packed, self.line.pack(named)), made, 2)
        for index, content in changed.items() if result is None and type(changed) is dict else ():
            _change(arguments[index], self.line.unpack(content))
        return result

    def ask(self, *message: Any, made: bool = False) -> Any:
        """Ask for one value. Raises what the program raised, as a built-in exception."""
        return self._exchange(message, made, 1)[0]

    def _exchange(self, message: tuple[Any, ...], made: bool, count: int) -> tuple[Any, ...]:
        self.line.send(*message)
        while True:
            self.made = made
            answer = self.line.receive()
            if answer[0] == "is" and len(answer) == count + 1:
                return answer[1:]
            if answer[0] == "end":
                raise StopIteration
            if answer[0] == "raised" and len(answer) == 3:
                raise known_error(answer[1])(answer[2])
            if answer[0] != "back" or len(answer) != 4:
                raise Gone("no answer")
            self._back(*answer[1:])

    def _back(self, number: Any, arguments: Any, named: Any) -> None:
        """The program calls a function that a test has handed it."""
        try:
            self.line.send("is", self.kept[number](*arguments, **named))
        except StopIteration:
            self.line.send("end")
        except (OutOfTime, Gone):
            raise
        except Exception as error:
            self.line.send("raised", *said(error))


def _next_of(iterator: Any) -> Any:
    return lambda: next(iterator)


def _change(argument: Any, after: Any) -> None:
    """Make a list, dictionary, set or bytearray of the tests' what it has become in the program's hands."""
    if type(argument) is not type(after):
        return
    if isinstance(argument, list | bytearray):
        argument[:] = after
    elif isinstance(argument, dict | set):
        argument.clear()
        argument.update(after)


class Tally:
    """Which tests have passed: those that ran and never failed."""

    def __init__(self) -> None:
        self.passed: set[int] = set()
        self.failed: set[int] = set()
        self.broken = 0
        """Blocks that stopped outside of an assert."""
        self.why = ""

    def right(self, number: int) -> None:
        self.passed.add(number)

    def wrong(self, number: int | None, error: BaseException) -> None:
        if number is None:
            self.broken += 1
        else:
            self.failed.add(number)
        if not self.why:
            self.why = f"{type(error).__name__}: {_words(error)}"


def _words(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def main(work: Mapping[str, Any]) -> None:
    """Run the tests and write what came of it to standard output: the one thing outside that anybody believes."""
    out = os.dup(1)
    nowhere = os.open("/dev/null", os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    asks, tally = Asks(*work["fds"]), Tally()
    try:
        begun = asks.line.receive() == ("begun",)
    except (Gone, Unsayable):
        begun = False
    if not begun:
        os.write(out, b"unstarted\n")
        return
    os.write(out, b"begun\n")

    def ring(*_: object) -> None:
        raise OutOfTime

    _signal.signal(_signal.SIGALRM, ring)
    _signal.setitimer(_signal.ITIMER_REAL, work["clock"], 0.1)  # again and again: a test may catch everything
    try:
        _run(work, asks, tally)
    except (OutOfTime, Exception) as error:
        tally.why = tally.why or f"{type(error).__name__}: {_words(error)}"
    _signal.setitimer(_signal.ITIMER_REAL, 0)
    numbers = " ".join(str(number) for number in sorted(tally.passed - tally.failed))
    os.write(out, f"passed {numbers}\nbroken {tally.broken}\nwhy {tally.why}\n".encode("utf-8", "replace"))


def _run(work: Mapping[str, Any], asks: Asks, tally: Tally) -> None:
    loaded = asks.line.receive()
    if loaded != ("is",):
        tally.why = " ".join(str(part) for part in loaded[1:])[:200]
        return
    space: dict[str, Any] = {"__name__": "tests", "__right__": tally.right, "__wrong__": tally.wrong}
    if work["random"]:
        import random

        random.seed(0)
    if work["before"] is not None:
        exec(work["before"], space)
    for made, names in work["names"]:
        found = asks.ask("look", names, made=made)
        space.update({name: found[name] for name in names if type(found) is dict and name in found})
    if work["setup"] is not None:
        exec(work["setup"], space)
    for number, block in work["blocks"]:
        try:
            exec(block, space)
        except Exception as error:
            tally.wrong(number, error)
            if work["stop"]:
                return
        else:
            if number is not None:
                tally.right(number)
