"""Waiting for the user's own function: given up after a while where that is wished, and never in silence."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

LOG = logging.getLogger(__name__)
EVERY = 60.0
"""Seconds of silence after which a word is said."""


class GivenUp(Exception):
    """The call has not come back in time."""


def within(call: Callable[[], Any], seconds: float | None) -> Any:
    """What the call gives. Raises GivenUp where it takes longer: a thread of its own is left behind with it, which ends
    with the process."""
    if seconds is None:
        return call()
    outcome: list[Any] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(call())
        except BaseException as error:  # raised again below, in the thread that asked
            failure.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if failure:
        raise failure[0]
    if not outcome:
        raise GivenUp
    return outcome[0]


class Watch:
    """Says every minute what is waited for, and since when. Use as a context manager."""

    def __init__(self, name: str) -> None:
        self._name, self._of, self._since = name, "", time.monotonic()
        self._over = threading.Event()

    def waits(self, of: str) -> None:
        """It waits for this now."""
        self._of, self._since = of, time.monotonic()

    def __enter__(self) -> Watch:
        threading.Thread(target=self._run, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()

    def _run(self) -> None:
        while not self._over.wait(EVERY):
            since = time.monotonic() - self._since
            if since >= EVERY:
                LOG.warning(
                    "%s has not come back for %.0f seconds%s; `seconds` of the scorer gives up on a call",
                    self._name, since, self._of,
                )  # fmt: skip
