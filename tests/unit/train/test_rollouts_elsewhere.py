"""Answers by a server: the weights that train are loaded there as they come, or what it says is corrected for."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from serving import Served, byte_model, serving

from luthier import models
from luthier.data import Ledger, Prompt, Prompts
from luthier.engines import LocalEngine
from luthier.engines.openai.settings import OpenAI
from luthier.errors import LuthierError
from luthier.models import OnDisk, Policy
from luthier.objectives import OBJECTIVES
from luthier.recipe import Model, Plugin
from luthier.recipe.schema import Follow, Recipe, Reward, Rollout, Validate
from luthier.run import Run
from luthier.train import Beside, fit
from luthier.train.rollouts.carrying import Carrier, Elsewhere
from luthier.train.rollouts.journal import Journal
from luthier.train.rollouts.judging import Judging
from luthier.train.rollouts.source import Made, Rollouts
from luthier.types import Encoded, Example, Source, Turn

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tiny", "serving", "luthier.train.fitting"])
TIS: dict[str, Any] = {"grpo": {"kl": 0.0, "correction": "truncate"}}
STOPS = frozenset(range(2, 40))
"""Many tokens end an answer, so that some do."""
PAID = (Reward(scorer=Plugin(name="format", args={"regex": "(?s).*[A-Za-z].*"})),)
Watch = Any


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "base"
    byte_model(folder)
    return folder


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """What server and run both see."""
    (tmp_path / "shared").mkdir()
    return tmp_path / "shared"


@pytest.fixture
def served(base: Path, shared: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setenv("SERVER_KEY", "the-admin-key")
    with serving([str(base)], shared, ("admin the-admin-key",)) as server:
        yield server


def prompts(policy: Policy, count: int = 4) -> tuple[Prompt, ...]:
    found = []
    for row in range(count):
        said = f"say {'abcdefgh'[row]}"
        example = Example((Turn("user", said),), answer="a", source=Source("q.jsonl", row + 1))
        found.append(Prompt(example, tuple(policy.tokenizer(said, add_special_tokens=False).input_ids)))
    return tuple(found)


class Learner:
    """A run whose answers come of a server."""

    def __init__(
        self, folder: Path, base: Path, url: str, rollout: Mapping[str, Any], objective: Any = None, **train: Any
    ):
        self.run, name, args = Run(folder), *next(iter((objective or TIS).items()))
        adapt = [Plugin(name="lora", args={"r": 4})]
        self.policy = models.load(Model(name=str(base), dtype="fp32"), adapt)
        self.objective = OBJECTIVES.build(name, args)
        keys = {"n": 4, "prompts": 2, "max_new_tokens": 4, "dynamic": False, **rollout}
        validate, held_out = train.pop("validate", Validate()), train.pop("held_out", ())
        settings = {
            "lr": 2e-2,
            "schedule": "constant",
            "batch": 2,
            "micro_tokens": 400,
            "weight_decay": 0.0,
            "warmup": 0,
        }
        made = tiny.recipe(folder, validate=validate, **{**settings, **train})
        self.recipe: Recipe = replace(made, rollout=Rollout(**keys), reward=PAID)
        opening = OpenAI(url=url, model=base.name, ask="tokens", key_env="SERVER_KEY", concurrency=4, retries=0)
        follow = self.recipe.rollout.follow if self.recipe.rollout else None
        self.asked = opening.following(OnDisk(self.policy.tokenizer, base), STOPS, follow.by if follow else None)
        carrier = None
        if follow is not None:
            carrier = Carrier(self.asked, self.policy, folder, Path(follow.folder) if follow.folder else None)
        near = LocalEngine(self.policy.module, self.policy.tokenizer, STOPS)
        given = Prompts(prompts(self.policy), held_out, Ledger())
        paid = Judging(PAID)
        engine = Elsewhere(self.asked, carrier, models.embeddings(self.policy.module))
        self.source = Rollouts(Made(given, paid, engine, self.objective, "tiny", near=near), self.recipe, self.run)

    def fit(self, watch: Watch = None) -> Learner:
        given = tiny.Prepared(self.source)  # type: ignore[arg-type]
        fit(self.policy, self.objective, given, self.recipe, self.run, Beside(watch=watch))
        return self

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: weight.detach().clone() for name, weight in self.policy.trainable()}

    def events(self, kind: str) -> list[dict[str, Any]]:
        return list(self.run.events(kind))

    def said(self, step: int) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.run.rollouts / f"step-{step:06d}.jsonl").read_text().splitlines()]


def follow(shared: Path, **more: Any) -> dict[str, Any]:
    return {"follow": Follow(folder=str(shared), **more)}


def url(served: Served) -> str:
    return f"{served.url}/v1"


def names(served: Served) -> list[str]:
    found = served.get("/v1/adapters", {"authorization": "Bearer the-admin-key"}).json()["data"]
    return [one["name"] for one in found]


def loads_of(learner: Learner) -> list[str]:
    """The adapters that are loaded, as they come."""
    loaded: list[str] = []
    load = learner.asked.load_adapter

    def loading(name: str, folder: str) -> None:
        loaded.append(name)
        load(name, folder)

    learner.asked.load_adapter = loading  # type: ignore[method-assign]
    return loaded


def watched(learner: Learner) -> list[list[Encoded]]:
    steps: list[list[Encoded]] = []
    ask = learner.source.next

    def asked(step: int, version: int) -> Any:
        steps.append(list(ask(step, version)))
        return steps[-1]

    learner.source.next = asked  # type: ignore[method-assign]
    return steps


def test_the_weights_that_train_answer_from_the_server(
    base: Path, shared: Path, served: Served, tmp_path: Path
) -> None:
    seen: list[list[str]] = []

    def watch(event: Mapping[str, Any]) -> None:
        if event["kind"] == "step":
            seen.append(names(served))

    learner = Learner(tmp_path / "run", base, url(served), follow(shared), steps=4)
    steps = watched(learner)
    learner.fit(watch)
    told = learner.events("step")
    assert [len(each) for each in seen] == [1] * 4 and len({each[0] for each in seen}) == 4, "one at a time, each new"
    assert max(step["mismatch"] for step in told) < 1e-4 and told[-1]["grad_norm"] > 0
    assert any(one["finish"] == "stop" for step in range(1, 5) for one in learner.said(step)), (
        "some ended by themselves"
    )
    for examples, step in zip(steps, range(1, 5), strict=True):
        for example in examples:
            lines = [line for line in learner.said(step) if line["source"] == str(example.source)]
            for ids, line in zip(example.ids, lines, strict=True):
                assert (int(ids[-1]) in STOPS) == (line["finish"] == "stop"), "the stop token trains"
    assert names(served) == [] and not list(shared.iterdir()), "nothing is left there"


def test_answers_of_the_same_weights_are_those_of_the_local_engine(
    base: Path, shared: Path, served: Served, tmp_path: Path
) -> None:
    """The first rollout: the adapter changes nothing yet, and the policy as loaded says how likely each answer is."""
    learner = Learner(tmp_path / "run", base, url(served), follow(shared, every=2), steps=4, save_every=1)
    loaded = loads_of(learner)
    learner.fit()
    assert [name[-6:] for name in loaded] == ["000000", "000002"], "every second rollout"
    far = [step["mismatch"] for step in learner.events("step")]
    assert far[0] < 1e-4 > far[2] and min(far[1], far[3]) > 1e-3, "one step old, and that is measured"


def test_a_server_that_stays_as_it_is_is_corrected_for(base: Path, served: Served, tmp_path: Path) -> None:
    held_out = prompts(models.load(Model(name=str(base), dtype="fp32")), 2)
    learner = Learner(
        tmp_path / "run", base, url(served), {}, steps=3, validate=Validate(share=0.1, every=3), held_out=held_out
    )
    steps = watched(learner)
    learner.fit()
    far = [step["mismatch"] for step in learner.events("step")]
    assert far[0] < 1e-4 and far[2] > far[1] > 1e-3, "the model goes on, the server does not"
    assert all("old_logp" not in example.columns for examples in steps for example in examples)
    (looked,) = learner.events("evaluation")
    near = LocalEngine(learner.policy.module, learner.policy.tokenizer, STOPS)
    from luthier.types import Sampling

    own = near.generate([prompt.ids for prompt in held_out], Sampling(max_new_tokens=4))
    paid = np.mean([any(letter.isascii() and letter.isalpha() for letter in one.text) for one in own])
    assert looked["score"] == paid, "held-out prompts go to the model itself"


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ((), "loads no adapters|401|403"),
        (("admin the-admin-key",), "no adapter .* in the server's folder of adapters"),
    ],
)
def test_a_server_that_takes_no_adapter_is_told_of(
    keys: tuple[str, ...], words: str, base: Path, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVER_KEY", "the-admin-key")
    other = tmp_path / "other"
    other.mkdir()
    with serving([str(base)], other, keys) as server, pytest.raises(LuthierError, match=words) as found:
        Learner(tmp_path / "run", base, url(server), follow(shared), steps=1).fit()
    assert "--adapters FOLDER" in str(found.value)


def test_an_endpoint_that_tells_no_tokens_is_refused(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from endpoints import endpoint, fault

    monkeypatch.setenv("SERVER_KEY", "x")
    answer = {"choices": [{"text": "a", "finish_reason": "stop"}]}
    with (
        endpoint(lambda *_: (200, {}, answer)) as found,
        pytest.raises(LuthierError, match="does not tell which tokens") as refused,
    ):
        Learner(tmp_path / "run", base, found.url, {}, steps=1).fit()
    assert "luthier generate" in str(refused.value.fix)
    unknown = fault(400, "Unrecognized request argument supplied: return_token_ids")
    with (
        endpoint(lambda *_: unknown) as found,
        pytest.raises(LuthierError, match="answered 400: Unrecognized") as refused,
    ):
        Learner(tmp_path / "other", base, found.url, {}, steps=1).fit()
    assert "it was asked by token ids" in str(refused.value.fix) and "luthier serve" in str(refused.value.fix)


@pytest.mark.parametrize(
    ("ids", "likely", "told"),
    [
        ([70_000, 2], [-0.5, -0.1], "drawn the token 70,000, and the model that trains has"),
        ([5, 2], [-math.inf, -0.1], "that it was impossible"),
    ],
)
def test_an_endpoint_of_another_model_is_told_of(
    ids: list[int], likely: list[float], told: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from endpoints import endpoint

    monkeypatch.setenv("SERVER_KEY", "x")
    said = {"text": "a", "finish_reason": "stop", "token_ids": ids, "logprobs": {"token_logprobs": likely}}
    with endpoint(lambda *_: (200, {}, {"choices": [said]})) as found, pytest.raises(LuthierError, match=told):
        Learner(tmp_path / "run", base, found.url, {}, steps=1).fit()


def test_a_killed_run_goes_on_with_the_adapter_that_spoke(
    base: Path, shared: Path, served: Served, tmp_path: Path
) -> None:
    class Stopped(Exception):
        pass

    def learner(name: str) -> Learner:
        keys = {**follow(shared, every=2), "updates": 2}
        return Learner(tmp_path / name, base, url(served), keys, steps=8, save_every=1)

    whole = learner("whole").fit()

    def stop(event: Mapping[str, Any]) -> None:
        if event["kind"] == "step" and event["step"] == 7:
            raise Stopped

    with pytest.raises(Stopped):
        learner("killed").fit(stop)
    (journal,) = (tmp_path / "killed" / "rollouts").glob("open-000007.jsonl")
    half = journal.read_text().splitlines(keepends=True)[:4]
    for checkpoint in (tmp_path / "killed" / "checkpoints").glob("step-*6"):
        assert checkpoint.is_dir()
    journal.write_text("".join(half))  # most of its answers are lost, and the weights have moved on
    again = learner("killed").fit()
    assert all(torch.equal(weight, again.weights()[name]) for name, weight in whole.weights().items())
    assert whole.said(7) == again.said(7) and names(served) == []


# ahead
def test_the_next_rollout_is_answered_while_this_one_trains(
    base: Path, shared: Path, served: Served, tmp_path: Path
) -> None:
    learner = Learner(tmp_path / "run", base, url(served), {**follow(shared), "ahead": 1}, steps=4)
    loaded, by, ahead = loads_of(learner), set(), []

    def watch(event: Mapping[str, Any]) -> None:
        if event["kind"] == "step":
            ahead.append((learner.run.rollouts / f"open-{event['step'] + 1:06d}.jsonl").is_file())

    answer = Journal.answer

    def answered(self: Journal, *args: Any) -> None:
        by.add((self.path.stem, threading.current_thread() is threading.main_thread()))
        answer(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "answer", answered)
        learner.fit(watch)
    assert [name[-6:] for name in loaded] == ["000000", "000001", "000002"], "the last one begins no other"
    assert by == {("open-000001", True), *((f"open-{step:06d}", False) for step in (2, 3, 4))}
    assert ahead == [True, True, True, False]
    far = [step["mismatch"] for step in learner.events("step")]
    assert far[0] < 1e-4 and min(far[1:]) > 1e-3, "one step old"
    assert names(served) == [] and not list(shared.iterdir())
    assert all(event["made_per_s"] > 0 for event in learner.events("rollout"))


def test_what_the_server_refuses_meanwhile_is_told_when_it_is_needed(
    base: Path, shared: Path, served: Served, tmp_path: Path
) -> None:
    learner = Learner(tmp_path / "run", base, url(served), {**follow(shared), "ahead": 1}, steps=4)

    def watch(event: Mapping[str, Any]) -> None:
        if event["kind"] == "rollout" and event["step"] == 2:
            learner.asked._words = replace(learner.asked._words, name="nobody")  # type: ignore[attr-defined]
            learner.source.made.engine.carrier._name = lambda version: "nobody"  # type: ignore

    learner.asked.load_adapter = lambda name, folder: None  # type: ignore[method-assign]
    with pytest.raises(LuthierError, match="there is no model"):
        learner.fit(watch)


def learn_ahead(folder: Path, base: Path, shared: Path, url: str, die: tuple[str, int] = ("", 0)) -> Any:
    """Two updates of each rollout, groups without contrast drawn again; dies at the n-th of a kind of event, or in the
    thread that draws ahead."""
    seen = 0
    os.environ["SERVER_KEY"] = "the-admin-key"  # a fork server has the environment that it began with
    keys = {"follow": Follow(folder=str(shared)), "ahead": 1, "updates": 2, "dynamic": True, "prompts": 2}
    learner = Learner(folder, base, url, keys, steps=8, save_every=1)

    def now(place: str) -> None:
        nonlocal seen
        seen += place == die[0]
        if die[0] and seen == die[1]:
            os.kill(os.getpid(), signal.SIGKILL)

    answer = Journal.answer

    def answered(self: Journal, *args: Any) -> None:
        now("answering" if threading.current_thread() is threading.main_thread() else "answering ahead")
        answer(self, *args)

    Journal.answer = answered  # type: ignore[method-assign]
    try:
        learner.fit(lambda event: now(event["kind"]))
    finally:
        Journal.answer = answer  # type: ignore[method-assign]
    return learner.weights()


@pytest.mark.parametrize(
    "places",
    [
        [("answering ahead", 13)],
        pytest.param(
            [("answering ahead", 3), ("step", 4), ("checkpoint", 5), ("rollout", 3)], marks=pytest.mark.slow, id="more"
        ),
    ],
)
def test_a_run_that_draws_ahead_ends_the_same_wherever_it_is_killed(
    places: list[tuple[str, int]], base: Path, shared: Path, served: Served, tmp_path: Path
) -> None:
    whole = learn_ahead(tmp_path / "whole", base, shared, url(served))
    for number, place in enumerate(places):
        folder = tmp_path / str(number)
        process = PROCESSES.Process(target=learn_ahead, args=(folder, base, shared, url(served), place))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        again = learn_ahead(folder, base, shared, url(served))
        assert all(torch.equal(weight, again[name]) for name, weight in whole.items()), place
    assert names(served) == [] and not list(shared.iterdir())
