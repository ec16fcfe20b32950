"""Shapes: B = rows, L = padded length, V = vocabulary."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from luthier.errors import LuthierError
from luthier.forward.batches import micro_batches
from luthier.objectives import OBJECTIVES
from luthier.recipe import Plugin, Recipe, Validate
from luthier.run import Run
from luthier.train import Beside, FitResult, fit, latest
from luthier.train.loop.neftune import Noise
from luthier.train.sources.order import Order


def train(
    folder: Path, policy: tiny.Policy | None = None, rows: int = 24, validation: int = 0, **settings: Any
) -> tuple[FitResult, tiny.Policy, Run]:
    validate = settings.pop("validate", None)
    recipe = tiny.recipe(folder, validate=validate, **settings)
    prepared = tiny.Prepared(tiny.Store(rows), tiny.Store(validation, seed=1) if validation else None)
    policy = policy or tiny.Policy(tiny.lora())
    run = Run(folder)
    return fit(policy, OBJECTIVES.build("sft"), prepared, recipe, run), policy, run


def reference(module: nn.Module, store: tiny.Store, order: Order, steps: int, lr: float) -> list[float]:
    """The same training without any of our code but the order: padded rows, one batch, torch's own loss and AdamW."""
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    groups = [
        {"params": [weight for weight in weights if weight.ndim > 1], "weight_decay": 0.1},
        {"params": [weight for weight in weights if weight.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr, eps=1e-3)
    losses = []
    for step in range(steps):
        rows = [store[int(i)] for i in order.positions(step)]
        longest = max(len(row) for row in rows)
        ids_BL = torch.zeros(len(rows), longest, dtype=torch.long)
        mask_BL, labels_BL = torch.zeros_like(ids_BL), torch.full_like(ids_BL, -100)
        for i, row in enumerate(rows):
            ids = torch.from_numpy(row.ids[0].astype(np.int64))
            ids_BL[i, : len(ids)], mask_BL[i, : len(ids)] = ids, 1
            scored = torch.from_numpy(row.weights[0]) > 0
            labels_BL[i, : len(ids)][scored] = ids[scored]
        logits_BLV = module(input_ids=ids_BL, attention_mask=mask_BL).logits
        loss = nn.functional.cross_entropy(logits_BLV[:, :-1].flatten(0, 1), labels_BL[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("make", [tiny.lora, tiny.model])
def test_the_loop_is_the_plain_training_it_claims_to_be(make: Any, tmp_path: Path) -> None:
    keys = {"eps": 1e-3}  # AdamW divides by the gradient: with a tiny eps the sign of a rounding error counts
    optimizer = Plugin(name="adamw", args=keys)
    _, policy, run = train(
        tmp_path, tiny.Policy(make()), epochs=2, warmup=0, schedule="constant", optimizer=optimizer, micro_tokens=40
    )
    plain = make()
    losses = reference(plain, tiny.Store(24), Order(24, 8), steps=6, lr=1e-2)
    assert [event["loss"] for event in run.events("step")] == pytest.approx(losses, abs=1e-5)
    for name, weight in plain.named_parameters():
        if weight.requires_grad:
            torch.testing.assert_close(policy.snapshot()[name], weight.detach(), atol=1e-5, rtol=1e-4)


def test_events_and_summary(tmp_path: Path) -> None:
    result, _, run = train(tmp_path, rows=20, validation=6, epochs=1)
    kinds = [event["kind"] for event in run.events()]
    assert kinds[0] == "start" and kinds[-1] == "end" and kinds.count("step") == 3
    start = next(run.events("start"))
    assert start["trainable"] < start["parameters"] and start["steps"] == 3 and "packed" in start["path"]
    steps = list(run.events("step"))
    assert set(steps[0]) == {
        *("kind", "time", "step", "epoch", "loss", "lr", "grad_norm", "tokens", "tokens_per_s", "memory")
    }
    assert [event["epoch"] for event in steps] == pytest.approx([1 / 3, 2 / 3, 1], abs=1e-6)
    assert sum(event["tokens"] for event in steps) == sum(tiny.Store(20).lengths) == result.tokens
    summary = json.loads(run.summary_path.read_text())
    assert summary["first_loss"] == steps[0]["loss"] and summary["last_loss"] == steps[-1]["loss"]
    assert summary["evaluation_loss"] == result.evaluation_loss and len(summary["recipe_digest"]) == 16
    assert summary["peak_memory"] > 0 and summary["tokens_per_s"] > 0 and summary["seconds"] > 0


def test_a_loss_of_steps_that_have_no_event_is_in_the_next_one(tmp_path: Path) -> None:
    _, _, every = train(tmp_path / "1", epochs=2)
    _, _, some = train(tmp_path / "4", epochs=2, log_every=4)
    losses = [event["loss"] for event in every.events("step")]
    means = [sum(losses[:4]) / 4, sum(losses[4:]) / 2]
    assert [event["loss"] for event in some.events("step")] == pytest.approx(means)
    assert [event["step"] for event in some.events("step")] == [4, 6]


def test_early_stopping_ends_with_the_best_weights(tmp_path: Path) -> None:
    validate = Validate(share=0.1, every=1, patience=2)
    result, policy, run = train(tmp_path, validation=8, epochs=20, lr=0.3, validate=validate)
    evaluations = list(run.events("evaluation"))
    losses = [event["loss"] for event in evaluations]
    best = losses.index(min(losses))
    assert result.stopped_early and len(losses) == best + 3 == result.steps
    assert result.best_step == best + 1 and result.evaluation_loss == min(losses)
    again = tiny.Policy(policy.module)
    _, _, _ = train(tmp_path / "check", again, validation=8, steps=1, lr=1e-12, validate=Validate(share=0.1))
    checked = next(Run(tmp_path / "check").events("evaluation"))["loss"]
    assert checked == pytest.approx(min(losses), abs=1e-5)


def test_keep_best_off_ends_with_the_last_weights(tmp_path: Path) -> None:
    validate = Validate(share=0.1, every=1, keep_best=False)
    learner = tiny.Policy(tiny.model())  # which steps far too large spoil
    result, _, run = train(tmp_path, learner, validation=8, steps=3, schedule="constant", lr=1.0, validate=validate)
    losses = [event["loss"] for event in run.events("evaluation")]
    assert result.evaluation_loss == losses[-1] > min(losses) + 0.1


def test_only_what_should_train_moves_and_the_model_is_given_back_as_it_was(tmp_path: Path) -> None:
    policy = tiny.Policy(tiny.lora())
    frozen = {name: weight.clone() for name, weight in policy.module.named_parameters() if not weight.requires_grad}
    names = [name for name, _ in policy.module.named_parameters()]
    attention = policy.module.get_base_model().config._attn_implementation
    before = policy.snapshot()
    train(tmp_path, policy, epochs=1, neftune=5.0, checkpointing=True)
    after = dict(policy.module.named_parameters())
    assert all(torch.equal(after[name], weight) for name, weight in frozen.items())
    assert all(not torch.equal(after[name], weight) for name, weight in before.items())
    assert [name for name, _ in policy.module.named_parameters()] == names
    assert policy.module.get_base_model().config._attn_implementation == attention
    assert not policy.module.training and not policy.module.get_base_model().model.gradient_checkpointing
    assert all(weight.grad is None for weight in policy.module.parameters())
    assert not policy.module.get_input_embeddings()._forward_hooks


def test_bf16_weights_are_stepped_on_masters(tmp_path: Path) -> None:
    small = {"lr": 1e-6, "warmup": 0, "weight_decay": 0.0, "schedule": "constant", "epochs": 1}
    _, kept, run = train(tmp_path / "on", tiny.Policy(tiny.model(dtype=torch.bfloat16)), **small)
    assert next(run.events("start"))["masters"] is True
    saved = latest(run)
    assert saved is not None
    weights = saved.weights()
    start = tiny.Policy(tiny.model(dtype=torch.bfloat16)).snapshot()
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    assert all(not torch.equal(weights[name], start[name].float()) for name in start)
    for name, weight in kept.snapshot().items():
        assert weight.dtype == torch.bfloat16 and torch.equal(weight, weights[name].bfloat16())


def test_weights_without_masters_say_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train(tmp_path, tiny.Policy(tiny.model(dtype=torch.bfloat16)), epochs=1, masters=False)
    assert "without fp32 masters" in capfd.readouterr().err


def test_fp16_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LuthierError, match="loss scaling"):
        train(tmp_path, tiny.Policy(tiny.model(dtype=torch.float16)))


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    first, policy, run = train(tmp_path, epochs=1)
    events = run.events_path.read_text()
    second, again, _ = train(tmp_path, epochs=1)
    assert second.resumed_from == second.steps == first.steps
    assert all(torch.equal(a, b) for a, b in zip(policy.snapshot().values(), again.snapshot().values(), strict=True))
    assert len(run.events_path.read_text().splitlines()) == len(events.splitlines())


@pytest.mark.parametrize(("change", "what"), [({"lr": 2e-2}, "another recipe"), ({"rows": 25}, "other data")])
def test_a_checkpoint_of_something_else_is_refused(change: dict[str, Any], what: str, tmp_path: Path) -> None:
    train(tmp_path, epochs=1)
    with pytest.raises(LuthierError, match=what):
        train(tmp_path, **{"epochs": 1, **change})


def test_watch_sees_every_event(tmp_path: Path) -> None:
    seen: list[str] = []
    recipe: Recipe = tiny.recipe(tmp_path, epochs=1)
    policy, run = tiny.Policy(tiny.lora()), Run(tmp_path)
    objective, prepared = OBJECTIVES.build("sft"), tiny.Prepared(tiny.Store(16))
    fit(policy, objective, prepared, recipe, run, Beside(watch=lambda event: seen.append(event["kind"])))
    assert seen == [event["kind"] for event in run.events()]


def test_neftune_scales_noise_by_each_rows_own_length() -> None:
    embedding = nn.Embedding(tiny.VOCABULARY, 16)
    noise = Noise(embedding, alpha=5.0)
    (batch,) = micro_batches([tiny.Store(1, 0, 8, 8)[0], tiny.Store(1, 1, 32, 32)[0]], 64, share_prefix=False)
    noise.lengths_of(batch)
    ids = batch.ids_T.view(batch.shape)
    plain = nn.functional.embedding(ids, embedding.weight)
    torch.manual_seed(0)
    added = (embedding(ids) - plain).abs()[0]
    for segment in batch.segments:
        length = segment.end - segment.start
        bound = 5.0 / (length * 16) ** 0.5
        largest = added[segment.start : segment.end].max().item()
        assert 0.9 * bound < largest <= bound * 1.0001
    embedding.eval()
    assert torch.equal(embedding(ids), plain)
    noise.remove()
    embedding.train()
    assert torch.equal(embedding(ids), plain)


def test_trackers_of_the_recipe_get_the_numbers(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    train(tmp_path, epochs=1, trackers=(Plugin(name="tensorboard"),))
    assert list((tmp_path / "tensorboard").glob("events.*"))
