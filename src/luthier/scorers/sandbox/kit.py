"""Modules of ours as code that a process without our package can run: nothing of the package lies in the sandbox."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from types import CodeType

from luthier.errors import LuthierError

Parcel = tuple[tuple[str, CodeType | None], ...]
"""Names of modules with their code, in the order they are to be run; None for a package that only holds others."""


@cache
def parcel(*names: str) -> Parcel:
    """The code of modules, and empty packages around them. Each may import those before it and the standard library."""
    around = sorted({name.rsplit(".", depth)[0] for name in names for depth in range(1, name.count(".") + 1)})
    return (*((name, None) for name in around), *((name, _code(name)) for name in names))


def _code(name: str) -> CodeType:
    spec = find_spec(name)
    code: CodeType | None = spec.loader.get_code(name) if spec and spec.loader else None  # type: ignore[attr-defined]
    if code is None:
        raise LuthierError(f"the module {name!r} has no code", fix="install Luthier from its wheel or sources again")
    return code
