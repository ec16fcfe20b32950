"""What models were asked, and what they said: written down as it is answered, and never asked twice.

An append-only file, a line an answer, on the disk before the next one is looked at. A run that was stopped, another
threshold, the same rows in another recipe: all find the answers there.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from luthier import cache
from luthier.data.steps.tools import Budget, Speaking
from luthier.errors import LuthierError
from luthier.run import cut_half_line, json_line
from luthier.types import Completion, Request

Answers = dict[str, dict[int, dict[str, Any]]]
"""Key of a request → its answers by number."""


@dataclass(frozen=True)
class Spent:
    """What was asked for."""

    calls: int
    read: int
    """Tokens of prompts."""
    written: int
    """Tokens of answers."""
    ahead: int = 0
    """The most that those may have that are yet to come."""


class Calls:
    """The journals of all models, one for each that answers differently."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or cache.root() / "calls"
        self.asked: Counter[str] = Counter()
        """Answers that were paid for in this process, by purpose."""
        self._answers: dict[str, Answers] = {}
        self._used: dict[str, dict[str, Request]] = {}
        self._known: dict[Path, tuple[int, Answers]] = {}

    def __call__(
        self, speaking: Speaking, requests: Sequence[Request], purpose: str = "", budget: Budget | None = None
    ) -> list[tuple[Completion, ...]]:
        """The answers to each request, in order. Raises LuthierError where the budget is used up: what was answered is
        kept."""
        path = self.folder / f"{_digest(speaking.identity)}.jsonl"
        with _held(path) as file:
            size, known = self._known.get(path, (-1, {}))
            if size != path.stat().st_size:  # another process may have asked meanwhile
                known = _read(path)
            keys = [_key(request) for request in requests]
            fresh: dict[str, Request] = {}
            for key, request in zip(keys, requests, strict=True):
                if len(known.get(key, {})) < request.n:
                    fresh[key] = request
            self._spend(purpose, budget, dict(zip(keys, requests, strict=True)), known)
            for key, completion in _asked(speaking, fresh):
                if completion.index not in known.setdefault(key, {}):
                    known[key][completion.index] = _kept(file, key, completion)
                    self.asked[purpose] += 1
            self._known[path] = path.stat().st_size, known
            self._answers[purpose] = known
        return [
            tuple(_completion(known[key][index], index, request) for index in range(request.n))
            for key, request in zip(keys, requests, strict=True)
        ]

    @property
    def spent(self) -> dict[str, Spent]:
        """What each purpose takes, that which was paid for earlier included."""
        return {
            purpose: _spent({key: one for key, one in self._used[purpose].items() if key in known}, known)
            for purpose, known in self._answers.items()
        }

    def _spend(self, purpose: str, budget: Budget | None, wanted: Mapping[str, Request], known: Answers) -> None:
        """Raises LuthierError where these would be more than the budget has. What was answered before counts, too: so
        the same budget ends at the same row, whenever it is begun."""
        used = self._used.setdefault(purpose, {})
        used.update({key: request for key, request in wanted.items() if key not in used})
        if budget is None or (budget.calls, budget.tokens, budget.money) == (None, None, None):
            return
        spent = _spent(used, known)
        cost = budget.cost(spent.read, spent.written)
        ahead = budget.cost(spent.read, spent.written + spent.ahead)
        if budget.calls is not None and spent.calls > budget.calls:
            what = f"its budget of {budget.calls:,} calls is used up: these rows would take {spent.calls:,}"
        elif budget.tokens is not None and spent.written > budget.tokens:
            what = f"its budget of {budget.tokens:,} generated tokens is used up: {spent.written:,} so far"
        elif budget.money is not None and ahead > budget.money:
            what = (
                f"its budget of {budget.money:g} in money is used up: {cost:.4g} with these rows, at most {ahead:.4g}"
            )
        else:
            return
        raise LuthierError(what, where=purpose, fix="raise `budget`; what was answered is kept, and not asked again")


def _spent(used: Mapping[str, Request], known: Answers) -> Spent:
    """What these take: tokens read are those that were counted by who read them, else guessed, rather too high."""
    calls = read = written = ahead = 0
    for key, request in used.items():
        calls += request.n
        answers = known.get(key, {}).values()
        told = next((one["read"] for one in answers if one.get("read") is not None), None)
        read += request.n * (_length_of(request) if told is None else told)
        written += sum(one["tokens"] or 0 for one in answers)
        ahead += max(request.n - len(answers), 0) * request.sampling.max_new_tokens
    return Spent(calls, read, written, ahead)


def _length_of(request: Request) -> int:
    if request.prompt:
        return len(request.prompt)
    return sum(len(turn.text.encode("utf-8", "backslashreplace")) // 2 + 8 for turn in request.turns)


def _kept(file: BinaryIO, key: str, completion: Completion) -> dict[str, Any]:
    """The answer as it is written down, on the disk when this returns."""
    told: dict[str, Any] = {"text": completion.text, "finish": completion.finish, "tokens": _length(completion)}
    if completion.read is not None:
        told["read"] = completion.read
    file.write(json_line({"key": key, "index": completion.index, **told}).encode("utf-8", "backslashreplace"))
    file.flush()
    os.fsync(file.fileno())
    return told


def _asked(speaking: Speaking, fresh: dict[str, Request]) -> Iterator[tuple[str, Completion]]:
    """Each answer as it ends."""
    if fresh:
        numbered = [Request(**{**_fields(one), "id": key}) for key, one in fresh.items()]
        for completion in speaking.engine.run(numbered):
            yield str(completion.request), completion


def _fields(request: Request) -> dict[str, Any]:
    return {name: getattr(request, name) for name in ("prompt", "sampling", "n", "adapter", "turns", "tools")}


def _key(request: Request) -> str:
    """What is asked: whatever the answer hangs on besides the model."""
    turns = [
        [turn.role, turn.text, list(turn.media), [dict(call) for call in turn.calls], dict(turn.extra)]
        for turn in request.turns
    ]
    asked = [list(request.prompt), turns, list(request.tools), repr(request.sampling), request.adapter]
    return _digest(json.dumps(asked, default=str))


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "backslashreplace"), digest_size=16).hexdigest()


def _length(completion: Completion) -> int | None:
    return completion.length if completion.length is not None else len(completion.sampled) or None


def _completion(told: dict[str, Any], index: int, request: Request) -> Completion:
    """As it was written down: what was said, without tokens."""
    return Completion((), told["text"], told["finish"], length=told["tokens"], request=request.id, index=index)


@contextmanager
def _held(path: Path) -> Iterator[BinaryIO]:
    """The journal, for this process alone; another waits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        cut_half_line(file)
        yield file


def _read(path: Path) -> Answers:
    found: Answers = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                told = {name: row[name] for name in ("text", "finish", "tokens")} | {"read": row.get("read")}
                found.setdefault(row["key"], {})[int(row["index"])] = told
            except (ValueError, KeyError, TypeError) as error:
                what = "this line of the journal of calls is damaged"
                raise LuthierError(what, where=f"{path}:{number}", fix="delete that line; it is asked again") from error
    return found


__all__ = ["Calls", "Spent"]
