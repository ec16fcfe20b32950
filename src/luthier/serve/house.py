"""What a server serves: names that clients may ask for, the worker behind them, and what is read without writing."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.serve.adapters import Adapter, Adapters, unknown
from luthier.serve.faults import ApiFault
from luthier.serve.metrics import Metrics
from luthier.serve.opening import Opened, system_of
from luthier.serve.readings import parts_of
from luthier.serve.settings import Settings
from luthier.serve.worker import Worker

if TYPE_CHECKING:
    from luthier.data import Template
    from luthier.forward.likelihoods import Likelihoods, Likely
    from luthier.scorers.reward_model import RewardModel
    from luthier.serve.words.tools import Form
    from luthier.types import Encoded, Example, Response

LOG = logging.getLogger("luthier.serve")


@dataclass(frozen=True)
class Served:
    """A name that clients may ask for, and who answers."""

    name: str
    template: Template
    adapter: str | None = None
    """What the engine knows its adapter by; None: the base."""
    more_stops: frozenset[int] = frozenset()
    """Tokens that end its answers beside those that end the base's."""
    folder: Path | None = None
    """Of the run or the adapter behind it."""

    @cached_property
    def system(self) -> str | None:
        """The system message of a conversation that brings none: that of the run's data."""
        return None if self.folder is None else system_of(self.folder)

    @cached_property
    def form(self) -> Form | None:
        """How its template writes tool calls."""
        from luthier.serve.words.tools import form_of

        return form_of(self.template)


class House:
    """All of it. Made on the main thread, then used from the event loop."""

    def __init__(self, opened: Opened, settings: Settings, folder: Path | None = None) -> None:
        """`folder`: where the adapters lie that clients may name and load."""
        self.opened, self.settings, self.folder = opened, settings, folder
        self.metrics = Metrics()
        self.started = int(time.time())
        self.draining = False
        self.active = 0
        """Requests that are being answered now."""
        self._served: dict[str | None, Served] = {}
        self._opening = threading.Lock()
        self.worker = Worker(self._engine(), settings, self.metrics)
        self.adapters: Adapters | None = None
        if opened.policy is not None and opened.template is not None:
            engine = self.worker.engine
            self.adapters = Adapters(opened.policy, opened.template, engine, settings.loaded, self.metrics)
            for name, place in opened.adapters.items():
                self.adapters.add(name, place)
            self.adapters.in_use = self.worker.in_use
            self.worker.prepare, self.worker.tidy = self.adapters.prepare, self.adapters.tidy
            opened.template.ids_of("a")  # tokenizers settle how they cut at their first use

    def _engine(self) -> Any:
        from luthier.engines import LocalEngine

        if self.opened.policy is None or self.opened.template is None:
            return None
        policy, settings = self.opened.policy, self.settings
        return LocalEngine(
            policy.module,
            policy.tokenizer,
            self.opened.template.stop_ids,
            rows=settings.rows,
            tokens=settings.tokens,
            adapters=settings.adapters,
        )

    # names
    @property
    def context(self) -> int | None:
        """The longest sequence of the base."""
        return None if self.worker.engine is None else self.worker.engine.context

    @property
    def default(self) -> str:
        """Who answers where nobody is named: the only run, else the base."""
        return next(iter(self.opened.adapters)) if len(self.opened.adapters) == 1 else self.opened.name

    def names(self) -> list[tuple[str, int, Adapter | None]]:
        """All names that write text, with when they came and the adapter behind them."""
        if self.adapters is None:
            return []
        base = (self.opened.name, self.started, None)
        return [base, *((one.name, one.created, one) for one in self.adapters.names())]

    async def served(self, name: str | None) -> Served:
        """Who is meant by a name; a template that was not read yet is read beside the loop. Raises ApiFault (404)."""
        if self.adapters is None or self.opened.template is None:
            what = f"{self.opened.name!r} is a reward model: it scores answers (/v1/score), it gives none"
            raise ApiFault(404, what, param="model")
        name = self.default if name is None else name
        adapter = self.adapters.get(name)
        if adapter is None and name != self.opened.name:
            raise unknown(name, [known for known, _, _ in self.names()])
        key = None if adapter is None else adapter.key
        if key not in self._served:
            template, base = self.opened.template, self.opened.template
            if adapter is not None:
                template = await asyncio.to_thread(self.adapters.template, adapter)
            folder = self.opened.home if adapter is None else adapter.folder
            self._served[key] = Served(name, template, key, template.stop_ids - base.stop_ids, folder)
        return self._served[key]

    def forget(self, adapter: Adapter) -> None:
        """An adapter was unloaded."""
        self._served.pop(adapter.key, None)

    def check_prompt(self, ids: Sequence[int], where: str, room: int = 1) -> None:
        """Raises ApiFault for a prompt that the model cannot read with room for so many tokens behind it."""
        context = self.context
        if context is not None and len(ids) + room > context:
            raise ApiFault(
                400,
                f"{where} has {len(ids)} tokens, but the model's context ends at {context}",
                param="prompt",
                code="context_length_exceeded",
            )
        vocabulary = self.worker.engine.vocabulary
        bad = next((token for token in ids if token >= vocabulary), None)
        if bad is not None:
            raise ApiFault(400, f"{where}: the model has no token {bad} (it has {vocabulary})", param="prompt")

    # what is read of the model between two steps
    async def likely(self, rows: Sequence[Encoded], adapter: str | None, count: int) -> list[Likely]:
        """What the model thinks of each token of each row, and the likeliest in its place. Raises ApiFault (429)."""
        return await self._read(rows, adapter, lambda likelihoods, some: likelihoods.with_top(some, count))

    async def means(self, rows: Sequence[Encoded], adapter: str | None) -> list[Any]:
        """For each row the mean of the last hidden states. Raises ApiFault (429)."""
        return await self._read(rows, adapter, lambda likelihoods, some: likelihoods.means(some), shared=False)

    async def _read(
        self,
        rows: Sequence[Encoded],
        adapter: str | None,
        ask: Callable[[Likelihoods, Sequence[Encoded]], list[Any]],
        *,
        shared: bool = True,
    ) -> list[Any]:
        from luthier.forward.likelihoods import Likelihoods

        def read(some: Sequence[Encoded]) -> list[Any]:
            self.worker.prepare(adapter)
            with self.worker.engine.model(adapter) as module:
                return ask(Likelihoods(module), some)

        return list(chain(*await self.worker.do(parts_of(rows, read, shared=shared), adapter)))

    async def rewards(self, pairs: Sequence[tuple[Example, Response]]) -> list[float | None]:
        """The reward of each answer. Raises LuthierError for what the model cannot read, ApiFault (429)."""
        rows = await asyncio.to_thread(self._judged, pairs)
        known = [row for row in rows if row is not None]
        parts = parts_of(known, lambda some: self._reward.rewards(some), shared=True)
        found = iter(chain(*await self.worker.do(parts)) if parts else ())
        return [None if row is None else next(found) for row in rows]

    def _judged(self, pairs: Sequence[tuple[Example, Response]]) -> list[Encoded | None]:
        with self._opening:  # the first to ask opens the model
            rows = self._reward.rows(pairs)
        for number, (row, (_, response)) in enumerate(zip(rows, pairs, strict=True)):
            if row is None and any(turn.text.strip() for turn in response.turns):
                what = f"response {number} is longer, with its prompt, than the reward model's context"
                raise ApiFault(400, what, param="responses")
        return rows

    @cached_property
    def _reward(self) -> RewardModel:
        from luthier.scorers.reward_model import RewardModel

        assert self.opened.reward is not None
        return RewardModel(str(self.opened.reward.folder))

    # how it is
    def health(self) -> tuple[int, dict[str, Any]]:
        """Status and content of /health."""
        worker = self.worker
        age = time.monotonic() - worker.last_step
        stuck = worker.engine is not None and worker.engine.busy and age > self.settings.stuck
        word = "ok"
        if not worker.alive or worker.fault is not None:
            word = "failing"
        elif stuck:
            word = "stuck"
        elif self.draining:
            word = "draining"
        content = {"status": word, "last_step_age_seconds": round(age, 3), "fault": worker.fault, "active": self.active}
        return 200 if word == "ok" else 503, content

    def log(self, line: str) -> None:
        """A line of the log."""
        LOG.info(line.encode("unicode_escape").decode())
