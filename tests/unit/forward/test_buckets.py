"""A teacher of whom the likeliest tokens alone are known: divergences by buckets, by hand and against whole ones.

Shapes: S = scored tokens, K = known tokens, V = vocabulary, D = hidden size.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import tiny
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from luthier.forward import buckets
from luthier.forward.batches import micro_batches
from luthier.forward.forward import Forward
from luthier.forward.head import Head, Likeliest, Teacher, readouts
from luthier.types import jsd

V, D = 30, 7
NAMES = ("kl", "reverse_kl", jsd(0.3))


def case(scored: int, *, trains: bool, scale: float = 1.0) -> tuple[Tensor, Tensor, Head, Teacher]:
    draw = torch.Generator().manual_seed(scored)
    hidden = torch.randn(scored, D, generator=draw).requires_grad_()
    weight = torch.randn(V, D, generator=draw).requires_grad_(trains)
    other = Head(torch.randn(V, 9, generator=draw), scale=1.5)
    return (
        hidden, torch.randint(0, V, (scored,), generator=draw), Head(weight, torch.randn(V, generator=draw), scale),
        Teacher(torch.randn(scored, 9, generator=draw), other),
    )  # fmt: skip


def known(teacher: Teacher, count: int) -> Likeliest:
    return buckets.likeliest(teacher.hidden_SD, teacher.head, count, V)


def by_definition(hidden: Tensor, head: Head, teacher: Teacher, count: int, name: str) -> Tensor:
    """Whole distributions in fp64, their tails added up."""
    p = torch.softmax(head.logits(hidden).double(), -1)
    q = torch.softmax(teacher.head.logits(teacher.hidden_SD).double(), -1)
    order = q.argsort(-1, descending=True)
    p, q = p.gather(1, order), q.gather(1, order)
    p, q = (torch.cat([x[:, :count], x[:, count:].sum(-1, keepdim=True)], 1)[:, : min(count + 1, V)] for x in (p, q))
    if name == "kl":
        return (q * (q / p).log()).sum(-1)
    if name == "reverse_kl":
        return (p * (p / q).log()).sum(-1)
    mixed = 0.3 * q + 0.7 * p
    return 0.3 * (q * (q / mixed).log()).sum(-1) + 0.7 * (p * (p / mixed).log()).sum(-1)


def test_by_hand() -> None:
    """A teacher that gives 1/2, 1/4 and to two more 1/8 each; a model that gives all four 1/4; two are known."""
    teacher = Likeliest(torch.tensor([[2, 0]]), torch.tensor([[0.5, 0.25]]).log(), torch.tensor([0.25]).log())
    found = readouts(torch.zeros(1, 1), torch.tensor([1]), Head(torch.ones(4, 1)), ("logp", *NAMES), teacher)
    ratio = math.log(2)  # buckets 1/2, 1/4, 1/4 against 1/4, 1/4, 1/2
    assert found["kl"].item() == pytest.approx(0.5 * ratio - 0.25 * ratio)
    assert found["reverse_kl"].item() == pytest.approx(-0.25 * ratio + 0.5 * ratio)
    first, last = 0.3 * 0.5 + 0.7 * 0.25, 0.3 * 0.25 + 0.7 * 0.5
    theirs = 0.5 * math.log(0.5 / first) + 0.25 * math.log(0.25 / last)
    ours = 0.25 * math.log(0.25 / first) + 0.5 * math.log(0.5 / last)
    assert found[jsd(0.3)].item() == pytest.approx(0.3 * theirs + 0.7 * ours, abs=1e-6)
    assert found["logp"].item() == pytest.approx(math.log(0.25))


@pytest.mark.parametrize("count", [1, 4, V - 1, V])
@pytest.mark.parametrize(
    ("trains", "scale"), [(False, 1.0), (True, 1.0), (False, 0.5)], ids=["formed", "trains", "scaled"]
)
def test_values_and_gradients_are_those_of_whole_distributions(
    count: int, trains: bool, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buckets, "BLOCK", 7)  # several blocks and chunks, tokens of each in several of them
    monkeypatch.setattr(buckets, "CHUNK", 4)
    monkeypatch.setattr(buckets, "GATHERED", 3)
    hidden, target, head, teacher = case(9, trains=trains, scale=scale)
    wanted_from = [hidden, head.weight_VD] if trains else [hidden]
    factor = torch.arange(1.0, 10.0)
    found = readouts(hidden, target, head, ("logp", *NAMES), known(teacher, count))
    for name in NAMES:
        wanted = by_definition(hidden, head, teacher, count, name)
        torch.testing.assert_close(found[name].double(), wanted, rtol=1e-5, atol=1e-6)
        ours = torch.autograd.grad((found[name] * factor).sum(), wanted_from, retain_graph=True)
        theirs = torch.autograd.grad((wanted * factor).sum(), wanted_from)
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-5)
    logp = torch.log_softmax(head.logits(hidden), -1).gather(1, target[:, None])[:, 0]
    torch.testing.assert_close(found["logp"], logp, rtol=1e-5, atol=1e-5)
    (ours,), (theirs,) = (torch.autograd.grad((x * factor).sum(), [hidden]) for x in (found["logp"], logp))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("trains", [False, True])
def test_where_all_tokens_are_known_it_is_the_divergence_over_the_vocabulary(trains: bool) -> None:
    hidden, target, head, teacher = case(6, trains=trains)
    whole = readouts(hidden, target, head, NAMES, teacher)
    kept = readouts(hidden, target, head, NAMES, known(teacher, V))
    for name in NAMES:
        torch.testing.assert_close(kept[name], whole[name], rtol=1e-5, atol=1e-6)
    least = [readouts(hidden, target, head, ("kl",), known(teacher, count))["kl"] for count in (1, 4, 12, V)]
    for fewer, more in pairwise(least):
        assert (fewer <= more + 1e-6).all(), "a coarser look sees no more"


def test_other_readouts_stand_beside() -> None:
    hidden, target, head, teacher = case(5, trains=False)
    alone = readouts(hidden, target, head, ("entropy", "mean_logp"))
    found = readouts(hidden, target, head, ("logp", "entropy", "kl", "mean_logp"), known(teacher, 4))
    assert set(found) == {"logp", "entropy", "mean_logp", "kl"}
    for name in ("entropy", "mean_logp"):
        torch.testing.assert_close(found[name], alone[name])


def test_the_rest_is_added_up_and_not_what_is_wanting_to_one() -> None:
    """Of a distribution that its first token nearly exhausts, fp32 would leave nothing."""
    logits = torch.tensor([[0.0, -30.0, -31.0, -32.0]])
    found = buckets.likeliest_of(logits, 2, 4)
    assert found.ids_SK.tolist() == [[0, 1]]
    assert found.rest_S.item() == pytest.approx(math.log(math.exp(-31) + math.exp(-32)), abs=1e-5)
    read = buckets.readouts_of(torch.log_softmax(logits, -1), ("kl",), found)["kl"]
    assert read.item() == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize("block", [3, 50])
def test_tokens_that_the_model_does_not_have_count_to_the_rest(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "BLOCK", block)
    weight = torch.tensor([[1.0], [3.0], [2.0], [5.0], [4.0], [4.5], [0.0]])
    found = buckets.likeliest(torch.ones(2, 1), Head(weight), 2, 3)
    assert found.ids_SK.tolist() == [[1, 2]] * 2
    q = torch.softmax(weight[:, 0], 0)
    torch.testing.assert_close(found.logp_SK[0].exp(), q[[1, 2]])
    torch.testing.assert_close(found.rest_S.exp(), (1 - q[1] - q[2]).expand(2))
    same = buckets.likeliest_of(torch.ones(2, 1) @ weight.T, 2, 3)
    torch.testing.assert_close(same.buckets_SB, found.buckets_SB)


@pytest.mark.parametrize("trains", [False, True])
def test_a_place_without_a_token_is_nothing(trains: bool) -> None:
    hidden, target, head, teacher = case(5, trains=trains)
    few = known(teacher, 3)
    nothing = torch.full((5, 2), -1), torch.full((5, 2), 7.0)
    wide = replace(few, ids_SK=torch.cat([few.ids_SK, nothing[0]], 1), logp_SK=torch.cat([few.logp_SK, nothing[1]], 1))
    for name in NAMES:
        one, other = (readouts(hidden, target, head, ("logp", name), each)[name] for each in (few, wide))
        torch.testing.assert_close(one, other)
        (ours,), (theirs,) = (torch.autograd.grad(each.sum(), [hidden]) for each in (one, other))
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("trains", [False, True])
def test_nothing_scored_is_no_fault(trains: bool) -> None:
    hidden, target, head, teacher = case(0, trains=trains)
    found = readouts(hidden, target, head, ("logp", *NAMES), known(teacher, 3))
    assert all(len(value) == 0 for value in found.values())
    assert torch.autograd.grad(sum(v.sum() for v in found.values()), [hidden])[0].shape == (0, D)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_model_reads_them_of_any_head(family: str) -> None:
    """Gemma 2's is capped, and read padded; a model whose head is none of ours gives its own logits."""
    module = AutoModelForCausalLM.from_config(tiny.config(family))
    rows = tiny.Store(3).encoded
    with Forward(module.eval()).opened() as forward, torch.no_grad():
        (batch,) = micro_batches(rows, 10**6, share_prefix=forward.share_prefix, layout=forward.layout)
        found = forward.likeliest(batch, 5, tiny.VOCABULARY)
        forward._head = None
        plain = forward.likeliest(batch, 5, tiny.VOCABULARY)
        assert torch.equal(found.ids_SK, plain.ids_SK) and found.ids_SK.max() < tiny.VOCABULARY
        torch.testing.assert_close(found.buckets_SB, plain.buckets_SB, rtol=1e-4, atol=1e-4)

        class Kept:
            def taught(self, _: object) -> Likeliest:
                return found

        read = forward.rows(batch, ("logp", "kl"), teacher=Kept())
        assert read.readouts["kl"].abs().max() < 1e-5, "the model is its own teacher"
