"""Freezing, gradual unfreezing and discriminative rates: what moves at each step is what the schedule says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import Interrupted, Weights, changed, model, plugin, policy, state, train
from torch.utils.flop_counter import FlopCounterMode

from luthier.errors import LuthierError
from luthier.forward.batches import micro_batches
from luthier.forward.forward import Forward
from luthier.models.adapters import build
from luthier.models.adapters.kit.depth import discriminative
from luthier.run import Run
from luthier.train.loop import checkpoint
from luthier.types import Encoded


def layer(number: int) -> set[str]:
    return {name for name, _ in model().named_parameters() if f"layers.{number}." in name}


EVERYTHING = {name for name, _ in model().named_parameters()}
ENDS = {"model.norm.weight", "lm_head.weight"}


@pytest.mark.parametrize(
    ("args", "trains"),
    [
        ({"bottom": 3}, layer(3) | ENDS),
        ({"bottom": 0.5}, layer(2) | layer(3) | ENDS),
        ({"bottom": 3, "embeddings": False}, layer(3) | ENDS | {"model.embed_tokens.weight"}),
        ({"last": 1}, layer(3) | {"model.norm.weight"}),
        ({"embeddings": True}, EVERYTHING - {"model.embed_tokens.weight"}),
        ({"only": "norms"}, {name for name in EVERYTHING if "norm" in name}),
        ({"only": r"layers\.[02]\.mlp"}, {name for name in layer(0) | layer(2) if "mlp" in name}),
        ({"pattern": "self_attn"}, {name for name in EVERYTHING if "self_attn" not in name}),
        ({"bottom": 2, "pattern": "head"}, layer(2) | layer(3) | {"model.norm.weight"}),
    ],
)
def test_what_is_frozen_stays_bit_by_bit_and_the_rest_moves(
    args: dict[str, Any], trains: set[str], tmp_path: Path
) -> None:
    trained = policy(plugin("freeze", **args))
    assert {name for name, _ in trained.trainable()} == trains
    before = state(trained)
    train(trained, tmp_path, steps=3, weight_decay=0.1)
    assert changed(before, state(trained)) == trains


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({}, "nothing to freeze"),
        ({"bottom": 1, "last": 1}, "either"),
        ({"only": "norms", "bottom": 1}, "`only`"),
        ({"pattern": "no_such_weight"}, "no weight that"),
        ({"pattern": "("}, "no regular expression"),
        ({"pattern": "."}, "nothing is left"),
        ({"bottom": 5}, "only 4 blocks"),
    ],
)
def test_a_freeze_that_cannot_be_meant_is_refused(args: dict[str, Any], says: str) -> None:
    with pytest.raises(LuthierError, match=says):
        build([plugin("freeze", **args)])[0].attach(model())


# nothing is computed backwards below the lowest weight that trains
def batch() -> Any:
    ids = np.arange(3, 43, dtype=np.int32)
    return micro_batches([Encoded((ids,), (np.ones(40, np.float32),))], 64)[0]


def blocks_in_graph(tensor: torch.Tensor) -> dict[str, int]:
    seen: set[Any] = set()
    counts: dict[str, int] = {}
    queue = [tensor.grad_fn]
    while queue:
        node = queue.pop()
        if node is not None and node not in seen:
            seen.add(node)
            counts[node.name()] = counts.get(node.name(), 0) + 1
            queue += [parent for parent, _ in node.next_functions]
    return counts


@pytest.mark.parametrize("tied", [False, True])
def test_the_graph_ends_at_the_lowest_block_that_trains(tied: bool) -> None:
    trained = policy(plugin("freeze", bottom=3), module=model(tied=tied))
    with Forward(trained.module).opened() as forward:
        loss = forward.rows(batch()).logp_S.sum()
        nodes = blocks_in_graph(loss)
    assert nodes["_AttentionBlockBackward"] == nodes["_FeedForwardBlockBackward"] == 1
    assert not any("Embedding" in name for name in nodes)


def sum_and_product(_: Any, left: Any, right: Any, **__: Any) -> int:
    return 2 * left[0] * left[1] * right[1]


@pytest.mark.parametrize(("part", "inputs", "outputs"), [("mlp.down_proj", 48, 32), ("self_attn.o_proj", 32, 32)])
def test_backward_costs_the_one_product_it_needs(part: str, inputs: int, outputs: int) -> None:
    top = 3
    trained = policy(plugin("freeze", only=rf"layers\.{top}\.{part}"))
    with Forward(trained.module).opened() as forward:
        loss = forward.rows(batch()).logp_S.sum()
        with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: sum_and_product}) as counter:
            loss.backward()
    needed = 2 * 40 * inputs * outputs
    above = 0 if "mlp" in part else 2 * 40 * 48 * 32 * 3  # through the feed-forward block of the same layer
    assert counter.get_total_flops() == needed + above


def test_gradient_checkpointing_does_not_remake_frozen_blocks() -> None:
    trained = policy(plugin("freeze", bottom=3))
    trained.module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    trained.module.disable_input_require_grads()
    trained.module.train()
    with Forward(trained.module, fused=False).opened() as forward:
        counts = [0] * 4
        for number, each in enumerate(trained.module.model.layers):
            each.mlp.register_forward_pre_hook(lambda *_, n=number: counts.__setitem__(n, counts[n] + 1))
        forward.rows(batch()).logp_S.sum().backward()
    assert counts == [1, 1, 1, 2]


# discriminative rates
def test_discriminative_rates_divide_by_depth() -> None:
    factors = discriminative(model(), 2.6)
    assert (
        factors["lm_head.weight"] == factors["model.norm.weight"] == factors["model.layers.3.mlp.up_proj.weight"] == 1
    )
    assert factors["model.layers.1.mlp.up_proj.weight"] == pytest.approx(2.6**-2)
    assert factors["model.embed_tokens.weight"] == pytest.approx(2.6**-4)


@pytest.mark.parametrize("name", ["full", "freeze"])
def test_adams_first_step_is_as_long_as_the_rate(name: str, tmp_path: Path) -> None:
    args = {"embeddings": True} if name == "freeze" else {}
    trained = policy(plugin(name, decay=2.0, **args))
    before = state(trained)
    train(trained, tmp_path, steps=1, lr=1e-3)
    after = state(trained)
    for number in range(4):
        weight = f"model.layers.{number}.mlp.down_proj.weight"
        assert (after[weight] - before[weight]).abs().max().item() == pytest.approx(
            1e-3 * 2.0 ** (number - 3), rel=1e-2
        )


# gradual unfreezing
def schedule(step: int, every: int = 2) -> set[str]:
    """Two groups of two blocks; norm and head with the first, the embeddings with the last."""
    return EVERYTHING if step >= every else layer(2) | layer(3) | ENDS


PROGRESSIVE = plugin("progressive", groups=2, every=0.25, warmup=3)


def test_each_step_moves_exactly_what_the_schedule_says(tmp_path: Path) -> None:
    trained = policy(PROGRESSIVE)
    states = {-1: state(trained)}
    train(trained, tmp_path, states.__setitem__, weight_decay=0.1)
    for step in range(8):
        assert changed(states[step - 1], states[step]) == schedule(step)


def test_what_joins_begins_slowly_and_the_rest_goes_on(tmp_path: Path) -> None:
    trained = policy(PROGRESSIVE)
    states = {-1: state(trained)}
    train(trained, tmp_path, states.__setitem__, lr=1e-3)
    low, high = "model.layers.0.mlp.down_proj.weight", "model.layers.3.mlp.down_proj.weight"
    first = (states[2][low] - states[1][low]).abs().max().item()
    assert first == pytest.approx(1e-3 / 4, rel=1e-2)  # Adam's first step, at a quarter of the rate
    assert (states[0][high] - states[-1][high]).abs().max().item() == pytest.approx(1e-3, rel=1e-2)
    adapter: Any = trained.adapters[0]
    for step, factor in [(2, 1 / 4), (3, 2 / 4), (4, 3 / 4), (5, 1.0)]:
        adapter.before_step(trained.module, step, 8)
        assert adapter.lr_factors(trained.module).get(low, 1.0) == pytest.approx(factor)
        assert high not in adapter.lr_factors(trained.module)


def test_what_has_not_trained_has_no_optimiser_state(tmp_path: Path) -> None:
    trained = policy(PROGRESSIVE)
    with pytest.raises(Interrupted):
        train(trained, tmp_path, save_every=2, die=3)
    found = checkpoint.latest(Run(tmp_path))
    assert found is not None and found.step == 2
    assert sum(len(each) for each in found.optimizers()) == len(schedule(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("die", [2, 3, 4, 7])
def test_resumed_at_any_step_is_never_interrupted(dtype: torch.dtype, die: int, tmp_path: Path) -> None:
    adapt = plugin("progressive", groups=2, every=3, warmup=3, decay=1.5)

    def run(folder: Path, **keys: Any) -> Weights:
        trained = policy(adapt, module=model(dtype=dtype))
        train(trained, folder, save_every=1, **keys)
        return state(trained)

    expected = run(tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(tmp_path / "cut", die=die)
    assert not changed(expected, run(tmp_path / "cut"))


def test_one_group_is_full_fine_tuning(tmp_path: Path) -> None:
    one, full = policy(plugin("progressive", groups=1)), policy(plugin("full"))
    train(one, tmp_path / "one")
    train(full, tmp_path / "full")
    assert not changed(state(full), state(one))


def test_it_unfreezes_what_freeze_leaves_and_what_an_adapter_adds(tmp_path: Path) -> None:
    for trained, free in [
        (policy(PROGRESSIVE, plugin("freeze", bottom=1)), EVERYTHING - layer(0) - {"model.embed_tokens.weight"}),
        (policy(plugin("lora", r=2), PROGRESSIVE), None),
    ]:
        free = free or {name for name, _ in trained.trainable()}
        states = {-1: state(trained)}
        train(trained, tmp_path / str(len(free)), states.__setitem__)
        assert changed(states[-1], states[7]) == free
        assert all("layers.2." in n or "layers.3." in n or n in ENDS for n in changed(states[-1], states[1]))


def test_more_groups_than_blocks_are_refused() -> None:
    with pytest.raises(LuthierError, match="only 4 blocks"):
        policy(plugin("progressive", groups=5))


# chosen weights beside an adapter
def test_norms_train_beside_lora_are_saved_and_can_be_switched_off(tmp_path: Path) -> None:
    ids = torch.arange(3, 23).view(1, -1)
    base = model()
    with torch.no_grad():
        plain = base(ids).logits
    trained = policy(plugin("lora", r=2), plugin("train", weights="norms"))
    names = {name for name, _ in trained.trainable()}
    assert all("lora_" in name or "norm" in name for name in names) and sum("norm" in name for name in names) == 9
    train(trained, tmp_path, lr=1e-2)
    saved = {name: tensor.clone() for name, tensor in trained.attached.tensors().items()}
    assert {name.partition(".")[2] for name in saved} == {n for n, _ in base.named_parameters() if "norm" in n}
    trained.module.eval()
    with torch.no_grad():
        tuned = trained.module(ids).logits
        with trained.adapter_off():
            assert torch.equal(trained.module(ids).logits, plain)
        assert torch.equal(trained.module(ids).logits, tuned)
        again = policy(plugin("train", weights="norms"))
        again.attached.restore(saved)
        assert not torch.equal(again.module(ids).logits, plain)
        assert torch.equal(again.module.model.norm.weight, saved["0.model.norm.weight"])
        with pytest.raises(KeyError):
            again.attached.restore({})


def test_what_is_frozen_cannot_be_chosen() -> None:
    with pytest.raises(LuthierError, match="is frozen"):
        policy(plugin("freeze", embeddings=True), plugin("train", weights="embeddings"))
