"""How fast an endpoint may be asked, and how much may be spent on it. Both count a call before it is made, as if its
answer were the longest it may be, and correct that when it has come."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from luthier.errors import LuthierError


@dataclass(eq=False)
class Entry:
    """One call: when it began, and its tokens."""

    at: float
    tokens: int


class Pace:
    """At most so many calls, and so many tokens, in any minute."""

    def __init__(
        self,
        calls: int | None,
        tokens: int | None,
        *,
        minute: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._calls, self._tokens, self._minute, self._clock = calls, tokens, minute, clock
        self._recent: deque[Entry] = deque()
        self._lock = threading.Lock()

    def take(self, tokens: int) -> Entry | float:
        """The call, which may begin now, or for how many seconds to wait before asking again."""
        with self._lock:
            now = self._clock()
            while self._recent and self._recent[0].at <= now - self._minute:
                self._recent.popleft()
            if wait := self._wait(tokens, now):
                return wait
            entry = Entry(now, tokens)
            self._recent.append(entry)
            return entry

    def settle(self, entry: Entry, tokens: int) -> None:
        """So many tokens it was in the end."""
        with self._lock:
            entry.tokens = tokens

    def _wait(self, tokens: int, now: float) -> float:
        """Seconds until enough of the last minute's calls are a minute old. A call that is larger than the whole
        minute's share waits until it is alone."""
        until: float | None = None  # when the last of those that stand in the way began
        if self._calls is not None and len(self._recent) >= self._calls:
            until = self._recent[len(self._recent) - self._calls].at
        if self._tokens is not None:
            over = sum(entry.tokens for entry in self._recent) + tokens - self._tokens
            for entry in self._recent:
                if over <= 0:
                    break
                over, until = over - entry.tokens, entry.at if until is None else max(until, entry.at)
        return 0.0 if until is None else max(until + self._minute - now, 0.001)


@dataclass(eq=False)
class Reserved:
    """What one call may come to."""

    tokens_in: int
    tokens_out: int


class Budget:
    """What has been spent, and the end of it. Never more than allowed: a call that might go beyond waits until those
    under way have shown what they really take, and where none is, it is refused."""

    def __init__(self, prices: tuple[float, float], max_cost: float | None, max_tokens: int | None) -> None:
        """`prices`: of a million tokens, in and out."""
        self._prices, self._max_cost, self._max_tokens = prices, max_cost, max_tokens
        self._under_way: set[Reserved] = set()
        self._settled = threading.Condition()
        self.calls, self.tokens_in, self.tokens_out = 0, 0, 0

    def reserve(self, tokens_in: int, tokens_out: int, where: str) -> Reserved:
        """Room for a call. Raises LuthierError, saying what was spent, where there is none left."""
        wanted = Reserved(tokens_in, tokens_out)
        with self._settled:
            while not self._fits([*self._under_way, wanted]):
                if not self._under_way:
                    raise self._over(wanted, where)
                self._settled.wait()
            self._under_way.add(wanted)
        return wanted

    def settle(self, reserved: Reserved, tokens_in: int, tokens_out: int) -> None:
        """The call has ended, and took so much."""
        with self._settled:
            self._under_way.discard(reserved)
            self.calls += 1
            self.tokens_in += tokens_in
            self.tokens_out += tokens_out
            self._settled.notify_all()

    def release(self, reserved: Reserved) -> None:
        """The call was not made, or was refused: it takes nothing."""
        with self._settled:
            self._under_way.discard(reserved)
            self._settled.notify_all()

    @property
    def spent(self) -> str:
        """In words."""
        tokens = f"{self.tokens_in:,} tokens read and {self.tokens_out:,} written in {self.calls:,} calls"
        cost = self._cost(self.tokens_in, self.tokens_out)
        return f"{tokens}, {cost:.6g} in cost" if any(self._prices) else tokens

    def _cost(self, tokens_in: int, tokens_out: int) -> float:
        return (tokens_in * self._prices[0] + tokens_out * self._prices[1]) / 1e6

    def _fits(self, calls: list[Reserved]) -> bool:
        tokens_in = self.tokens_in + sum(call.tokens_in for call in calls)
        tokens_out = self.tokens_out + sum(call.tokens_out for call in calls)
        if self._max_tokens is not None and tokens_in + tokens_out > self._max_tokens:
            return False
        return self._max_cost is None or self._cost(tokens_in, tokens_out) <= self._max_cost

    def _over(self, wanted: Reserved, where: str) -> LuthierError:
        limits = [] if self._max_cost is None else [f"max_cost {self._max_cost:g}"]
        limits += [] if self._max_tokens is None else [f"max_total_tokens {self._max_tokens:,}"]
        return LuthierError(
            f"the budget ({', '.join(limits)}) is used up: {self.spent}; the next call may take "
            f"{wanted.tokens_in:,} tokens in and {wanted.tokens_out:,} out",
            where=where,
            fix="raise it, or ask for less (fewer rows, a smaller max_new_tokens); answers that were kept cost nothing",
        )
