"""The program's side: it is run here, then called as the tests' side asks. Runs inside the sandbox.

Nothing here is to be trusted once the program has begun: it may change every line of it. All it can win is to send
other values than it would have returned, and it may return whatever it likes.
"""

from __future__ import annotations

import _operator
import sys

from luthier.scorers.code.line import Gone, Line
from luthier.scorers.code.values import Unsayable

TYPE_CHECKING = False  # as typing has it: importing that takes longer than all of this
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

OPERATORS: dict[str, Callable[..., Any]] = {
    **{name: getattr(_operator, name) for name in (
        "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and_", "or_", "xor", "neg", "pos", "abs",
        "invert", "eq", "lt", "le", "gt", "ge", "getitem", "setitem", "delitem", "contains",
    )},
    "len": len, "iter": iter, "str": str, "repr": repr, "bool": bool, "int": int, "float": float,
    "isinstance": isinstance,
}  # fmt: skip


class Server:
    """Keeps what the program made, by number, and does with it what is asked."""

    def __init__(self, read: int, write: int) -> None:
        self.line = Line(read, write, self._own, self._named)
        self.kept: list[Any] = []
        self.numbers: dict[int, int] = {}
        self.space: dict[str, Any] = {}

    def _own(self, value: Any) -> tuple[bytes, int]:
        if isinstance(value, _Back):
            return b"B", value.number
        if id(value) not in self.numbers:
            self.numbers[id(value)] = len(self.kept)
            self.kept.append(value)
        walks = hasattr(value, "__next__") and hasattr(value, "__iter__")
        return b"g" if walks else b"o", self.numbers[id(value)]

    def _named(self, tag: bytes, number: int) -> Any:
        if tag == b"I":  # an iterator of the tests', whose items follow when they are asked for
            return iter(_Back(self, number), _END)
        return self.kept[number] if tag == b"o" else _Back(self, number)

    def serve(self) -> None:
        """Answer until the other side has ended."""
        while True:
            message = self.line.receive()
            if message[0] == "is" or message[0] == "raised":
                continue  # nobody waits for it
            self.answer(message)

    def answer(self, message: tuple[Any, ...]) -> None:
        """Do what one message asks and send what came of it."""
        try:
            self.line.send("is", *getattr(self, f"do_{message[0]}")(*message[1:]))
        except Gone:
            raise
        except StopIteration:
            self.line.send("end")
        except BaseException as error:
            self.line.send("raised", *said(error))

    def do_look(self, names: list[str]) -> tuple[Any, ...]:
        """The program's names that are known, each with what it stands for."""
        return ({name: self.space[name] for name in names if name in self.space},)

    def do_call(self, function: Any, packed: list[bytes], named: bytes) -> tuple[Any, ...]:
        """Call with arguments; beside the result goes what the call has changed in them."""
        arguments = [self.line.unpack(part) for part in packed]
        result = function(*arguments, **self.line.unpack(named))
        changed = {}
        for index, argument in enumerate(arguments):
            if isinstance(argument, list | dict | set | bytearray):
                after = self.line.pack(argument)
                if after != packed[index]:
                    changed[index] = after
        return result, changed

    def do_get(self, thing: Any, name: str) -> tuple[Any, ...]:
        return (getattr(thing, name),)

    def do_set(self, thing: Any, name: str, value: Any) -> tuple[Any, ...]:
        setattr(thing, name, value)
        return (None,)

    def do_next(self, thing: Any) -> tuple[Any, ...]:
        return (next(thing),)

    def do_operator(self, name: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return (OPERATORS[name](*values),)


_END = object()


class _Back:
    """A function of the tests' that the program was handed: calling it asks the other side."""

    def __init__(self, server: Server, number: int) -> None:
        self.server, self.number = server, number

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.server.line.send("back", self.number, arguments, named)
        while True:
            message = self.server.line.receive()
            if message[0] == "is":
                return message[1]
            if message[0] == "end":
                return _END
            if message[0] == "raised":
                raise known_error(message[1])(message[2])
            self.server.answer(message)  # the function itself uses the program


def said(error: BaseException) -> tuple[str, str]:
    """An exception as the nearest built-in class and its words."""
    names = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"]
    try:
        words = str(error)[:500]
    except BaseException:
        words = ""
    return names[0], words


def known_error(name: Any) -> type[Exception]:
    """The built-in exception of a name. One that would end a process, or is unknown, is a RuntimeError."""
    found = vars(sys.modules["builtins"]).get(name) if type(name) is str else None
    plain = isinstance(found, type) and issubclass(found, Exception) and not issubclass(found, UnicodeError)
    return found if plain and not issubclass(found, BaseExceptionGroup) else RuntimeError  # type: ignore[return-value, arg-type]


def run(sources: list[str], name: str) -> dict[str, Any]:
    """Run the first of the sources that compiles, as a module of that name; its namespace."""
    fault: BaseException | None = None
    for source in sources:
        try:
            code = compile(source, "program.py", "exec")
        except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
            fault = fault or error
            continue
        module = type(sys)(name)
        sys.modules[name] = module
        if "random" in source:  # the same program has the same score every time
            import random

            random.seed(0)
        exec(code, module.__dict__)
        return module.__dict__
    raise fault or SyntaxError("no program")


def main(work: Mapping[str, Any]) -> None:
    """Serve calls, or with no one to serve, run the program as a script."""
    if work["fds"] is None:
        run(work["sources"], "__main__")
        return
    server = Server(*work["fds"])
    server.line.send("begun")
    try:
        server.space = run(work["sources"], "program")
    except BaseException as error:
        server.line.send("raised", *said(error))
    else:
        server.line.send("is")
    try:
        server.serve()
    except (Gone, Unsayable):
        return
