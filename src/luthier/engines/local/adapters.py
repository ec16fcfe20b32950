"""Adapters by name over one base: thousands may be known, as many are in memory as there is room for.

One is read from disk when it is first asked for, beside the answers under way; the one that was unused longest leaves
when room is short, and none while an answer needs it.
"""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.errors import LuthierError
from luthier.models.decode.adapters import WEIGHTS
from luthier.models.decode.compiled import CompiledReader

MOMENT = 0.05
"""Seconds."""


@dataclass
class _Known:
    folder: Path
    generation: int
    """Never used twice: what was read under an adapter is not read on under another of its name."""
    stamp: tuple[int, int]
    """Of the file when it was registered."""
    number: int | None = None
    users: int = 0
    size: int = 0
    loading: Future[Any] | None = None


class Adapters:
    """Those that may be asked for by name. `room` bytes of them are kept in memory, more only while all are in use."""

    def __init__(self, reader: CompiledReader, room: int) -> None:
        self._reader, self._room = reader, room
        self._known: dict[str, _Known] = {}
        self._loaded: OrderedDict[str, None] = OrderedDict()
        """The longest unused first."""
        self._generations = 0
        self._reading = ThreadPoolExecutor(1, "adapters")
        self.held, self.in_use = 0, 0
        """Bytes in memory, and how many adapters are needed by answers under way."""
        self.read, self.dropped = 0, 0
        """How often one was read from disk, and how often one had to leave."""

    def __contains__(self, name: str) -> bool:
        return name in self._known

    @property
    def names(self) -> list[str]:
        """All that are known."""
        return list(self._known)

    def register(self, name: str, path: Path) -> None:
        """Make a folder's adapter known; no weight is read. Raises as the reader's `look` does."""
        self._reader.look(path)
        self._generations += 1
        self._known[name] = _Known(path, self._generations, _stamp(path))

    def folder(self, name: str) -> Path:
        """Where it lies."""
        return self._known[name].folder

    def generation(self, name: str) -> int:
        """Tells this adapter from all others that had or will have its name."""
        return self._known[name].generation

    def forget(self, name: str) -> None:
        """Raises LuthierError while answers need it."""
        known = self._known[name]
        if known.users:
            raise LuthierError(
                f"{known.users} answers under way need the adapter {name!r}", where="adapter", fix="let them end first"
            )
        self._drop(name)
        del self._known[name]

    def take(self, name: str) -> int | None:
        """The number of an adapter that an answer needs from now on; None while it is being read.

        Raises LuthierError where it cannot be read any more.
        """
        known = self._known[name]
        if known.number is None and not self._loaded_now(name, known):
            return None
        known.users += 1
        self.in_use += known.users == 1
        self._loaded.move_to_end(name)
        return known.number

    def give(self, name: str) -> None:
        """An answer has ended, or was put back."""
        known = self._known.get(name)
        if known is not None and known.users:
            known.users -= 1
            self.in_use -= not known.users

    def wait(self) -> None:
        """Until one that is being read is there, or a moment has gone by."""
        reading = [known.loading for known in self._known.values() if known.loading is not None]
        if reading:
            wait(reading, timeout=MOMENT, return_when=FIRST_COMPLETED)

    def _loaded_now(self, name: str, known: _Known) -> bool:
        if known.loading is None:
            known.loading = self._reading.submit(self._reader.adapter, known.folder)
        if not known.loading.done():
            return False
        loading, known.loading = known.loading, None
        if _stamp(known.folder) != known.stamp:
            raise LuthierError(
                f"the adapter {name!r} has changed on disk since it was loaded",
                where=str(known.folder),
                fix="load it again, under this name or another",
            )
        weights = loading.result()
        known.size = sum(lora.down.nbytes + lora.up.nbytes for lora in weights.values())
        self._make_room(known.size)
        known.number = self._reader.load(weights)
        self._loaded[name] = None
        self.held += known.size
        self.read += 1
        return True

    def _make_room(self, size: int) -> None:
        for name in list(self._loaded):
            if self.held + size <= self._room:
                return
            if not self._known[name].users:
                self._drop(name)
                self.dropped += 1

    def _drop(self, name: str) -> None:
        known = self._known[name]
        if known.number is not None:
            self._reader.unload(known.number)
            known.number = None
            self.held -= known.size
            del self._loaded[name]


def _stamp(path: Path) -> tuple[int, int]:
    """When an adapter's file was written, and its size."""
    try:
        found = (path / WEIGHTS).stat()
    except OSError as error:
        raise LuthierError(
            f"the adapter's {WEIGHTS} cannot be read: {error.strerror}", where=str(path), fix="give its folder again"
        ) from error
    return found.st_mtime_ns, found.st_size
