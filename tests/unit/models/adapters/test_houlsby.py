"""Bottleneck adapters by their closed forms."""

from __future__ import annotations

import pytest
import tiny
import torch
from beside_a_tiny_model import IDS, logits, on, step

from luthier.errors import LuthierError
from luthier.models.adapters.own.bottleneck import Bottleneck

D, M = 32, 4


def test_closed_form_of_the_network() -> None:
    part = Bottleneck(2, 1, "relu", "identity")
    part.load_state_dict({
        "down": torch.tensor([[1.0, -2.0]]), "down_bias": torch.tensor([0.5]),
        "up": torch.tensor([[3.0], [-1.0]]), "up_bias": torch.tensor([0.0, 0.25]),
    })  # fmt: skip
    # relu(1 * 2 - 2 * 0.5 + 0.5) = 1.5; relu(1 * 0 - 2 * 1 + 0.5) = 0
    assert part(torch.tensor([[2.0, 0.5], [0.0, 1.0]])).tolist() == [[4.5, -1.25], [0.0, 0.25]]


@pytest.mark.parametrize("parallel", [False, True])
def test_zero_up_is_an_exact_no_op_and_the_count_is_the_papers(parallel: bool) -> None:
    module = tiny.model().eval()
    base, names = logits(module), set(module.state_dict())
    module, adapter = on(module, "houlsby", size=M, parallel=parallel)
    assert torch.equal(logits(module), base)
    assert names < set(module.state_dict())
    count = sum(weight.numel() for weight in module.parameters() if weight.requires_grad)
    assert count == 2 * 2 * (2 * D * M + D + M)  # two layers
    step(module)
    assert not torch.allclose(logits(module), base, atol=1e-3)
    with adapter.off(module):
        assert torch.equal(logits(module), base)


def test_what_it_adds_stands_before_the_residual_and_reads_what_it_should() -> None:
    for parallel in (False, True):
        module, _ = on(
            tiny.model().eval(), "houlsby", size=M, start="near", parallel=parallel, scale=2, at="feed_forward"
        )
        block, seen = module.model.layers[0], {}
        block.mlp.register_forward_pre_hook(lambda _m, args, seen=seen: seen.update(read=args[0]))
        block.mlp.down_proj.register_forward_hook(lambda _m, _args, out, seen=seen: seen.update(plain=out))
        block.mlp.register_forward_hook(lambda _m, _args, out, seen=seen: seen.update(out=out))
        logits(module)
        with torch.no_grad():
            added = block.mlp.houlsby(seen["read"] if parallel else seen["plain"])
        assert added.abs().max() > 1e-6
        assert torch.allclose(seen["out"], seen["plain"] + 2 * added, atol=1e-7)
        assert not hasattr(block.self_attn, "houlsby")


def test_near_begins_near_the_base_and_says_that_it_is_not_it() -> None:
    base = logits(tiny.model().eval())
    module, adapter = on(tiny.model().eval(), "houlsby", size=M, start="near")
    assert not adapter.exact_start and not adapter.mergeable
    weights = torch.cat(
        [w.detach().flatten() for n, w in module.named_parameters() if n.endswith(("houlsby.up", "houlsby.down"))]
    )
    assert weights.abs().max() <= 0.02 and weights.std() == pytest.approx(0.0088, abs=5e-4)  # N(0, 0.01) cut at 2 sigma
    assert 0 < (logits(module) - base).abs().max() < 1e-2


def test_frozen_blocks_get_none_and_all_frozen_is_refused() -> None:
    module = tiny.model()
    module.model.layers[0].requires_grad_(False)
    module, _ = on(module, "houlsby", size=M)
    trained = [name for name, weight in module.named_parameters() if weight.requires_grad]
    assert trained and all(name.startswith("model.layers.1.") for name in trained)
    with pytest.raises(LuthierError, match="frozen"):
        on(tiny.model().requires_grad_(False), "houlsby")


def test_tensors_put_back_give_the_same_model() -> None:
    module, adapter = on(tiny.model().eval(), "houlsby", size=M)
    step(module)
    kept = {name: tensor.clone() for name, tensor in adapter.tensors(module).items()}
    module.requires_grad_(False)
    assert adapter.tensors(module).keys() == kept.keys()  # whether it trains or not
    again, other = on(tiny.model().eval(), "houlsby", size=M, seed=9)
    other.restore(again, kept)
    assert torch.equal(logits(again, IDS), logits(module, IDS))
    with pytest.raises(KeyError):
        other.restore(again, {})
