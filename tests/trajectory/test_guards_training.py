"""What goes wrong while training: numbers that are none, memory that runs out, a loss that does not move."""

import multiprocessing
import resource
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from luthier.errors import LuthierError
from luthier.objectives import OBJECTIVES
from luthier.run import Run
from luthier.train import Beside, FitResult, fit, latest

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tiny", "luthier.train.fitting"])


def train(
    folder: Path, policy: tiny.Policy, store: tiny.Store | None = None, **settings: Any
) -> tuple[FitResult, list[dict[str, Any]]]:
    run = Run(folder)
    recipe = tiny.recipe(folder, **settings)
    result = fit(policy, OBJECTIVES.build("sft"), tiny.Prepared(store or tiny.Store(24)), recipe, run)
    return result, list(run.events())


# numbers that are none
def test_a_loss_that_is_not_a_number_names_its_row_and_nothing_bad_is_written(tmp_path: Path) -> None:
    policy, store = tiny.Policy(tiny.lora()), tiny.Store(24)
    with torch.no_grad():
        policy.module.get_input_embeddings().weight[tiny.UNUSED] = float("inf")
    row = 13
    bad = np.append(store[row].ids[0], [tiny.UNUSED, 5]).astype(np.int32)
    store.encoded[row] = replace(store[row], ids=(bad,), weights=(np.append(store[row].weights[0], [1, 1]),))
    seen: dict[int, dict[str, torch.Tensor]] = {}

    def watch(event: Mapping[str, Any]) -> None:
        if event["kind"] == "step":
            seen[event["step"]] = policy.snapshot()

    recipe, run = tiny.recipe(tmp_path, epochs=1, batch=2, save_every=1), Run(tmp_path)
    with pytest.raises(LuthierError) as caught:
        fit(policy, OBJECTIVES.build("sft"), tiny.Prepared(store), recipe, run, beside=Beside(watch=watch))
    last = max(seen)
    assert caught.value.where == "rows.jsonl:14"
    assert f"the loss is not finite at step {last + 1} (learning rate 0.0" in caught.value.what
    assert f"step {last} are kept" in caught.value.what
    assert all(torch.equal(weight, seen[last][name]) for name, weight in policy.snapshot().items())
    found = latest(run)
    assert found is not None and found.step == last
    assert list(run.events())[-1]["guard"] == "not_finite"


def test_a_gradient_that_is_not_a_number_stops_too(tmp_path: Path) -> None:
    policy = tiny.Policy(tiny.lora())
    before = policy.snapshot()
    policy.trainable()[3][1].register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(LuthierError, match="the gradient is not finite at step 1") as caught:
        train(tmp_path, policy, epochs=1)
    assert "no checkpoint was written yet" in caught.value.what
    assert str(caught.value.where).count("rows.jsonl:") == 8
    assert all(torch.equal(weight, before[name]) for name, weight in policy.snapshot().items())


# memory that runs out
def limit_tokens(policy: tiny.Policy, limit: Callable[[Any], int]) -> None:
    """As on a device that holds activations of so many tokens: more of them raise what CUDA raises."""
    model = policy.module.get_base_model().model

    def check(_module: Any, _args: Any, keys: dict[str, Any]) -> None:
        if model.training and keys["input_ids"].numel() > limit(model):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    model.register_forward_pre_hook(check, with_kwargs=True)


def test_out_of_memory_halves_the_micro_batch_and_the_run_is_the_same(tmp_path: Path) -> None:
    small, limited = tiny.Policy(tiny.lora(dropout=0.2)), tiny.Policy(tiny.lora(dropout=0.2))
    limit_tokens(limited, lambda _: 50)
    _, events = train(tmp_path / "limited", limited, epochs=1, micro_tokens=1000)
    smaller = [event["micro_tokens"] for event in events if event["kind"] == "oom"]
    assert smaller and smaller == sorted(smaller, reverse=True) and smaller[-1] <= 50
    train(tmp_path / "small", small, epochs=1, micro_tokens=smaller[-1])
    # the step that ran out was done again from the same random state, so dropout fell on the same places
    assert all(torch.equal(weight, small.snapshot()[name]) for name, weight in limited.snapshot().items())


def test_a_row_that_fits_only_with_checkpointing_turns_it_on(tmp_path: Path) -> None:
    policy = tiny.Policy(tiny.lora())
    limit_tokens(policy, lambda model: 1000 if model.layers[0].gradient_checkpointing else 10)
    _, events = train(tmp_path, policy, epochs=1)
    found = [event for event in events if event["kind"] == "oom"]
    assert found[-1]["checkpointing"] and not found[0]["checkpointing"]
    assert [event["step"] for event in events if event["kind"] == "step"] == [1, 2, 3]


@pytest.mark.parametrize("checkpointing", ["auto", False, True])
def test_a_row_that_never_fits_is_named(checkpointing: Any, tmp_path: Path) -> None:
    policy, store = tiny.Policy(tiny.lora()), tiny.Store(24)
    limit_tokens(policy, lambda _: 10)
    with pytest.raises(LuthierError, match=r"not enough memory for a single row of \d+ tokens") as caught:
        train(tmp_path, policy, store, epochs=1, checkpointing=checkpointing)
    row = int(str(caught.value.where).split(":")[1]) - 1
    assert f"{len(store[row])} tokens" in caught.value.what


def train_within(folder: Path, megabytes: int, limited: bool) -> None:
    """Train a model whose activations of a whole step need some 150 MB, in so many MB of address space."""
    sizes = {"hidden_size": 64, "intermediate_size": 512, "num_hidden_layers": 4, "num_key_value_heads": 4}
    policy = tiny.Policy(tiny.model(**sizes))
    store = tiny.Store(16, shortest=200, longest=250)
    if limited:
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + (megabytes << 20),) * 2)
    train(folder, policy, store, batch=16, steps=1, lr=1e-4, micro_tokens=10_000, checkpointing=False)


def test_memory_that_really_runs_out_on_a_cpu(tmp_path: Path) -> None:
    for name, limited in (("free", False), ("limited", True)):
        process = PROCESSES.Process(target=train_within, args=(tmp_path / name, 120, limited))
        process.start()
        process.join()
        assert process.exitcode == 0
    free, short = Run(tmp_path / "free"), Run(tmp_path / "limited")
    assert not list(free.events("oom"))
    first = next(iter(short.events("oom")))
    assert first["step"] == 1 and first["micro_tokens"] < 4000
    losses = [[event["loss"] for event in run.events("step")] for run in (free, short)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)


# a loss that does not move, or is too low
def test_a_loss_that_does_not_fall_is_said_once(tmp_path: Path) -> None:
    _, events = train(tmp_path, tiny.Policy(tiny.lora()), epochs=8, lr=1e-12, stall_window=6)
    warnings = [event for event in events if event["kind"] == "warning"]
    assert [event["guard"] for event in warnings] == ["stall"]
    assert "last 6 steps" in warnings[0]["text"]


def test_a_very_low_loss_is_said_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    store = tiny.Store(4)
    store.encoded = [replace(each, ids=(np.full_like(each.ids[0], 7),)) for each in store.encoded]
    _, events = train(tmp_path, tiny.Policy(tiny.model()), store, epochs=40, lr=0.05)
    assert [event["guard"] for event in events if event["kind"] == "warning"].count("memorising") == 1
    assert "reciting" in capfd.readouterr().err
