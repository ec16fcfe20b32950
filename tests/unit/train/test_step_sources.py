"""Step sources: rows in an order, mixtures by share, and a source that writes its rows with the model that trains."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import tiny
import torch
from tiny_tokenizers import words
from torch import Tensor

from luthier.engines import LocalEngine
from luthier.errors import LuthierError
from luthier.objectives import OBJECTIVES
from luthier.objectives.base import Objective
from luthier.objectives.rows import Rows
from luthier.run import Run
from luthier.train import Beside, fit
from luthier.train.sources import Order, Static, of
from luthier.train.sources.static import Mixture, Part
from luthier.types import Encoded, Needs, Request, Sampling, StepSource


class Killed(Exception):
    pass


# rows on disk
def test_static_gives_the_rows_of_the_order() -> None:
    store, order = tiny.Store(20), Order(20, 8, seed=3)
    source = Static(store, order, order.total(2, None))
    assert isinstance(source, StepSource) and source.may_prefetch and source.identity == store.digest
    assert source.total == 6
    for step in range(source.total):
        found = [row.source.row - 1 for row in source.next(step, version=99)]  # type: ignore[union-attr]
        assert found == order.positions(step).tolist()
    assert sorted(row.source.row for step in range(3) for row in source.next(step, 0)) == list(range(1, 21))  # type: ignore[union-attr]
    assert source.epoch(2) == 1.0 and source.every() is store and source.state() == {}


def test_a_store_becomes_a_source_in_the_recipes_order_and_a_source_stays_what_it_is() -> None:
    store, recipe = tiny.Store(20), tiny.recipe("unused", batch=8, epochs=2, seed=5)
    source = of(store, recipe)  # type: ignore[arg-type]
    assert isinstance(source, Static) and source.order == Order(20, 8, 5) and source.total == 6
    assert of(source, recipe) is source


def test_the_heaviest_step_holds_the_longest_row() -> None:
    store = tiny.Store(20)
    source = Static(store, Order(20, 4), 5)
    assert max(map(len, source.heaviest(10))) == max(map(len, store.encoded))


def stores(*sizes: int) -> list[tiny.Store]:
    return [tiny.Store(size, seed=number) for number, size in enumerate(sizes)]


def mixture(shares: tuple[float, ...], batch: int, sizes: tuple[int, ...] = (), seed: int = 0) -> Mixture:
    sizes = sizes or tuple(range(7, 7 + len(shares)))
    parts = tuple(Part(store, share) for store, share in zip(stores(*sizes), shares, strict=True))  # type: ignore[arg-type]
    return Mixture(parts, batch, total=40, seed=seed)


def owner(source: Mixture, row: Encoded) -> int:
    return next(n for n, part in enumerate(source.parts) if any(row is one for one in part.store.encoded))  # type: ignore[attr-defined]


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize(
    "shares", [(1.0,), (0.5, 0.5), (3.0, 1.0), (0.3, 0.3, 0.4), (0.9, 0.05, 0.03, 0.02), (0.1, 0.7, 0.1, 0.1)]
)
def test_every_step_is_whole_and_each_share_holds_to_within_one_example(shares: tuple[float, ...], batch: int) -> None:
    source = mixture(shares, batch)
    given: Counter[int] = Counter()
    for step in range(source.total):
        rows = source.next(step, 0)
        assert len(rows) == batch
        given.update(owner(source, row) for row in rows)
        for number, share in enumerate(shares):
            assert abs(given[number] - (step + 1) * batch * share / sum(shares)) <= 1 + 1e-9, (step, number)


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.3, 0.3, 0.4)])
def test_each_store_of_a_mixture_comes_in_an_order_of_its_own_over_and_over(shares: tuple[float, ...]) -> None:
    source = mixture(shares, batch=1)
    for number, part in enumerate(source.parts):
        seen = [row for step in range(source.total) for row in source.next(step, 0) if owner(source, row) == number]
        places = [row.source.row - 1 for row in seen]  # type: ignore[union-attr]
        size = len(part.store)
        passes = [places[begin : begin + size] for begin in range(0, len(places) - size + 1, size)]
        assert passes and all(sorted(one) == list(range(size)) for one in passes), "an epoch of its own has every row"
        assert passes[0] != list(range(size))
    again = mixture(shares, batch=1, seed=9)
    first, other = ([row.key for step in range(5) for row in each.next(step, 0)] for each in (source, again))
    assert first != other, "the seed decides the order"


def test_a_mixture_is_resumed_at_any_step() -> None:
    whole = mixture((0.3, 0.3, 0.4), 3)
    steps = [whole.next(step, 0) for step in range(whole.total)]
    for step in (39, 5, 17, 0):
        fresh = mixture((0.3, 0.3, 0.4), 3)  # of its own stores, equal in content
        assert [row.key for row in fresh.next(step, 0)] == [row.key for row in steps[step]]
    assert whole.epoch(39) == pytest.approx(max(40 * 3 * s / n for s, n in ((0.3, 7), (0.3, 8), (0.4, 9))), abs=0.2)


def test_the_identity_of_a_mixture_changes_with_its_shares_and_stores() -> None:
    identity = mixture((0.5, 0.5), 4).identity
    assert mixture((0.5, 0.5), 4).identity == identity
    assert mixture((0.6, 0.4), 4).identity != identity
    assert mixture((0.5, 0.5), 4, sizes=(7, 9)).identity != identity
    with pytest.raises(LuthierError, match="share above 0"):
        mixture((0.5, 0.0), 4)


def test_a_mixture_trains_and_a_killed_run_goes_on(tmp_path: Path) -> None:
    def run(folder: Path, die: int = -1, shares: tuple[float, ...] = (0.3, 0.7)) -> dict[str, Tensor]:
        policy = tiny.Policy(tiny.lora())

        def watch(event: Mapping[str, Any]) -> None:
            if event["kind"] == "step" and event["step"] == die:
                raise Killed

        parts = tuple(Part(store, share) for store, share in zip(stores(9, 8), shares, strict=True))  # type: ignore[arg-type]
        prepared = tiny.Prepared(Mixture(parts, 4, 4))  # type: ignore[arg-type]
        fit(
            policy, OBJECTIVES.build("sft"), prepared, tiny.recipe(folder, save_every=1), Run(folder), Beside({}, watch)
        )
        return policy.snapshot()

    whole = run(tmp_path / "whole")
    with pytest.raises(Killed):
        run(tmp_path / "cut", die=3)
    found = run(tmp_path / "cut")
    assert all(torch.equal(found[name], weight) for name, weight in whole.items())
    with pytest.raises(LuthierError, match="other data"):
        run(tmp_path / "cut", shares=(0.4, 0.6))


# a source with a state that may be asked ahead
class Drawn:
    """Rows drawn at random from a store; what was drawn last is all that it remembers."""

    may_prefetch, total, identity = True, 6, "drawn"

    def __init__(self) -> None:
        self.store, self.draw = tiny.Store(20), np.random.default_rng(0)

    def next(self, step: int, version: int) -> list[Encoded]:
        return [self.store[int(i)] for i in self.draw.integers(0, 20, 4)]

    def epoch(self, step: int) -> float:
        return (step + 1) / 5

    def every(self) -> None:
        return None

    def heaviest(self, budget: int) -> tuple[()]:
        return ()

    def state(self) -> dict[str, Any]:
        return {"draw": self.draw.bit_generator.state}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.draw.bit_generator.state = state["draw"]


def test_what_was_asked_for_ahead_is_asked_for_again_after_a_kill(tmp_path: Path) -> None:
    def run(folder: Path, die: int = -1) -> dict[str, Tensor]:
        policy = tiny.Policy(tiny.lora())

        def watch(event: Mapping[str, Any]) -> None:
            if event["kind"] == "step" and event["step"] == die:
                raise Killed

        recipe = tiny.recipe(folder, save_every=2)
        fit(policy, OBJECTIVES.build("sft"), tiny.Prepared(Drawn()), recipe, Run(folder), Beside({}, watch))  # type: ignore[arg-type]
        return policy.snapshot()

    whole = run(tmp_path / "whole")
    with pytest.raises(Killed):
        run(tmp_path / "cut", die=3)
    found = run(tmp_path / "cut")
    assert all(torch.equal(found[name], weight) for name, weight in whole.items())


# rows that the model writes while it trains
WANTED = 5
PREFIX = list(range(10, 22))
DRAWN, LENGTH = 12, 3


def fingerprint(policy: tiny.Policy) -> str:
    made = hashlib.blake2b(digest_size=8)
    for _, weight in policy.trainable():
        made.update(weight.detach().numpy().tobytes())
    return made.hexdigest()


class Rollouts:
    """Each step a few prompts, several sampled responses each, rewarded by how much of them is token 5."""

    may_prefetch, identity = False, "token 5"

    def __init__(self, policy: tiny.Policy, total: int) -> None:
        self.policy, self.total = policy, total
        self.engine = LocalEngine(policy.module, words(tiny.VOCABULARY + 1), {1})
        self.draw = np.random.default_rng(0)
        self.asked: list[tuple[int, int]] = []
        self.written_by: list[str] = []
        self.versions: set[int] = set()
        self.rewards: list[float] = []

    def next(self, step: int, version: int) -> list[Encoded]:
        self.asked.append((step, version))
        self.written_by.append(fingerprint(self.policy))
        self.engine.sync(version)
        prompts = [(*PREFIX, *self.draw.integers(30, 40, 2).tolist()) for _ in range(2)]
        sampling = Sampling(max_new_tokens=LENGTH, temperature=1.0, seed=int(self.draw.integers(1 << 30)))
        requests = [Request(prompt, sampling, DRAWN, id=number) for number, prompt in enumerate(prompts)]
        made = sorted(self.engine.run(requests), key=lambda one: (one.request, one.index))
        self.versions = {one.version for one in made}
        examples = []
        for number, prompt in enumerate(prompts):
            own = [one for one in made if one.request == number]
            rewards = np.array([np.mean(np.array(one.sampled) == WANTED) for one in own], np.float32)
            self.rewards.append(float(rewards.mean()))
            examples.append(self._encoded(prompt, own, rewards))
        return examples

    @staticmethod
    def _encoded(prompt: tuple[int, ...], own: list[Any], rewards: Any) -> Encoded:
        def beside(values: Any) -> Any:  # what is known of the response, behind a prompt of which nothing is
            return np.concatenate([np.zeros(len(prompt)), values]).astype(np.float32)

        known = {
            "reward": tuple(rewards.tolist()),
            "old_logp": tuple(beside(one.logprobs) for one in own),
            "advantage": tuple(
                beside(np.full(len(one.sampled), reward - rewards.mean()))
                for one, reward in zip(own, rewards, strict=True)
            ),
        }
        ids = tuple(np.array([*prompt, *one.sampled], np.int32) for one in own)
        weights = tuple(beside(np.ones(len(one.sampled))) for one in own)
        return Encoded(ids, weights, len(prompt), known)

    def epoch(self, step: int) -> float:
        return (step + 1) / self.total

    def every(self) -> None:
        return None

    def heaviest(self, budget: int) -> tuple[()]:
        return ()

    def state(self) -> dict[str, Any]:
        return json.loads(json.dumps({"draw": self.draw.bit_generator.state}))

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.draw.bit_generator.state = state["draw"]


@dataclass(frozen=True)
class PolicyGradient(Objective):
    """-advantage * pi(y) / pi_old(y) of each token."""

    seen: ClassVar[list[float]] = []
    """How far each micro-batch's rows were from what their writer thought of them."""
    needs: ClassVar[Needs] = Needs(responses=2, rollouts=True)

    def loss(self, rows: Rows) -> Tensor:
        old_S = rows.column("old_logp")
        self.seen.append(float((rows.logp_S.detach() - old_S).abs().max()))
        return -rows.column("advantage") * (rows.logp_S - old_S).exp() * rows.weight_S


def rolled_out(folder: Path, steps: int, *, after: Callable[[int], None] = lambda _: None, **train: Any) -> Any:
    policy = tiny.Policy(tiny.model())
    source, weights = Rollouts(policy, steps), []

    def watch(event: Mapping[str, Any]) -> None:
        if event["kind"] == "step":
            weights.append(fingerprint(policy))
            after(event["step"])

    settings = {
        "lr": 1e-2,
        "schedule": "constant",
        "batch": 2,
        "micro_tokens": 60,
        "weight_decay": 0.0,
        "warmup": 0,
        "save_every": 4,
        **train,
    }
    prepared = tiny.Prepared(source)  # type: ignore[arg-type]
    PolicyGradient.seen.clear()
    fit(policy, PolicyGradient(), prepared, tiny.recipe(folder, **settings), Run(folder), Beside({}, watch))
    return source, weights, policy


def test_a_source_that_writes_with_the_model_under_training_teaches_it(tmp_path: Path) -> None:
    steps = 30
    source, weights, _ = rolled_out(tmp_path, steps)
    start = next(Run(tmp_path).events("start"))
    assert "packed" in start["path"] and "shared prefixes" in start["path"] and "2 of 2 layers fused" in start["path"]
    assert start["examples"] is None
    assert source.asked == [(step, step) for step in range(steps)], "once a step, of the weights of that step"
    assert source.versions == {steps - 1}
    assert source.written_by[1:] == weights[:-1] and len(set(weights)) == steps
    assert len(PolicyGradient.seen) > steps, "micro-batches, several a step"
    assert max(PolicyGradient.seen) < 1e-3, "what is learnt from was written by the very weights that learn"
    early, late = np.mean(source.rewards[:10]), np.mean(source.rewards[-10:])
    assert early < 0.15 and late > early + 0.4, (early, late)
    summary = Run(tmp_path).read_json(Run(tmp_path).summary_path)
    assert summary["shared"] > 0.5
    told = {event["guard"] for event in Run(tmp_path).events("warning")}
    assert not told, "a loss around zero is no sign of rows learnt by heart"


def test_a_source_that_writes_goes_on_after_a_kill_as_if_nothing_had_been(tmp_path: Path) -> None:
    whole, _, policy = rolled_out(tmp_path / "whole", 8)

    def die(step: int) -> None:
        if step == 6:
            raise Killed

    with pytest.raises(Killed):
        rolled_out(tmp_path / "cut", 8, after=die)
    source, _, again = rolled_out(tmp_path / "cut", 8)
    assert source.asked == [(step, step) for step in range(4, 8)]
    assert source.rewards == whole.rewards[8:] and source.written_by == whole.written_by[4:]
    for name, weight in policy.snapshot().items():
        assert torch.equal(weight, again.snapshot()[name]), name


def test_out_of_memory_asks_for_no_other_rows(tmp_path: Path) -> None:
    """Smaller micro-batches of the rows that were written; the step's rows are not written anew."""
    full = {"raise": True}
    policy = tiny.Policy(tiny.model())
    source = Rollouts(policy, 2)

    def hook(module: Any, _args: Any, options: Mapping[str, Any]) -> None:
        if module.training and options["input_ids"].numel() > 50 and full["raise"]:
            raise torch.OutOfMemoryError("CUDA out of memory")

    policy.module.model.register_forward_pre_hook(hook, with_kwargs=True)
    recipe = tiny.recipe(tmp_path, batch=2, micro_tokens=200)
    fit(policy, PolicyGradient(), tiny.Prepared(source), recipe, Run(tmp_path))  # type: ignore[arg-type]
    assert source.asked == [(0, 0), (1, 1)] and list(Run(tmp_path).events("oom"))
