"""Faults that there were, each as the run that met it."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from tiny_judged import Judged
from transformers import Qwen3NextConfig, Qwen3NextForCausalLM

from luthier.forward import filling
from luthier.forward.batches import micro_batches
from luthier.models import heads
from luthier.models.adapters.peft.lora import Lora
from luthier.objectives import OBJECTIVES
from luthier.recipe import Plugin, Validate
from luthier.recipe.schema import Reference
from luthier.run import Run
from luthier.train import Beside, fit
from luthier.types import Encoded


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))


def train(
    folder: Path,
    objective: str,
    store: Any,
    *,
    policy: tiny.Policy | None = None,
    args: Mapping[str, Any] | None = None,
    keep: Any = "auto",
    beside: Beside = Beside(),  # noqa: B008  frozen
    validation: Any = None,
    **keys: Any,
) -> tuple[list[dict[str, Any]], tiny.Policy]:
    """The `step` events of a run of three steps, and what it trained."""
    policy = policy or tiny.Policy(tiny.lora())
    built = OBJECTIVES.build(objective, dict(args or {}))
    for role, _ in built.needs.heads:
        policy.heads[role] = heads.attach(policy.bare, policy.device)
    recipe = tiny.recipe(folder, **{"steps": 3, "epochs": 1, "save_every": 100, **keys})
    object.__setattr__(recipe, "objective", Plugin(name=objective, args=dict(args or {})))
    object.__setattr__(recipe, "reference", Reference(cache=keep))
    fit(policy, built, tiny.Prepared(store, validation), recipe, Run(folder), beside)
    return list(Run(folder).events("step")), policy


def untouched_lora() -> tiny.Policy:
    return tiny.Policy(Lora(r=4).attach(tiny.model()))


def losses(events: list[dict[str, Any]]) -> list[float]:
    return [event["loss"] for event in events]


def store_of(encoded: list[Encoded]) -> tiny.Store:
    """Some rows as a store."""
    made = tiny.Store(len(encoded))
    made.encoded = encoded
    made.digest = b"".join(row.key for row in encoded).hex()
    made.lengths = np.array([len(row) for row in encoded], np.int32)
    made.scored = np.array([row.scored for row in encoded], np.int32)
    return made


# noise and mismatched pairs
@pytest.mark.parametrize("objective", ["kto", "bco"])
def test_neftune_goes_with_mismatched_pairs(tmp_path: Path, objective: str) -> None:
    """It used to stop at the second step: the noise was still that of the micro-batch before."""
    steps, _ = train(tmp_path, objective, Judged(16, responses=1), neftune=5.0, validation=Judged(5, responses=1))
    assert len(steps) == 3 and all(math.isfinite(loss) for loss in losses(steps))
    quiet, _ = train(tmp_path / "quiet", objective, Judged(16, responses=1))
    assert losses(steps) != losses(quiet), "there was no noise at all"


# the reference after the first step
@pytest.mark.parametrize(("objective", "keep"), [("dpo", False), ("dpo", True), ("kto", False)])
def test_an_evaluation_after_the_first_step_knows_that_the_weights_have_moved(
    tmp_path: Path, objective: str, keep: bool
) -> None:
    responses = 2 if objective == "dpo" else 1
    rows, held, start = Judged(16, responses), Judged(6, responses, seed=1), math.log(2) if responses == 2 else 0.5
    steps, _ = train(
        tmp_path, objective, rows, policy=untouched_lora(), keep=keep, validation=held,
        validate=Validate(every=1, keep_best=False), warmup=0, schedule="constant",
    )  # fmt: skip
    assert losses(steps)[0] == pytest.approx(start, abs=1e-6)
    evaluations = list(Run(tmp_path).events("evaluation"))
    assert len(evaluations) == 3
    assert all(abs(event["loss"] - start) > 1e-4 for event in evaluations)
    assert all(event["kl"] > 1e-6 for event in evaluations)


# a reference that cannot read packed rows
def unpackable() -> Any:
    """A model with linear attention: packed, its rows would run into one another."""
    torch.manual_seed(3)
    config = Qwen3NextConfig(
        vocab_size=tiny.VOCABULARY + 1, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, layer_types=["linear_attention", "full_attention"],
        linear_key_head_dim=8, linear_value_head_dim=8, linear_num_key_heads=2, linear_num_value_heads=4,
        num_experts=0, decoder_sparse_step=1, mlp_only_layers=[0, 1],
    )  # fmt: skip
    return Qwen3NextForCausalLM(config)


def with_sinks() -> Any:
    """A model whose attention may attend to nothing."""
    from transformers import GptOssConfig, GptOssForCausalLM

    torch.manual_seed(3)
    config = GptOssConfig(**tiny.SIZES, head_dim=8, num_local_experts=2, num_experts_per_tok=1, sliding_window=64)
    return GptOssForCausalLM(config)


@pytest.mark.parametrize("make", [unpackable, with_sinks])
@pytest.mark.parametrize("keep", [False, True], ids=["live", "cached"])
def test_a_reference_that_cannot_pack_is_read_in_rows_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: bool, make: Callable[[], Any]
) -> None:
    found = {}
    for layout in ("auto", "padded"):
        monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / f"cache-{layout}"))  # neither finds the other's values
        beside = Beside({"reference": lambda: tiny.Policy(make())})
        folder = tmp_path / layout
        steps, _ = train(folder, "dpo", Judged(8, 3), keep=keep, beside=beside, layout=layout, batch=8, steps=1)
        found[layout] = steps[0]
        assert next(Run(folder).events("start"))["path"].startswith("packed" if layout == "auto" else "padded")
    for what in ("loss", "kl", "margin"):
        assert found["auto"][what] == pytest.approx(found["padded"][what], abs=1e-5), what
    assert abs(found["auto"]["loss"] - math.log(2)) > 1e-4


# memory while the reference is cached
def watched(module: Any, sizes: list[int], limit: int = 10**9) -> None:
    """Notes the tokens of each pass outside training; out of memory above a limit."""

    def hook(model: Any, _args: Any, options: Mapping[str, Any]) -> None:
        if not model.training:
            sizes.append(options["input_ids"].numel())
            if sizes[-1] > limit:
                raise torch.OutOfMemoryError("CUDA out of memory")

    module.model.register_forward_pre_hook(hook, with_kwargs=True)


def test_a_reference_is_cached_within_the_budget_though_a_step_is_laid_out_whole(tmp_path: Path) -> None:
    module, sizes = tiny.model(), []  # type: Any, list[int]
    watched(module, sizes)
    store = Judged(16)
    train(tmp_path, "aot", store, policy=tiny.Policy(module), keep=True, micro_tokens=100, batch=16, steps=1)
    assert max(len(row) for row in store.encoded) <= 100 < sum(store.lengths)
    assert len(sizes) > 1 and max(sizes) <= 100


def test_out_of_memory_while_caching_makes_smaller_micro_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for name, limit in (("free", 10**9), ("tight", 60)):
        monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / f"cache-{name}"))
        module, sizes = tiny.model(), []  # type: Any, list[int]
        watched(module, sizes, limit)
        steps, _ = train(tmp_path / name, "dpo", Judged(16), policy=tiny.Policy(module), keep=True, micro_tokens=400)
        assert (max(sizes) > 60) and (min(sizes) <= 60 or name == "free")
        found.append(losses(steps))
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert next(Run(tmp_path / "tight").events("start"))["micro_tokens"] < 400
    assert "out of memory; going on with micro-batches of" in capsys.readouterr().err


# a sum on rows of several kinds
def mixed() -> tiny.Store:
    """Labelled rows, good and bad, of very unlike lengths, and rows that share prompts."""
    return store_of([*Judged(8, 1).encoded, *Judged(4, 1, seed=5).encoded, *Judged(4, 1, seed=5).encoded])


@pytest.mark.parametrize("args", [{"kto": 1.0, "sft": 0.5}, {"bco": 1.0, "sft": 0.5}], ids=str)
def test_a_sum_does_not_depend_on_the_split(tmp_path: Path, args: dict[str, float]) -> None:
    found = {}
    for tokens in (10_000, 40):
        held = Judged(6, 1, seed=2)
        folder = tmp_path / str(tokens)
        steps, _ = train(
            folder, "sum", mixed(), args={"of": args}, micro_tokens=tokens, validation=held, batch=16,
            validate=Validate(every=1, keep_best=False),
        )  # fmt: skip
        evaluations = losses(list(Run(folder).events("evaluation")))
        found[tokens] = losses(steps) + evaluations, [event["grad_norm"] for event in steps]
    assert found[10_000][0] == pytest.approx(found[40][0], rel=3e-5)
    assert found[10_000][1] == pytest.approx(found[40][1], rel=3e-4)


def test_a_sum_on_pairs_and_lone_responses_does_not_depend_on_the_split(tmp_path: Path) -> None:
    rows = store_of([*Judged(6, 3).encoded, *Judged(6, 2, seed=3).encoded])
    found = []
    for tokens in (10_000, 60):
        steps, _ = train(
            tmp_path / str(tokens), "sum", rows, args={"of": {"dpo": 1.0, "sft": 0.5}}, micro_tokens=tokens
        )
        found.append(losses(steps))
    assert found[0] == pytest.approx(found[1], rel=3e-5)


# a step without anything that counts
def test_a_step_of_neutral_steps_alone_is_told_and_moves_nothing(tmp_path: Path) -> None:
    rows = Judged(8, 1).encoded
    neutral = []
    for row in rows:
        labels = tuple(np.zeros_like(each) for each in row.columns["step_reward"])
        neutral.append(Encoded(row.ids, row.weights, row.shared, {**row.columns, "step_reward": labels}, row.source))
    snapshots: list[dict[str, torch.Tensor]] = []
    policy = tiny.Policy(tiny.lora())

    def watch(event: Mapping[str, Any]) -> None:
        if event["kind"] in ("start", "step"):
            snapshots.append(policy.snapshot())

    class InTurn(tiny.Store):
        """Whatever the order: the second step's rows are neutral."""

        def __getitem__(self, index: int) -> Encoded:
            self.asked += 1
            return (neutral if 4 < self.asked <= 8 else rows)[index]

    store = InTurn(8)
    store.asked = 0  # type: ignore[attr-defined]
    args = {"neutral": "ignore"}
    keys: dict[str, Any] = {"batch": 4, "weight_decay": 0.1, "warmup": 0}
    steps, _ = train(tmp_path, "process_reward", store, policy=policy, args=args, beside=Beside({}, watch), **keys)
    assert len(steps) == 3 and steps[1]["loss"] == 0.0 and steps[1]["grad_norm"] == 0.0
    (told,) = Run(tmp_path).events("warning")
    assert told["guard"] == "empty" and told["step"] == 2
    moved = [any(not torch.equal(one[name], other[name]) for name in one) for one, other in pairwise(snapshots)]
    assert moved == [True, False, True]


# a model of which all is cached
@pytest.mark.parametrize("keep", [True, False])
def test_a_second_model_is_gone_when_all_of_it_is_cached(tmp_path: Path, keep: bool) -> None:
    alive: list[Callable[[], Any]] = []
    seen: list[bool] = []

    def opened() -> tiny.Policy:
        module = tiny.model(7)
        alive.append(weakref.ref(module))
        return tiny.Policy(module)

    def watch(event: Mapping[str, Any]) -> None:
        if event["kind"] == "step":
            gc.collect()
            seen.append(alive[0]() is not None)

    train(tmp_path, "dpo", Judged(8), keep=keep, beside=Beside({"reference": opened}, watch))
    assert len(alive) == 1 and seen == [not keep] * 3
    gc.collect()
    assert alive[0]() is None, "held after the run has ended"


# padded rows within the budget
def of_lengths(*lengths: int) -> Encoded:
    ids = tuple(np.arange(length, dtype=np.int32) % 60 + 3 for length in lengths)
    return Encoded(ids, tuple(np.ones(length, np.float32) for length in lengths))


@pytest.mark.parametrize("budget", [100, 1024, 2000, 5000])
def test_padding_counts_in_the_budget(budget: int) -> None:
    examples = [*(of_lengths(200, 200, 200, 200) for _ in range(5)), *(of_lengths(700) for _ in range(5))]
    bins = filling.padded(examples, budget)
    assert sorted(i for each in bins for i in each) == list(range(10))
    for each in bins:
        rows = sum(len(examples[i].ids) for i in each)
        widest = max(len(ids) for i in each for ids in examples[i].ids)
        assert len(each) == 1 or rows * widest <= budget
    for batch in micro_batches(examples, budget, layout="padded"):
        assert len(batch.examples) == 1 or batch.shape[0] * batch.shape[1] <= budget
    assert budget < 5000 or any(len(each) > 1 for each in bins), "nothing was put together"
