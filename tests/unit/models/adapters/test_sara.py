"""SaRA: exactly the small entries move, by masked gradients, and what is saved brings the same model back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from runs import Interrupted, changed, model, plugin, policy, state, train
from torch import nn

from luthier.errors import LuthierError
from luthier.models.adapters.base.entries import Entries, threshold

IDS = torch.arange(3, 23).view(1, -1)
MATRICES = [name for name, _ in model().named_parameters() if "proj" in name]


def logits(module: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = module.eval()(IDS).logits
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_exactly_the_small_entries_move(dtype: torch.dtype, tmp_path: Path) -> None:
    share = 0.2
    trained = policy(plugin("sara", share=share, reselect=False), module=model(dtype=dtype))
    before, plain = state(trained), model(dtype=dtype).state_dict()
    assert all(torch.equal(before[name], tensor) for name, tensor in plain.items())  # no sign is lost on attaching
    train(trained, tmp_path, lr=1e-2, weight_decay=0.5)
    after = state(trained)
    assert {name for name in changed(before, after) if not name.endswith(".sara")} == set(MATRICES)
    for name in MATRICES:
        small = plain[name].float().abs() < threshold(plain[name], share)
        moved = after[name] != plain[name]
        assert not (moved & ~small).any()
        assert moved[small].float().mean() > 0.95
        values = after[name.removesuffix("weight") + "sara"]
        assert values.dtype == torch.float32 and len(values) == int(small.sum())
        assert torch.equal(after[name][small], values.to(dtype))
    trainable, total = trained.parameter_counts()
    small = sum(int((plain[n].float().abs() < threshold(plain[n], share)).sum()) for n in MATRICES)
    assert trainable == small and total == sum(weight.numel() for weight in plain.values()) + small


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_the_quantile_is_kept_to(share: float) -> None:
    weight = torch.randn(50, 40)
    assert int((weight.abs() < threshold(weight, share)).sum()) == int(share * 2000)
    ties = torch.tensor([[1.0, -1.0, 1.0, 2.0]])
    assert threshold(ties, 0.5) == 1.0  # none of three equals alone: at most the share
    assert threshold(weight, 1.0) == float("inf")


def test_every_entry_is_full_fine_tuning_of_the_matrices(tmp_path: Path) -> None:
    sparse = policy(plugin("sara", share=1.0, low_rank=0.0, reselect=False))
    dense = policy(plugin("freeze", only="proj"))
    before = state(dense)
    train(sparse, tmp_path / "sparse")
    train(dense, tmp_path / "dense")
    found, expected = state(sparse), state(dense)
    assert changed(before, expected) == {name for name in before if "_proj." in name}
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-5, atol=1e-6)


def entries(rows: int = 80, columns: int = 70, share: float = 0.4) -> Entries:
    torch.manual_seed(0)
    layer = nn.Linear(columns, rows, bias=False)
    found = Entries(layer, threshold(layer.weight, share))
    found.values.data += 0.01 * torch.randn_like(found.values)
    found.write()
    return found


def test_the_nuclear_norm_and_its_gradient_are_those_of_the_update() -> None:
    part = entries()
    base = part.weight.clone().view(-1).index_copy(0, part.index_K.long(), part.base_K).view_as(part.weight)
    update = (part.weight - base).double().requires_grad_()
    norm = torch.linalg.svdvals(update).sum()
    norm.backward()  # U V^T
    found = part.nuclear_norm()
    found.backward()
    assert found.item() == pytest.approx(norm.item(), rel=1e-5)
    assert update.grad is not None and part.values.grad is not None
    torch.testing.assert_close(
        part.values.grad.double(), update.grad.view(-1)[part.index_K.long()], rtol=1e-3, atol=1e-5
    )


def test_the_nuclear_norm_of_no_update_pulls_nowhere() -> None:
    part = entries()
    part.values.data.copy_(part.base_K)
    norm = part.nuclear_norm()
    norm.backward()
    assert norm.item() == 0
    assert part.values.grad is not None and not part.values.grad.any()


def test_the_low_rank_term_shrinks_the_update(tmp_path: Path) -> None:
    norms = []
    for weight in (0.0, 0.5):
        trained = policy(plugin("sara", low_rank=weight, reselect=False), module=model(layers=1, hidden=72))
        train(trained, tmp_path / str(weight), optimizer="adamw", lr=1e-2)
        adapter: Any = trained.adapters[0]
        norms.append(sum(part.nuclear_norm().item() for part in adapter._parts.values()))
    assert norms[1] < 0.9 * norms[0]


def test_halfway_what_has_outgrown_the_threshold_is_settled(tmp_path: Path) -> None:
    trained = policy(plugin("sara", share=0.1))
    states: dict[int, Any] = {}
    train(trained, tmp_path, states.__setitem__, lr=5e-3)
    half, end = states[3], states[7]
    adapter: Any = trained.adapters[0]
    gone = still = 0
    for name, part in adapter._parts.items():
        values, after = half[f"{name}.sara"], end[f"{name}.sara"]
        outgrown = values.abs() >= part.tau
        assert torch.equal(after[outgrown], values[outgrown])
        assert (after != values)[~outgrown].float().mean() > 0.95
        gone, still = gone + int(outgrown.sum()), still + int((~outgrown).sum())
    assert gone > 100 and still > 100


@pytest.mark.parametrize("die", [2, 4, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_resumed_it_is_never_interrupted(dtype: torch.dtype, die: int, tmp_path: Path) -> None:
    def run(folder: Path, **keys: Any) -> Any:
        trained = policy(plugin("sara", low_rank=0.01), module=model(layers=1, hidden=72, dtype=dtype))
        train(trained, folder, lr=1e-2, save_every=1, **keys)
        return state(trained)

    expected = run(tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(tmp_path / "cut", die=die)
    assert not changed(expected, run(tmp_path / "cut"))


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside lora"])
def test_saved_put_back_switched_off_and_merged(beside: bool, tmp_path: Path) -> None:
    trained = policy(plugin("sara"), *([plugin("lora", r=2)] if beside else []))
    plain = logits(model())
    assert torch.equal(logits(trained.module), plain)
    train(trained, tmp_path)
    tuned = logits(trained.module)
    with trained.adapter_off():
        assert torch.equal(logits(trained.module), plain)
    assert torch.equal(logits(trained.module), tuned)
    saved = {name: tensor.clone() for name, tensor in trained.attached.tensors().items()}
    if beside:
        assert all(name.endswith((".values", ".mask")) for name in saved)
        return
    again = policy(plugin("sara", share=0.05))  # another choice: what was saved decides
    again.attached.restore(saved)
    assert torch.equal(logits(again.module), tuned)
    merged = again.attached.merge()
    assert merged.state_dict().keys() == model().state_dict().keys()
    assert torch.equal(logits(merged), tuned)
    bits = sum(tensor.numel() for name, tensor in saved.items() if name.endswith(".mask"))
    assert bits == sum(-(-model().get_parameter(name).numel() // 8) for name in MATRICES)


def test_frozen_matrices_are_left_alone_and_none_is_an_error() -> None:
    trained = policy(plugin("freeze", bottom=3), plugin("sara"))
    assert all("layers.3." in name for name, _ in trained.trainable())
    with pytest.raises(LuthierError, match="frozen"):
        policy(plugin("freeze", only="norms"), plugin("sara"))
    with pytest.raises(LuthierError, match="no entry"):
        policy(plugin("sara", share=1e-6))
