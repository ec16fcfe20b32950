"""Shapes: A, B = sides of a matrix."""

import pytest
import torch
from torch.nn import Parameter

from luthier.errors import LuthierError
from luthier.train import OPTIMIZERS
from luthier.train.optim.optimizers import Weight, groups
from luthier.train.optim.update import Update

ON_CPU = ("adamw", "adafactor", "muon")


def trainable(dtype: torch.dtype = torch.float32) -> list[tuple[str, Parameter]]:
    torch.manual_seed(0)
    shapes = {"embed": (6, 4), "layer.weight": (4, 4), "layer.bias": (4,), "norm": (4,)}
    return [(name, Parameter(torch.randn(shape, dtype=dtype))) for name, shape in shapes.items()]


def step(update: Update, lr: float = 0.1, clip: float = 0.0, seed: int = 0) -> float:
    generator = torch.Generator().manual_seed(seed)
    loss = sum((p.float() * torch.randn(p.shape, generator=generator)).sum() for p in update.parameters)
    loss.backward()
    norm = update.norm().item()
    update.step(lr, norm, clip)
    return norm


def build(name: str, decay: float = 0.0, **options: object) -> Update:
    parameters = trainable(**{"dtype": options.pop("dtype")} if "dtype" in options else {})
    return Update(parameters, OPTIMIZERS.build(name), weight_decay=decay, **options)


def test_only_matrices_decay() -> None:
    weights = [Weight(name, tensor, False) for name, tensor in trainable()]
    decaying, others = groups(weights, 0.1)
    assert [tuple(p.shape) for p in decaying["params"]] == [(6, 4), (4, 4)]
    assert [tuple(p.shape) for p in others["params"]] == [(4,), (4,)]
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.1, 0.0)


@pytest.mark.parametrize("name", ON_CPU)
def test_with_no_gradient_signal_matrices_shrink_and_vectors_stay(name: str) -> None:
    update = build(name, decay=0.5)
    before = {key: value.clone() for key, value in update.weights().items()}
    for parameter in update.parameters:
        parameter.grad = torch.zeros_like(parameter)
    update.step(0.1, 0.0, 0.0)
    for key, now in update.weights().items():
        expected = before[key] * (0.95 if now.ndim == 2 else 1.0)
        torch.testing.assert_close(now, expected)


def test_adamw_first_step_is_the_sign_of_the_gradient() -> None:
    update = build("adamw")
    before = {key: value.clone() for key, value in update.weights().items()}
    generator = torch.Generator().manual_seed(0)
    step(update, lr=0.01)
    for key, now in update.weights().items():
        gradient = torch.randn(now.shape, generator=generator)
        torch.testing.assert_close(now, before[key] - 0.01 * gradient.sign(), atol=1e-5, rtol=0)


def test_adamw_is_torchs() -> None:
    update, (_, *_rest) = build("adamw", decay=0.3), trainable()
    theirs = [parameter for _, parameter in trainable()]
    matrices, vectors = [p for p in theirs if p.ndim == 2], [p for p in theirs if p.ndim < 2]
    reference = torch.optim.AdamW([{"params": matrices}, {"params": vectors, "weight_decay": 0}], 0.1, weight_decay=0.3)
    for seed in range(3):
        step(update, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        sum((p * torch.randn(p.shape, generator=generator)).sum() for p in theirs).backward()
        reference.step()
        reference.zero_grad()
    for ours, other in zip(update.parameters, theirs, strict=True):
        torch.testing.assert_close(ours, other)


def test_clipping_scales_all_gradients_together() -> None:
    parameter = Parameter(torch.zeros(2))
    update = Update([("w", parameter)], OPTIMIZERS.build("adafactor", {"clip_threshold": 1e9}), weight_decay=0.0)
    parameter.grad = torch.tensor([3.0, 4.0])
    assert update.norm().item() == 5.0
    seen = []
    update.optimizers[0].register_step_pre_hook(lambda *_: seen.append(parameter.grad.clone()))
    update.step(0.1, 5.0, 1.0)
    torch.testing.assert_close(seen[0], torch.tensor([0.6, 0.8]))
    assert parameter.grad is None
    parameter.grad = torch.tensor([3.0, 4.0])
    update.step(0.1, 5.0, 0.0)
    torch.testing.assert_close(seen[1], torch.tensor([3.0, 4.0]))


def test_muon_orthogonalises_hidden_matrices_and_leaves_the_rest_to_adamw() -> None:
    parameters = trainable()
    update = Update(parameters, OPTIMIZERS.build("muon"), weight_decay=0.0, embeddings={id(parameters[0][1])})
    assert [type(optimizer).__name__ for optimizer in update.optimizers] == ["Muon", "AdamW"]
    before = update.weights()["layer.weight"].clone()
    step(update, lr=0.1)
    moved_AB = (update.weights()["layer.weight"] - before) / (0.1 * 0.2 * 4**0.5)
    # Newton-Schulz brings every singular value near 1
    assert 0.5 < torch.linalg.svdvals(moved_AB).min() <= torch.linalg.svdvals(moved_AB).max() < 1.5


def test_adafactor_moves_weights_that_begin_at_zero_as_fast_as_others() -> None:
    parameter = Parameter(torch.zeros(3, 3))
    update = Update([("B", parameter)], OPTIMIZERS.build("adafactor"), weight_decay=0.0)
    parameter.grad = torch.ones(3, 3)
    update.step(0.01, 3.0, 0.0)
    torch.testing.assert_close(parameter.detach(), torch.full((3, 3), -0.01))


def test_masters_keep_updates_that_bf16_would_lose() -> None:
    weight = Parameter(torch.ones(4, dtype=torch.bfloat16))
    plain = Parameter(torch.ones(4, dtype=torch.bfloat16))
    spec = OPTIMIZERS.build("adamw")
    kept = Update([("w", weight)], spec, weight_decay=0.0)
    lost = Update([("w", plain)], spec, weight_decay=0.0, masters=False)
    for _ in range(10):
        for update in (kept, lost):
            update.parameters[0].float().sum().backward()
            update.step(1e-3, update.norm().item(), 0.0)
    assert kept.has_masters and not kept.lossy
    assert lost.lossy and not lost.has_masters
    torch.testing.assert_close(kept.weights()["w"], torch.full((4,), 0.99))
    assert weight.dtype == torch.bfloat16
    assert weight.tolist() == [0.98828125] * 4  # 0.99 in bf16
    assert plain.tolist() == [1.0] * 4


def test_gradients_of_micro_batches_add_up_in_fp32() -> None:
    weight = Parameter(torch.ones(1, dtype=torch.bfloat16))
    update = Update([("w", weight)], OPTIMIZERS.build("adamw"), weight_decay=0.0)
    for _ in range(300):  # in bf16, 256 + 1 = 256
        weight.sum().backward()
    assert weight.grad is None
    assert update.norm().item() == 300.0
    update.close()
    weight.sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize("name", ON_CPU)
def test_state_put_back_continues_bit_by_bit(name: str) -> None:
    whole, first, second = build(name, decay=0.1), build(name, decay=0.1), build(name, decay=0.1)
    for seed in range(4):
        step(whole, seed=seed)
    for seed in range(2):
        step(first, seed=seed)
    second.load_weights({key: value.clone() for key, value in first.weights().items()})
    second.load_state(first.state())
    for seed in range(2, 4):
        step(second, seed=seed)
    for key, value in whole.weights().items():
        assert torch.equal(value, second.weights()[key]), key


def test_other_weights_are_refused() -> None:
    update = build("adamw")
    with pytest.raises(LuthierError, match="first difference: norm"):
        update.load_weights({key: value for key, value in update.weights().items() if key != "norm"})


@pytest.mark.parametrize("name", ["adamw_8bit", "adamw_paged"])
def test_bitsandbytes_needs_cuda_and_says_so(name: str) -> None:
    with pytest.raises(LuthierError, match="runs on CUDA only, and these weights are on cpu"):
        build(name)


def test_nothing_that_trains_is_an_error() -> None:
    with pytest.raises(LuthierError, match="every weight is frozen"):
        Update([], OPTIMIZERS.build("adamw"), weight_decay=0.0)
