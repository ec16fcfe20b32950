"""What a model has answered and read once is kept on disk by model and prompt: a scoring that was stopped goes on where
it stood, and another one that asks the same is not made to wait."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier import cache
from luthier.errors import LuthierError
from luthier.types import Completion, Encoded, Engine, Request, Sampling

FORM = 1
"""Of what is kept; another one is another question."""


class Kept:
    """The answers of one model, in one file of the cache."""

    def __init__(self, identity: Any) -> None:
        """`identity`: all that answers hang on besides the prompt and how it is decoded, as JSON knows it."""
        name = hashlib.sha256(json.dumps([FORM, identity], sort_keys=True).encode()).hexdigest()
        self.path: Path = cache.root() / "scored" / f"{name}.sqlite"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._open()
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError:  # not whole: what is kept can be made again
                self.path.unlink()
                self._open()
        except (OSError, sqlite3.Error) as error:
            raise self._fault(error) from error

    def _open(self) -> None:
        self._base = sqlite3.connect(self.path, timeout=60.0)
        self._base.execute("PRAGMA journal_mode=WAL")
        self._base.execute("PRAGMA synchronous=NORMAL")
        self._base.execute("CREATE TABLE IF NOT EXISTS kept (name BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID")
        self._base.commit()

    def find(self, name: bytes) -> bytes | None:
        """What is kept under a name."""
        found = self._base.execute("SELECT value FROM kept WHERE name = ?", (name,)).fetchone()
        return None if found is None else bytes(found[0])

    def keep(self, values: Sequence[tuple[bytes, bytes]]) -> None:
        """Keep some, all or none of them."""
        try:
            with self._base:
                self._base.executemany("INSERT OR REPLACE INTO kept VALUES (?, ?)", values)
        except sqlite3.Error as error:
            raise self._fault(error) from error

    def forget(self) -> None:
        """Everything is asked anew from now on."""
        with self._base:
            self._base.execute("DELETE FROM kept")

    def _fault(self, error: Exception) -> LuthierError:
        return LuthierError(
            f"answers cannot be kept: {error}",
            where=str(self.path),
            fix="free space there, or set LUTHIER_CACHE to another folder",
        )


class Remembering:
    """An engine that asks only what is not kept. `found` and `asked` count both."""

    def __init__(self, engine: Engine, kept: Kept) -> None:
        self._engine, self._kept, self.context = engine, kept, engine.context
        self.found = self.asked = 0

    def run(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """As `Engine.run`: first the answers that are kept."""
        names = [_name_of(request) for request in requests]
        known = [
            self._kept.find(name) if request.n == 1 else None for name, request in zip(names, requests, strict=True)
        ]
        open_ = [request for request, value in zip(requests, known, strict=True) if value is None]
        left = {request.id: name for request, name in zip(requests, names, strict=True)}
        for request, value in zip(requests, known, strict=True):
            if value is not None:
                self.found += 1
                yield replace(_completion(value), request=request.id)
        single = {request.id for request in open_ if request.n == 1}
        for completion in self._engine.run(open_) if open_ else ():
            self.asked += 1
            if completion.request in single:
                self._kept.keep([(left[completion.request], _written(completion))])
            yield completion

    def logprobs(self, rows: Sequence[Encoded], adapter: str | None = None) -> list[NDArray[np.float32]]:
        """As `Engine.logprobs`, of those that are not kept."""
        names = [row.key + (adapter or "").encode() for row in rows]
        known = [self._kept.find(name) for name in names]
        open_ = [place for place, value in enumerate(known) if value is None]
        self.found, self.asked = self.found + len(rows) - len(open_), self.asked + len(open_)
        read = self._engine.logprobs([rows[place] for place in open_], adapter) if open_ else []
        self._kept.keep([(names[place], logps.tobytes()) for place, logps in zip(open_, read, strict=True)])
        fresh = dict(zip(open_, read, strict=True))
        return [
            fresh[place] if value is None else np.frombuffer(value, np.float32).copy()
            for place, value in enumerate(known)
        ]

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Completion]:
        """As `Engine.generate`; nothing is kept."""
        return self._engine.generate(prompts, sampling)

    def stream(self, prompt: Sequence[int], sampling: Sampling) -> Iterator[str]:
        """As `Engine.stream`; nothing is kept."""
        return self._engine.stream(prompt, sampling)

    def load_adapter(self, name: str, folder: str) -> None:
        """As `Engine.load_adapter`."""
        self._engine.load_adapter(name, folder)

    def drop_adapter(self, name: str) -> None:
        """As `Engine.drop_adapter`."""
        self._engine.drop_adapter(name)

    def sync(self, version: int) -> None:
        """As `Engine.sync`. What is kept is of the weights as they were."""
        self._engine.sync(version)


def _name_of(request: Request) -> bytes:
    """A request by all that its answer hangs on; greedy answers hang on no seed."""
    sampling = asdict(request.sampling)
    if request.sampling.temperature == 0:
        sampling["seed"] = 0
    content = json.dumps([list(request.prompt), sampling, request.adapter], sort_keys=True)
    return hashlib.blake2b(content.encode(), digest_size=16).digest()


def _written(completion: Completion) -> bytes:
    return json.dumps(
        {
            "ids": completion.ids,
            "text": completion.text,
            "finish": completion.finish,
            "sampled": completion.sampled,
            "logprobs": completion.logprobs,
            "length": completion.length,
        }
    ).encode()


def _completion(value: bytes) -> Completion:
    found = json.loads(value)
    return Completion(
        ids=tuple(found["ids"]),
        text=found["text"],
        finish=found["finish"],
        sampled=tuple(found["sampled"]),
        logprobs=tuple(found["logprobs"]),
        length=found["length"],
    )
