"""The user's own function as a scorer: a file and a name, called with plain values."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import math
import numbers
import sys
import threading
import traceback
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from luthier.errors import LuthierError
from luthier.recipe.schema import Why
from luthier.registry import suggest
from luthier.scorers.metric import Metric, text
from luthier.scorers.patience import GivenUp, Watch, within
from luthier.types import Example, Response

GIVEN: dict[str, Callable[[Example, Response], Any]] = {
    "prompt": lambda example, response: example.prompt[-1].text if example.prompt else "",
    "response": lambda example, response: text(response),
    "answer": lambda example, response: example.answer,
    "meta": lambda example, response: dict(example.meta),
    "messages": lambda example, response: [{"role": turn.role, "content": turn.text} for turn in example.prompt],
    "row": lambda example, response: str(example.source) if example.source else None,
}
"""What a function may ask for, by the names of its parameters."""


@dataclass(frozen=True)
class Python(Metric):
    """The score that your own function gives: any number, or None where it cannot say.

    It names what it wants as parameters: `prompt` (the last message), `response`, `answer`, `meta` (what else the row
    holds), `messages` (the whole prompt) and `row` (file and line). `async def` is awaited, many at once.
    """

    range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    needs_reference: ClassVar[bool] = False
    function: str
    """A file and the name of a function in it: `rewards.py:polite`."""
    batch: bool = False
    """It is given lists, of many responses at once, and gives a list of scores."""
    concurrency: Annotated[int, Field(gt=0), Why("what most endpoints bear")] = 16
    """How many calls of an `async` function wait at the same time."""
    seconds: Annotated[float, Field(gt=0)] | None = None
    """Give up on a call after so many seconds: it then says nothing of the answer. Default: wait as long as it
    takes."""

    right: bool = False
    """Its scores lie between 0 and 1 and say what is right (above 0.5): as the first of `reward:` it tells which
    prompts are easy, learnable or hopeless."""

    def __post_init__(self) -> None:
        if self.right:
            object.__setattr__(self, "range", (0.0, 1.0))
        path, colon, name = self.function.rpartition(":")
        if not colon or not name.isidentifier():
            raise LuthierError(
                f"scorer 'python': {self.function!r} names no function in a file",
                where="function",
                fix="write the file, a colon and the function: rewards.py:polite",
            )
        object.__setattr__(self, "function", f"{Path(path).expanduser().resolve()}:{name}")
        object.__setattr__(self, "_known", _function(self.function))  # it stays, whatever becomes of the file meanwhile
        self._wanted()

    _known: ClassVar[Callable[..., Any]]

    @property
    def waits(self) -> bool:
        return inspect.iscoroutinefunction(self._known)

    def files(self) -> tuple[str, ...]:
        return (self.function.rpartition(":")[0],)

    def __call__(self, example: Example, response: Response) -> float | None:
        return self.many([(example, response)])[0]

    def many(self, pairs: Sequence[tuple[Example, Response]]) -> list[float | None]:
        """The scores of many responses, in order.

        Raises LuthierError, naming file, line and row, where the function fails or gives anything but a finite number
        or None.
        """
        if not pairs:
            return []
        given = [{name: GIVEN[name](*pair) for name in self._wanted()} for pair in pairs]
        with Watch(self._name) as watch:
            scores = self._scores(given, pairs, watch)
        return [self._score(score, pair) for score, pair in zip(scores, pairs, strict=True)]

    def _scores(
        self, given: Sequence[dict[str, Any]], pairs: Sequence[tuple[Example, Response]], watch: Watch
    ) -> Sequence[Any]:
        """What the function gives for each."""
        function = self._known
        if self.batch:
            together = {name: [one[name] for one in given] for name in self._wanted()}
            watch.waits(_row(pairs))
            scores = self._called(lambda: _result(function(**together)), pairs)
            if scores is None and self.seconds is not None:
                return [None] * len(pairs)
            if not isinstance(scores, Sequence) or isinstance(scores, str) or len(scores) != len(pairs):
                told = f"{len(scores)} scores" if isinstance(scores, Sequence) else repr(scores)
                raise self._wrong(f"gave {told} for {len(pairs)} responses", "let it return a list, one score each")
            return scores
        if inspect.iscoroutinefunction(function):
            watch.waits(_row(pairs))
            return list(_awaited(self._all(function, given, pairs)))
        found = []
        for values, pair in zip(given, pairs, strict=True):
            watch.waits(_row([pair]))
            found.append(self._called(partial(function, **values), [pair]))
        return found

    def statistics_many(self, pairs: Sequence[tuple[Example, Response]]) -> list[tuple[float, ...] | None]:
        return [None if score is None else (score, 1.0) for score in self.many(pairs)]

    def _wanted(self) -> list[str]:
        """Which of the plain values the function takes. Raises LuthierError for a parameter that is none of them."""
        wanted: list[str] = []
        for name, parameter in inspect.signature(self._known).parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                return list(GIVEN)
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY) or (
                name not in GIVEN and parameter.default is parameter.empty
            ):
                many = name.removesuffix("s") in (*GIVEN, "completion")  # the names of lists, as in TRL
                lists = "one answer is `response`; lists come with `batch: true`, under the same names"
                raise self._wrong(
                    f"wants {name!r}, which it is not given", lists if many else suggest(name, list(GIVEN))
                )
            if name in GIVEN:
                wanted.append(name)
        return wanted

    async def _all(
        self, function: Callable[..., Any], given: Sequence[dict[str, Any]], pairs: Sequence[tuple[Example, Response]]
    ) -> list[Any]:
        room = asyncio.Semaphore(self.concurrency)

        async def one(values: dict[str, Any], pair: tuple[Example, Response]) -> Any:
            async with room:
                try:
                    async with asyncio.timeout(self.seconds) as limit:
                        return await function(**values)
                except (Exception, SystemExit) as error:
                    if limit.expired() and isinstance(error, TimeoutError):
                        return None
                    raise self._failed(error, [pair]) from error

        return list(await asyncio.gather(*(one(*each) for each in zip(given, pairs, strict=True))))

    def _called(self, call: Callable[[], Any], pairs: Sequence[tuple[Example, Response]]) -> Any:
        """What it gives; None where it takes too long."""
        try:
            return within(call, self.seconds)
        except GivenUp:
            return None
        except LuthierError:
            raise
        except (Exception, SystemExit) as error:
            raise self._failed(error, pairs) from error

    def _score(self, score: Any, pair: tuple[Example, Response]) -> float | None:
        if score is None:
            return None
        if not isinstance(score, numbers.Real | np.bool_):
            told = f"gave {type(score).__name__} {score!r:.60}"
        elif not math.isfinite(value := float(score)):
            told = f"gave {value}"
        elif self.right and not 0 <= value <= 1:
            told = f"gave {value:g}, and `right: true` says that it lies between 0 and 1,"
        else:
            return value
        raise self._wrong(f"{told}{_row([pair])}", "let it return a finite number, or None where it cannot say")

    def _failed(self, error: BaseException, pairs: Sequence[tuple[Example, Response]]) -> LuthierError:
        path = self.function.rpartition(":")[0]
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
        place = f"{path}:{lines[-1]}" if lines else path
        return LuthierError(
            f"{self._name} failed with {type(error).__name__}: {error}{_row(pairs)}",
            where=place,
            fix="mend the function; --debug shows the whole traceback",
        )

    def _wrong(self, what: str, fix: str) -> LuthierError:
        path = self.function.rpartition(":")[0]
        line = inspect.unwrap(self._known).__code__.co_firstlineno
        return LuthierError(f"{self._name} {what}", where=f"{path}:{line}", fix=fix)

    @property
    def _name(self) -> str:
        return self.function.rpartition(":")[2]


def _row(pairs: Sequence[tuple[Example, Response]]) -> str:
    """' for the response to rows.jsonl:3', where it is known."""
    named = dict.fromkeys(str(example.source) for example, _ in pairs if example.source)
    few = ", ".join(list(named)[:3]) + (" …" if len(named) > 3 else "")
    return f" for the response to {few}" if named else ""


def _result(value: Any) -> Any:
    value = _awaited(value) if inspect.iscoroutine(value) else value
    return value.tolist() if type(value).__module__ == "numpy" else value


def _awaited(work: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine comes to, whether or not this thread has a loop of its own already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    outcome: list[Any] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(asyncio.run(work))
        except BaseException as error:  # raised again below, in the thread that asked
            failure.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def _function(place: str) -> Callable[..., Any]:
    path, _, name = place.rpartition(":")
    try:
        changed = Path(path).stat().st_mtime_ns
    except OSError as error:
        raise LuthierError(
            f"the file of the scorer 'python' cannot be read: {error.strerror}",
            where=path,
            fix="name a file that is there, from the folder that luthier runs in",
        ) from error
    module = _loaded(path, changed)
    found = getattr(module, name, None)
    if not inspect.isfunction(found):
        known = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        what = f"there is no function {name!r}" if found is None else f"{name!r} is no function"
        raise LuthierError(what, where=path, fix=suggest(name, known) if known else "write `def` and its name")
    return found


@lru_cache(maxsize=16)
def _loaded(path: str, changed: int) -> Any:
    """The module of a file, run once for each state of it; what lies beside it may be imported meanwhile."""
    name = f"luthier_own_{abs(hash(path)):x}_{Path(path).stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise LuthierError("this is no Python file", where=path, fix="name a file that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    sys.path.insert(0, str(Path(path).parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        line = error.lineno if isinstance(error, SyntaxError) else None
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
        line = line or (lines[-1] if lines else None)
        raise LuthierError(
            f"the file fails when it is run: {type(error).__name__}: {error}",
            where=f"{path}:{line}" if line else path,
            fix="mend it, or install what it imports",
        ) from error
    finally:
        sys.path.remove(str(Path(path).parent))
    return module
