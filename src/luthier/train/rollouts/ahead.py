"""The next rollout's answers drawn while this one trains: a thread that fills the next one's journal.

Whoever needs the rollout waits for the thread, reads the journal as after a kill, and draws what is missing. Nothing is
judged here: scorers may draw random numbers, and training must draw its own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

from luthier.train.rollouts.carrying import Elsewhere
from luthier.train.rollouts.drawn import Answer, Draw
from luthier.train.rollouts.journal import Journal
from luthier.train.rollouts.speaking import Speaking


class Ahead:
    """At most one rollout is drawn ahead at a time."""

    def __init__(self, speaking: Speaking) -> None:
        self._speaking = speaking
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()
        self._error: BaseException | None = None
        self._made = 0

    def begin(self, draws: Sequence[Draw], journal: Journal) -> None:
        """Draw what the journal lacks of these, by the weights that answer now; the journal is closed when all is
        there."""
        assert isinstance(self._speaking.engine, Elsewhere), "the weights that train cannot answer beside training"
        assert self._thread is None, "the rollout before has not been waited for"
        answers = self._speaking.begin(draws, journal)
        self._made = 0
        self._thread = threading.Thread(target=self._write, args=(answers, journal), daemon=True)
        self._thread.start()

    def wait(self) -> int:
        """Until all is there; how many tokens were drawn. Raises what the engine has raised."""
        if self._thread is None:
            return 0
        self._thread.join()
        self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error
        return self._made

    def stop(self) -> None:
        """Nobody waits for it any more; what has come stays in the journal."""
        if self._thread is not None:
            self._stopped.set()
            self._thread.join()
            self._thread = None

    def _write(self, answers: Iterator[tuple[int, int, Answer]], journal: Journal) -> None:
        try:
            for place, index, answer in answers:
                journal.answer(place, index, answer)
                self._made += len(answer.ids)
                if self._stopped.is_set():
                    break
        except BaseException as error:  # told by whoever waits
            self._error = error
        finally:
            journal.close()
