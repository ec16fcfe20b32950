"""What an adapter says it cannot do decides keys that are open, and refuses those that ask for it."""

from __future__ import annotations

import re

import pytest

from luthier.errors import LuthierError
from luthier.recipe import loads, resolve
from luthier.recipe.resolve import Resolved
from luthier.workflow.registries import REGISTRIES

WHOLE = "model: m\ndata: d.jsonl\noutput: o\n"


def resolved(more: str) -> Resolved:
    return resolve(loads(WHOLE + more), REGISTRIES)


def test_a_prefix_has_rows_of_its_own_and_no_checkpointing() -> None:
    found = resolved("adapt: prefix\n")
    train = found.recipe.train
    assert (train.layout, train.share_prefix, train.checkpointing) == ("padded", False, False)
    assert "prefix needs rows of their own" in found.reasons["train", "layout"]


def test_plain_lora_leaves_the_loop_as_it_is() -> None:
    train = resolved("adapt: lora\n").recipe.train
    assert (train.layout, train.share_prefix, train.checkpointing) == ("auto", True, "auto")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("adapt: prompt\ntrain: {layout: packed}\n", "rows of their own"),
        ("adapt: p_tuning_v2\ntrain: {checkpointing: true}\n", "gradient checkpointing"),
        ("adapt: houlsby\nexport: merged\n", "cannot be merged"),
        ("adapt: adalora\ntrain: {steps: 1}\n", "of 1 step none is left in which ranks fall"),
        ("adapt: ir_qlora\nquantize: int8\n", "only in nf4"),
    ],
)
def test_what_cannot_be_is_refused_with_its_reason(more: str, said: str) -> None:
    with pytest.raises(LuthierError, match=said) as refused:
        resolved(more)
    assert refused.value.fix and refused.value.where


@pytest.mark.parametrize(
    ("adapt", "key"),
    [
        ("{lora: {targets: '(q'}}", "targets"),
        ("{lora: {ranks: {'(q': 2}}}", "ranks.(q"),
        ("{dora: {alphas: {'(q': 2}}}", "alphas.(q"),
        ("{freeze: {pattern: '(q'}}", "pattern"),
        ("[{freeze: {only: '(q'}}, lora]", "only"),
        ("{train: '(q'}", "weights"),
        ("{sara: {targets: '(q'}}", "targets"),
    ],
)
def test_a_broken_expression_is_named_by_its_key(adapt: str, key: str) -> None:
    with pytest.raises(LuthierError, match=re.escape(f"key {key!r}: '(q' is no regular expression: missing )")) as said:
        resolved(f"adapt: {adapt}\n")
    assert said.value.where
