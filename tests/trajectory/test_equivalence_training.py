"""Settings that must not change what is learned: each trains a tiny fp32 model and is held against the plain run."""

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from luthier.objectives import OBJECTIVES
from luthier.recipe import Plugin
from luthier.run import Run
from luthier.train import fit

ROWS, BATCH = 32, 16
CLOSE = 1e-6


def trained(folder: Path, make: Any, **settings: Any) -> tuple[list[float], dict[str, torch.Tensor]]:
    # eps well above the gradients' rounding: AdamW divides by their size, and the sign of a rounding error is noise
    optimizer = Plugin(name="adamw", args={"eps": 1e-3})
    options = {"batch": BATCH, "epochs": 2, "lr": 1e-3, "micro_tokens": 10_000, "optimizer": optimizer, **settings}
    policy = tiny.Policy(make())
    run = Run(folder)
    prepared = tiny.Prepared(tiny.Store(ROWS, shortest=8, longest=40))
    fit(policy, OBJECTIVES.build("sft"), prepared, tiny.recipe(folder, **options), run)
    return [event["loss"] for event in run.events("step")], policy.snapshot()


@pytest.fixture(scope="module", params=[tiny.lora, tiny.model], ids=["lora", "full"])
def plain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """One micro-batch a step."""
    return request.param, trained(tmp_path_factory.mktemp("plain"), request.param)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"micro_tokens": 120}, id="four micro-batches or more"),
        pytest.param({"micro_tokens": 1}, id="one row each"),
        pytest.param({"checkpointing": True}, id="gradient checkpointing"),
        pytest.param({"layout": "padded"}, id="padded"),
        pytest.param({"layout": "padded", "micro_tokens": 120}, id="padded in micro-batches"),
        pytest.param({"share_prefix": False}, id="prefixes not shared"),
        pytest.param({"fused": False}, id="the model's own layers"),
        pytest.param({"fused": False, "checkpointing": True}, id="the model's own layers, checkpointing"),
    ],
)
def test_nothing_but_rounding_changes(settings: dict[str, Any], plain: tuple[Any, Any], tmp_path: Path) -> None:
    make, (losses, weights) = plain
    other_losses, other_weights = trained(tmp_path, make, **settings)
    assert other_losses == pytest.approx(losses, abs=CLOSE, rel=CLOSE)
    for name, weight in weights.items():
        torch.testing.assert_close(other_weights[name], weight, atol=CLOSE, rtol=CLOSE)


def test_a_token_weighs_the_same_in_a_short_micro_batch_and_in_a_long_one(tmp_path: Path) -> None:
    """A mean of micro-batch means would weigh tokens of small micro-batches more; the loss shows it at once."""
    losses, _ = trained(tmp_path / "whole", tiny.lora, steps=1)
    split, _ = trained(tmp_path / "split", tiny.lora, steps=1, micro_tokens=1)
    store = tiny.Store(ROWS, shortest=8, longest=40)
    assert len({int(scored) for scored in store.scored}) > 5
    assert split == pytest.approx(losses, abs=CLOSE)
