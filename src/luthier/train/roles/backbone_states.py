"""Hidden states of rows in one file that only grows, found by a key; what a killed run wrote is there for the next."""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

from luthier import cache
from luthier.errors import LuthierError

RECORD = struct.Struct("<16sQII")
"""One entry of the index: key, place of the first byte, tokens, checksum."""
DATA, INDEX, IDENTITY = "states.bin", "index.bin", "identity.txt"


class States:
    """At most `limit` tokens, each `width` numbers of type `dtype`. A folder of another identity is emptied."""

    def __init__(self, folder: Path, width: int, dtype: torch.dtype, limit: int, identity: str) -> None:
        self.folder, self.width, self.dtype, self.limit = folder, width, dtype, limit
        stamp = folder / IDENTITY
        if not stamp.is_file() or stamp.read_text(encoding="utf-8") != identity:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            stamp.write_text(identity, encoding="utf-8")
        self._data, self._index = (self._open(name) for name in (DATA, INDEX))
        self._entries: dict[bytes, tuple[int, int, int]] = {}
        self.nbytes = os.fstat(self._data).st_size
        self.tokens = 0
        self._read_index()

    def _open(self, name: str) -> int:
        return os.open(self.folder / name, os.O_RDWR | os.O_CREAT | os.O_APPEND)

    def _read_index(self) -> None:
        raw = os.pread(self._index, os.fstat(self._index).st_size, 0)
        whole = len(raw) - len(raw) % RECORD.size
        os.ftruncate(self._index, whole)  # a record cut short by a kill
        for key, start, length, checksum in RECORD.iter_unpack(raw[:whole]):
            self._entries[key] = start, length, checksum
            data = os.pread(self._data, self._size(length), start)
            if len(data) < self._size(length) or zlib.crc32(data) != checksum:
                del self._entries[key]  # the machine went down before the bytes were on the disk
            else:
                self.tokens += length

    def _size(self, tokens: int) -> int:
        return tokens * self.width * self.dtype.itemsize

    @property
    def most(self) -> int:
        """Bytes at the limit."""
        return self._size(self.limit)

    def require_space(self) -> None:
        """Raises LuthierError if the disk cannot hold as much as may come."""
        free = shutil.disk_usage(self.folder).free + self.nbytes
        if free < self.most:
            raise LuthierError(
                f"the frozen blocks' outputs need up to {self.most / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free",
                where=str(self.folder),
                fix="free space, set `output:` on a larger disk, or leave cache_backbone out",
            )

    def remove(self) -> None:
        """Give the disk back."""
        shutil.rmtree(self.folder)

    def __contains__(self, key: bytes) -> bool:
        return key in self._entries

    def add(self, key: bytes, hidden_LD: Tensor) -> None:
        """Store a row's states, unless the limit is reached. Raises LuthierError when the disk is full."""
        length = hidden_LD.shape[0]
        if self.tokens + length > self.limit:
            return
        data = hidden_LD.to(self.dtype).contiguous().cpu().view(torch.uint8).numpy().tobytes()
        try:
            _write(self._data, data)
            _write(self._index, RECORD.pack(key, self.nbytes, length, zlib.crc32(data)))
        except OSError as error:
            if cache.is_full(error):
                raise cache.no_space(self.folder, "the frozen blocks' outputs") from error
            raise
        self._entries[key] = self.nbytes, length, 0
        self.nbytes += len(data)
        self.tokens += length

    def read(self, key: bytes) -> Tensor:
        """L, D. Raises KeyError."""
        start, length, _ = self._entries[key]
        data = bytearray(os.pread(self._data, self._size(length), start))
        return torch.frombuffer(data, dtype=self.dtype).view(length, self.width)

    def close(self) -> None:
        """Close the files."""
        os.close(self._data)
        os.close(self._index)


def _write(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
