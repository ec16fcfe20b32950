"""Plain values as bytes and back, between a program that is not to be trusted and the tests that judge it.

Only exact built-in types come out: a subclass goes over as what it derives from, so that nothing with an `__eq__` of
its own ever meets a test. What is no plain value goes over as a number that its own side knows it by. Runs inside the
sandbox on both sides, so it imports nothing: that is faster, and nothing can be put in its place.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as typing has it: importing that takes longer than all of this
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Own = Callable[[Any], tuple[bytes, int] | None]
    """What a value that is not plain is called on the other side: whose it is, and its number; None: it has no name."""

DEEPEST = 200
"""Values nested deeper than this are refused."""
MADE = {("decimal", "Decimal"): str, ("fractions", "Fraction"): str}
"""Values of the standard library that go over as their text: (module, class)."""

TYPES = (object, type, bool, int, float, complex, str, bytes, bytearray, list, tuple, set, frozenset, dict, range)
"""Built-in classes go over by name; functions do not, lest a program hand a test one that does more than its own."""
NAMED = {kind.__name__: kind for kind in TYPES}


class Unsayable(ValueError):
    """This value cannot be handed over, or these bytes are no value."""


def encode(value: Any, own: Own) -> bytes:
    """A value as bytes. Raises Unsayable."""
    out: list[bytes] = []
    _put(value, own, out, 0)
    return b"".join(out)


def _put(value: Any, own: Own, out: list[bytes], depth: int) -> None:
    if depth > DEEPEST:
        raise Unsayable("nested too deeply")
    if value is None or value is True or value is False:
        out.append(b"N" if value is None else b"T" if value else b"F")
    elif isinstance(value, int):
        _text(b"i", format(int(value), "x"), out)
    elif isinstance(value, float):
        _text(b"f", float.hex(value), out)
    elif isinstance(value, complex):
        _text(b"c", f"{value.real.hex()} {value.imag.hex()}", out)
    elif isinstance(value, str):
        _text(b"s", str.__str__(value), out)
    elif isinstance(value, bytes | bytearray):
        _bytes(b"b" if isinstance(value, bytes) else b"a", bytes(value), out)
    elif isinstance(value, dict):
        pairs = [part for pair in dict.items(value) for part in pair]
        _many(b"d", pairs, own, out, depth)
    elif isinstance(value, list | tuple | set | frozenset):
        tags: tuple[tuple[Any, bytes], ...] = ((list, b"l"), (tuple, b"t"), (set, b"S"), (frozenset, b"z"))
        kind, tag = next((kind, tag) for kind, tag in tags if isinstance(value, kind))
        _many(tag, list(kind.__iter__(value)), own, out, depth)
    elif isinstance(value, range):
        _many(b"r", [value.start, value.stop, value.step], own, out, depth)
    else:
        _other(value, own, out, depth)


def _other(value: Any, own: Own, out: list[bytes], depth: int) -> None:
    """What is no built-in type: views of dictionaries, decimals, fractions, numpy's arrays; else as `own` has it."""
    kind = type(value)
    if kind is type and value in TYPES:
        _text(b"n", value.__name__, out)
    elif kind in (type({}.keys()), type({}.values()), type({}.items())):
        _many(b"l", list(value), own, out, depth)
    elif (kind.__module__, kind.__qualname__) in MADE:
        _text(b"m", f"{kind.__module__} {kind.__qualname__} {value}", out)
    elif kind.__module__ == "numpy" and kind.__name__ != "dtype" and callable(getattr(value, "tolist", None)):
        _put(value.tolist(), own, out, depth + 1)
    else:
        named = own(value)
        if named is None:
            raise Unsayable(f"a {kind.__name__} cannot be handed over")
        _text(named[0], str(named[1]), out)


def _many(tag: bytes, parts: list[Any], own: Own, out: list[bytes], depth: int) -> None:
    out.append(tag + b"%d:" % len(parts))
    for part in parts:
        _put(part, own, out, depth + 1)


def _text(tag: bytes, text: str, out: list[bytes]) -> None:
    _bytes(tag, text.encode("utf-8", "surrogatepass"), out)


def _bytes(tag: bytes, content: bytes, out: list[bytes]) -> None:
    out.append(tag + b"%d:" % len(content))
    out.append(content)


def decode(content: bytes, named: Callable[[bytes, int], Any]) -> Any:
    """The value that the bytes stand for; `named` gives what a number on the other side becomes here.

    Raises Unsayable for anything that `encode` does not write: the bytes may be forged.
    """
    reader = _Reader(content, named)
    try:
        value = reader.value(0)
    except Unsayable:
        raise
    except (ValueError, TypeError, IndexError, OverflowError, ArithmeticError, LookupError) as error:
        raise Unsayable(f"no value: {type(error).__name__}") from None
    if reader.at != len(content):
        raise Unsayable("more than a value")
    return value


class _Reader:
    def __init__(self, content: bytes, named: Callable[[bytes, int], Any]) -> None:
        self.content, self.named, self.at = content, named, 0

    def value(self, depth: int) -> Any:
        if depth > DEEPEST:
            raise Unsayable("nested too deeply")
        tag = self.content[self.at : self.at + 1]
        self.at += 1
        if tag in (b"N", b"T", b"F"):
            return {b"N": None, b"T": True, b"F": False}[tag]
        end = self.content.index(b":", self.at, self.at + 20)
        count = int(self.content[self.at : end])
        self.at = end + 1
        if count < 0 or count > len(self.content) - self.at:
            raise Unsayable("cut short")
        if tag in (b"l", b"t", b"S", b"z", b"d", b"r"):
            return self._many(tag, count, depth)
        part = self.content[self.at : self.at + count]
        self.at += count
        if tag in (b"b", b"a"):
            return part if tag == b"b" else bytearray(part)
        return self._single(tag, part.decode("utf-8", "surrogatepass"))

    def _many(self, tag: bytes, count: int, depth: int) -> Any:
        parts = [self.value(depth + 1) for _ in range(count)]
        if tag == b"d":
            return dict(zip(parts[::2], parts[1::2], strict=True))
        if tag == b"r":
            return range(*parts)
        return {b"l": list, b"t": tuple, b"S": set, b"z": frozenset}[tag](parts)

    def _single(self, tag: bytes, text: str) -> Any:
        if tag == b"s":
            return text
        if tag == b"i":
            return int(text, 16)
        if tag == b"f":
            return float.fromhex(text)
        if tag == b"c":
            real, imaginary = text.split(" ")
            return complex(float.fromhex(real), float.fromhex(imaginary))
        if tag == b"n":
            return NAMED[text]
        if tag == b"m":
            return _made(text)
        return self.named(tag, int(text))


def _made(text: str) -> Any:
    module, name, value = text.split(" ", 2)
    if (module, name) not in MADE:
        raise Unsayable(f"no value: {module}.{name}")
    return getattr(__import__(module), name)(value)
