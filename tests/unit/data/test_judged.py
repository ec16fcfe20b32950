"""Judged responses through template and store: scores, margins, the places of steps, content hashes, fitting."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import chat_templates as ct
import numpy as np
import pytest
from pydantic import TypeAdapter
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from luthier.data import FORMATS, Prepared, Template, prepare
from luthier.recipe import Recipe
from luthier.types import Encoded, Example

SHARED = Path(os.environ.get("LUTHIER_SHARED", Path(__file__).parents[4] / "shared"))


@pytest.fixture(autouse=True)
def cache_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))


def prepared(tmp_path: Path, rows: list[dict[str, Any]], template: str = ct.CHATML, **more: Any) -> Prepared:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe: Recipe = TypeAdapter(Recipe).validate_python({"model": "m", "data": str(path), "output": "o", **more})
    return prepare(recipe, ct.tokenizer(template))


PAIR = {"prompt": "What is 2+2?", "chosen": "It is 4.", "rejected": "It is 5, I think."}
THUMB = {"prompt": "What is 2+2?", "completion": "It is 4.", "label": True}
STEPS = {"prompt": "What is 2+2?", "completions": ["Two and two.", "It is 4.", "So 4"], "labels": [True, True, False]}


def test_judgements_survive_the_store(tmp_path: Path) -> None:
    rows = [PAIR, {**PAIR, "margin": 1.5}, {**PAIR, "chosen": "4"}]
    given = prepared(tmp_path, rows).train
    template = Template(ct.tokenizer())
    for i, row in enumerate(rows):
        direct = template.encode(FORMATS.build("preference").read(row))
        stored = given[i]
        assert [ids.tolist() for ids in stored.ids] == [ids.tolist() for ids in direct.ids]
        assert stored.scores == direct.scores == (1.0, 0.0) and stored.steps == direct.steps == ()
        assert stored.shared == direct.shared > 5
    assert given.scores.tolist() == [1.0, 0.0] * 3 and given.responses.tolist() == [2, 2, 2]
    assert len(set(given.hashes.tolist())) == 3  # a margin tells the first two apart
    assert prepared(tmp_path, rows[::-1]).train.hashes.tolist() == given.hashes.tolist()[::-1]


def test_labels_tell_equal_tokens_apart(tmp_path: Path) -> None:
    given = prepared(tmp_path, [THUMB, {**THUMB, "label": False}, {"prompt": "a", "completion": "b", "label": 0}])
    assert given.train.scores.tolist() == [1.0, 0.0, 0.0] and given.train[1].scores == (0.0,)
    assert given.ledger.duplicates == 0
    assert len(set(given.train.hashes.tolist())) == 3


def said(tokenizer: PreTrainedTokenizerFast, encoded: Encoded) -> list[str]:
    """The response cut behind each step's place."""
    ids, (places, _) = encoded.ids[0], encoded.steps[0]
    first = int(np.flatnonzero(encoded.weights[0])[0])
    edges = [first, *(places + 1).tolist()]
    return [tokenizer.decode(ids[a:b].tolist()) for a, b in zip(edges, edges[1:], strict=False)]


def steps(texts: list[str], labels: list[Any]) -> Example:
    return FORMATS.build("stepwise").read({"prompt": "What is 2+2?", "completions": texts, "labels": labels})


def test_steps_survive_the_store(tmp_path: Path) -> None:
    given = prepared(tmp_path, [{**STEPS, "labels": [0.5, 1, -1]}, {**STEPS, "completions": ["a", "b", "c"]}]).train
    places, labels = given[0].steps[0]
    assert labels.tolist() == [0.5, 1.0, -1.0] and places.dtype == np.int32
    assert [text.strip() for text in said(ct.tokenizer(), given[0])] == STEPS["completions"]
    assert given[1].steps[0][1].tolist() == [1.0, 1.0, 0.0]
    assert given.steps.tolist() == [3, 3] and given[0].scores == ()
