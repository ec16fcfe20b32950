"""A scalar head read over packed rows: as in each response by itself, prompts computed once, the model as it was."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from core_models import family_model
from tiny_judged import Judged

from luthier import columns
from luthier.errors import LuthierError
from luthier.forward.likelihoods import Likelihoods
from luthier.forward.values import Reader
from luthier.models import heads
from luthier.models.heads import HeadCard, ScalarHead
from luthier.types import Encoded


def head(model: Any, kind: Any) -> ScalarHead:
    made = heads.attach(model, torch.device("cpu"), HeadCard(kind))
    torch.nn.init.normal_(made.weight, generator=torch.Generator().manual_seed(1))
    return made


def by_itself(model: Any, scalar: ScalarHead, row: Encoded) -> list[float]:
    found: list[float] = []
    for n, ids in enumerate(row.ids):
        with torch.no_grad():
            hidden_TD = model.base_model(input_ids=torch.from_numpy(ids.astype(np.int64))[None]).last_hidden_state[0]
        places = [len(ids) - 1] if scalar.card.kind == "row" else row.column("step_end")[n].tolist()
        found += scalar.read(hidden_TD[places]).tolist()
    return found


def tokens_read(model: Any) -> list[int]:
    read: list[int] = []
    embeddings = model.get_input_embeddings()
    embeddings.register_forward_hook(lambda _m, args, _out: read.append(args[0].numel()))
    return read


@pytest.mark.parametrize("kind", ["row", "step"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("at_once", [1, 3, 256])
def test_it_reads_what_each_response_by_itself_has(family: str, kind: str, at_once: int) -> None:
    model = family_model(family)
    made, store = head(model, kind), Judged(7, responses=3)
    rows = [
        *store.encoded,
        replace(
            store[0], ids=store[0].ids[:1], weights=store[0].weights[:1], columns=columns.pick(store[0].columns, [0])
        ),
    ]
    found = Reader(model, made, rows=at_once)(rows)
    assert model.training
    for row, values in zip(rows, found, strict=True):
        assert values.dtype == np.float32
        assert values.tolist() == pytest.approx(by_itself(model.eval(), made, row), abs=2e-4)


def test_a_prompt_of_several_responses_is_computed_once() -> None:
    model = family_model("llama").eval()
    rows, made = Judged(6, responses=4).encoded, head(model, "row")
    Likelihoods(model).logprobs(rows[:1])  # looks at the head
    read = tokens_read(model)
    once = sum(row.shared + sum(len(ids) - row.shared for ids in row.ids) for row in rows)
    for ask in (Reader(model, made), Likelihoods(model).logprobs):
        read.clear()
        ask(rows)
        assert once <= sum(read) < once + 32 < sum(len(row) for row in rows)


def test_dropout_that_is_off_keeps_no_prefixes_apart() -> None:
    model = family_model("gpt2")
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.1
    rows = Judged(4, responses=4).encoded
    expected = Likelihoods(model.eval()).logprobs(rows)
    read = tokens_read(model.train())
    found = Likelihoods(model).logprobs(rows)
    assert sum(read) < sum(len(row) for row in rows)
    assert all(map(np.array_equal, found, expected))


def test_steps_that_are_missing_are_named_before_anything_runs() -> None:
    model = family_model("llama")
    rows = Judged(2, responses=2).encoded
    read = tokens_read(model)
    for ends in (None, (rows[1].columns["step_end"][0], np.zeros(0, np.int32))):
        known = {} if ends is None else {"step_end": ends}
        with pytest.raises(LuthierError, match="this response has no steps"):
            Reader(model, head(model, "step"))([rows[0], replace(rows[1], columns=known)])
    assert not read
