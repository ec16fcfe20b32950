"""LoReFT by its closed forms, and where in packed, padded and generated rows it edits."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import runs
import tiny
import torch
from beside_a_tiny_model import IDS, logits, on, rows, step

from luthier.engines import LocalEngine
from luthier.errors import LuthierError
from luthier.forward.batches import micro_batches
from luthier.forward.forward import Forward
from luthier.forward.values import Reader
from luthier.models import heads
from luthier.models.adapters.own.intervention import Intervention
from luthier.models.positions import Prompts, placed
from luthier.train.loop import activations
from luthier.types import Sampling

SHAPES = [(9, 5), (3, 6), (12, 2), (1, 4)]


def trained(**keys: Any) -> tuple[Any, Any]:
    module, adapter = on(tiny.model().eval(), "loreft", **{"r": 3, "first": 2, "last": 2, **keys})
    step(module, 4)
    return module, adapter


def test_the_edit_keeps_its_subspace_exactly() -> None:
    torch.manual_seed(0)
    edit = Intervention(16, 3, "random")
    optimizer = torch.optim.Adam(edit.parameters(), 0.3)
    hidden = torch.randn(40, 16)
    for _ in range(20):
        optimizer.zero_grad()
        (edit(hidden) - torch.randn(40, 16)).square().sum().backward()
        optimizer.step()
    with torch.no_grad():
        rotation, after = edit.rotation(), edit(hidden)
        assert torch.allclose(rotation @ rotation.T, torch.eye(3), atol=1e-6)
        assert torch.allclose(after @ rotation.T, hidden @ edit.weight.T + edit.bias, atol=2e-5)
        outside = torch.eye(16) - rotation.T @ rotation
        assert ((after - hidden) @ outside).abs().max() < 4e-6
        assert (after - hidden).abs().max() > 1


def test_the_rotation_is_the_gram_schmidt_basis() -> None:
    edit = Intervention(3, 2, "identity")
    edit.basis.data = torch.tensor([[0.0, -2.0, 0.0], [3.0, 5.0, 0.0]])
    assert torch.allclose(edit.rotation(), torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]]), atol=1e-7)


@pytest.mark.parametrize(("tied", "edits"), [(True, 1), (False, 2)])
def test_identity_is_an_exact_no_op_and_weights_are_counted(tied: bool, edits: int) -> None:
    base = logits(tiny.model().eval())
    module, adapter = on(tiny.model().eval(), "loreft", r=3, first=2, last=2, tied=tied)
    assert torch.equal(logits(module), base) and adapter.exact_start
    assert sum(w.numel() for w in module.parameters() if w.requires_grad) == 2 * edits * 3 * (2 * 32 + 1)
    step(module)
    assert not torch.allclose(logits(module), base, atol=1e-3)
    with adapter.off(module):
        assert torch.equal(logits(module), base)
    random, other = on(tiny.model().eval(), "loreft", r=3, start="random")
    assert not other.exact_start and not torch.allclose(logits(random), base, atol=1e-3)


def test_ends_of_prompts_by_hand() -> None:
    prompts = Prompts.spans(12, [(0, 5), (6, 9)], "cpu")  # 5 and 3 prompt tokens; 5 and 9 to 11 are answers
    assert prompts.before_T.tolist() == [0, 1, 2, 3, 4, -1, 0, 1, 2, -1, -1, -1]
    assert prompts.after_T.tolist() == [4, 3, 2, 1, 0, -1, 2, 1, 0, -1, -1, -1]
    head, tail = prompts.ends(2, 2)
    assert (head.tolist(), tail.tolist()) == ([0, 1, 6, 7], [3, 4, 8])  # no token twice
    left = Prompts.whole(torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]))
    assert [part.tolist() for part in left.ends(1, 1)] == [[2, 5], [4, 9]]


def test_tokens_elsewhere_are_bit_identical_at_that_layer() -> None:
    outs: list[list[torch.Tensor]] = []
    for module in (tiny.model().eval(), trained(layers=[0])[0]):
        kept: list[torch.Tensor] = []
        module.model.layers[0].register_forward_hook(lambda _m, _a, out, kept=kept: kept.append(out))
        logits(module)
        outs.append(kept)
    moved = (outs[0][0] != outs[1][0]).any(-1)
    assert moved.tolist() == [[True, True, *[False] * 8, True, True]] * 2


def states(
    module: Any, layout: Any, checkpointing: bool = False
) -> tuple[dict[int, list[float]], dict[str, torch.Tensor]]:
    """Log-probabilities by row, and the gradients of their sum."""
    module.train()
    module.zero_grad()
    if checkpointing:
        activations.remake(module)
    found: dict[int, list[float]] = {}
    with Forward(module, layout=layout).opened() as forward:
        assert not forward.share_prefix
        for batch in micro_batches(rows(*SHAPES), 30, share_prefix=forward.share_prefix, layout=forward.layout):
            seen = forward.rows(batch)
            seen.logp_S.sum().backward()
            per_example = batch.chosen
            for row, value in zip(seen.row_S.tolist(), seen.logp_S.tolist(), strict=True):
                found.setdefault(per_example[row], []).append(value)
    if checkpointing:
        activations.keep(module)
    module.eval()
    return found, {n: w.grad.clone() for n, w in module.named_parameters() if w.grad is not None}


def test_packed_padded_checkpointed_and_the_engine_edit_the_same_tokens() -> None:
    module, _ = trained(tied=False)
    packed, gradients = states(module, "packed")
    engine = LocalEngine(module, None, ())
    scores = {n: each.tolist() for n, each in enumerate(engine.logprobs(rows(*SHAPES)))}
    plain = LocalEngine(tiny.model().eval(), None, ()).logprobs(rows(*SHAPES))
    for row, values in packed.items():
        assert values == pytest.approx(scores[row], abs=2e-5)
        assert values != pytest.approx(plain[row].tolist(), abs=1e-2)
    for layout, checkpointing in itertools.product(("packed", "padded"), (False, True)):
        found, again = states(module, layout, checkpointing)
        assert all(found[row] == pytest.approx(packed[row], abs=2e-5) for row in packed)
        assert again.keys() == gradients.keys()
        assert all(torch.allclose(gradients[name], again[name], atol=1e-4, rtol=1e-3) for name in gradients)


def test_a_scalar_head_is_read_in_training_and_after_it_on_the_same_states() -> None:
    module, _ = trained()
    head = heads.attach(module, torch.device("cpu"))
    torch.nn.init.normal_(head.weight)
    read = Reader(module, head)(rows(*SHAPES))
    with Forward(module, heads={"reward": head}).opened() as forward, torch.no_grad():
        for batch in micro_batches(rows(*SHAPES), 30, share_prefix=False):
            values, _ = forward.rows(batch, (), (("reward", "row"),)).read("reward")
            assert values.tolist() == pytest.approx([float(read[row][0]) for row in batch.chosen], abs=2e-5)


def test_a_run_cut_off_and_resumed_equals_one_that_was_not(tmp_path: Path) -> None:
    def policy() -> Any:
        return runs.policy(runs.plugin("loreft", r=3, tied=False), module=tiny.model())

    whole, broken = policy(), policy()
    keys: dict[str, Any] = {"save_every": 2}
    runs.train(whole, tmp_path / "whole", **keys)
    with pytest.raises(runs.Interrupted):
        runs.train(broken, tmp_path / "broken", die=5, **keys)
    again = policy()
    runs.train(again, tmp_path / "broken", **keys)
    assert runs.changed(runs.state(whole), runs.state(again)) == set()
    assert runs.changed(runs.state(policy()), runs.state(again)) == {name for name, _ in again.trainable()}


def test_generation_edits_the_prompt_once_and_no_new_token() -> None:
    module, _ = trained()
    prompts = [each.ids[0][: (each.weights[0] == 0).sum()].tolist() for each in rows(*SHAPES)]
    prompts = [prompts[0], prompts[0][:7] + prompts[2], prompts[1]]  # a common beginning, unlike lengths
    answers = LocalEngine(module, _Words(), ()).generate(prompts, Sampling(max_new_tokens=5))
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = torch.tensor([prompt])
        for token in answer.ids:  # without a cache, told where the prompt lies
            told = Prompts.spans(ids.shape[1], [(0, len(prompt))], "cpu")
            assert int(logits(module, ids, prompts=told)[0, -1].argmax()) == token
            ids = torch.cat([ids, torch.tensor([[token]])], 1)
    alone = [LocalEngine(module, _Words(), ()).generate([p], Sampling(max_new_tokens=5))[0].ids for p in prompts]
    assert alone == [answer.ids for answer in answers]


class _Words:
    """As much of a tokenizer as the engine needs."""

    def decode(self, ids: Any, **_: Any) -> str:
        return " ".join(map(str, ids))


def test_every_layer_that_is_named_is_there() -> None:
    with pytest.raises(LuthierError, match="block 7 is frozen, or the model has none of that number"):
        on(tiny.model(), "loreft", layers=[0, 7])


def test_keys_that_leave_nothing_to_edit_are_refused() -> None:
    for keys in ({"layers": [7]}, {"first": 0, "last": 0}):
        with pytest.raises(LuthierError, match="nothing to edit"):
            on(tiny.model(), "loreft", **keys)
    with pytest.raises(LuthierError, match="dimensions"):
        on(tiny.model(), "loreft", r=33)
    assert not placed(tiny.model()) and placed(on(tiny.model(), "loreft")[0])


def test_tensors_put_back_give_the_same_model() -> None:
    module, adapter = trained(tied=False)
    again, other = on(tiny.model().eval(), "loreft", seed=9, r=3, first=2, last=2, tied=False)
    other.restore(again, {name: tensor.clone() for name, tensor in adapter.tensors(module).items()})
    assert torch.equal(logits(again, IDS), logits(module, IDS))
