"""TwoNN on clouds of known dimension; ranks as the formula says, and applied."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from beside_a_tiny_model import IDS, on, rows

from luthier.errors import LuthierError
from luthier.models.adapters.kit.dimension import intrinsic_dimension
from luthier.models.adapters.peft.gelora import GeLora

SAMPLE = rows(*[(4 + n % 7, 3 + n % 5) for n in range(60)])


def cloud(dimensions: int, points: int = 1000) -> torch.Tensor:
    """Gaussian points on a random subspace of R^64."""
    draw = torch.Generator().manual_seed(dimensions)
    basis = torch.linalg.qr(torch.randn(64, dimensions, generator=draw, dtype=torch.float64)).Q
    return torch.randn(points, dimensions, generator=draw, dtype=torch.float64) @ basis.T


@pytest.mark.parametrize(("dimensions", "off"), [(1, 0.15), (2, 0.3), (5, 0.6), (10, 1.5)])
def test_twonn_finds_the_dimension_of_gaussians(dimensions: int, off: float) -> None:
    assert intrinsic_dimension(cloud(dimensions)) == pytest.approx(dimensions, abs=off)


def test_twonn_is_low_for_many_dimensions_but_grows() -> None:
    assert 12 < intrinsic_dimension(cloud(20)) < 20


def test_twonn_knows_neither_rotation_nor_scale_nor_place_nor_copies() -> None:
    points = cloud(4, 300)
    once = intrinsic_dimension(points)
    turn = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).Q
    assert intrinsic_dimension(1e3 * points @ turn + 5) == pytest.approx(once, rel=1e-6)
    assert intrinsic_dimension(torch.cat([points, points[:100]])) == pytest.approx(once, rel=1e-9)


def test_twonn_on_a_line_of_growing_gaps_by_hand() -> None:
    # points 2^k: neighbours at 2^(k-1) below and, if there is none nearer, 3 * 2^(k-2) below; ratio 3/2 everywhere
    # but at the first (1, 3: ratio 3) and second (1 and 2: ratio 2) point
    points = torch.tensor([2.0**k for k in range(20)], dtype=torch.float64)[:, None]
    ratios = sorted([3.0, 2.0] + [1.5] * 18)[:18]
    log = torch.tensor(ratios, dtype=torch.float64).log()
    height = -torch.log(1 - torch.arange(1, 19, dtype=torch.float64) / 20)
    slope = float((log * height).sum() / (log * log).sum())
    assert slope > 1  # more than a line has: the estimate is held to the number of coordinates
    assert intrinsic_dimension(points) == 1
    assert intrinsic_dimension(torch.nn.functional.pad(points, (0, 3))) == pytest.approx(min(slope, 4), rel=1e-12)


def test_too_few_distinct_points_are_refused() -> None:
    with pytest.raises(LuthierError, match="19 distinct points"):
        intrinsic_dimension(cloud(2, 19).repeat(4, 1))


def test_ranks_follow_the_growth_of_the_dimension_and_are_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GeLora, "dimensions", lambda *_: [3.2, 7.9, 5.0])
    module, _ = on(tiny.model(), "gelora", sample=SAMPLE, ranks={"layers.1.mlp.up_proj": 4})
    ranks = {n: m.lora_A["default"].weight.shape[0] for n, m in layers(module).items()}
    # round(7.9 - 3.2) + 1 = 6 in block 0; block 1 adds no dimension
    assert {rank for name, rank in ranks.items() if "layers.0." in name} == {6}
    assert {name.rpartition(".")[2] for name, rank in ranks.items() if "layers.1." in name and rank != 1} == {"up_proj"}
    assert ranks["model.layers.1.mlp.up_proj"] == 4
    assert {m.scaling["default"] for m in layers(module).values()} == {2.0}  # alpha / r everywhere
    count = sum(m.in_features * ranks[n] + m.out_features * ranks[n] for n, m in layers(module).items())
    assert sum(w.numel() for w in module.parameters() if w.requires_grad) == count


def layers(module: Any) -> dict[str, Any]:
    return {
        n: m
        for n, m in module.get_base_model().named_modules()
        if type(m).__name__ == "Linear" and "lora_A" in m._modules
    }


def test_measured_on_mean_states_between_the_blocks() -> None:
    module = tiny.model().train()
    found = GeLora().dimensions(module, SAMPLE)
    assert len(found) == 3 and all(d > 0 for d in found)
    assert module.training and not module.model.layers[0]._forward_pre_hooks
    seen: list[list[torch.Tensor]] = [[], [], []]
    module.eval()
    for row in SAMPLE:  # one row at a time: no padding
        ids = torch.from_numpy(row.ids[0].astype("int64"))[None]
        handles = [
            *(block.register_forward_pre_hook(lambda _m, a, n=n: seen[n].append(a[0].mean(1)))
              for n, block in enumerate(module.model.layers)),
            module.model.layers[-1].register_forward_hook(lambda _m, _a, out: seen[2].append(out.mean(1))),
        ]  # fmt: skip
        with torch.no_grad():
            module(input_ids=ids)
        for handle in handles:
            handle.remove()
    assert found == pytest.approx([intrinsic_dimension(torch.cat(points)) for points in seen], rel=1e-3)


def test_begins_as_the_base_with_every_rank_at_least_one() -> None:
    base = tiny.model().eval()(input_ids=IDS).logits
    module, adapter = on(tiny.model().eval(), "gelora", sample=SAMPLE, least=2)
    assert torch.equal(module.eval()(input_ids=IDS).logits, base) and adapter.exact_start
    assert all(m.lora_A["default"].weight.shape[0] >= 2 for m in layers(module).values())
