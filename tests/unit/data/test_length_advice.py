"""What is advised about rows that are too long never goes beyond what the model can read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import chat_templates as ct
import pytest
from pydantic import TypeAdapter

from luthier.data import Template, prepare
from luthier.errors import LuthierError
from luthier.recipe import Recipe

ROW = {"prompt": "What is it?", "completion": "It is. " * 40}
SHORT = {"prompt": "So?", "completion": "Yes."}


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{json.dumps(SHORT)}\n{json.dumps(ROW)}\n")

    def made(**train: Any) -> Recipe:
        content = {"model": "m", "data": str(path), "output": "o", "train": train}
        return TypeAdapter(Recipe).validate_python(content)

    return made


def length(recipe: Any) -> int:
    """Tokens of the long row."""
    return int(prepare(recipe(max_tokens=4096), Template(ct.tokenizer(ct.CHATML))).train.lengths.max())


@pytest.mark.parametrize(
    ("beyond", "advice"),
    [(None, "raise train.max_tokens"), (0, "raise train.max_tokens"), (-1, "at most"), (-10_000, "raise")],
)
def test_an_error_never_advises_more_than_the_models_context(recipe, beyond, advice):
    long = length(recipe)
    room = None if beyond is None else long + beyond
    with pytest.raises(LuthierError, match="rows are longer than") as error:
        prepare(recipe(max_tokens=64), Template(ct.tokenizer(ct.CHATML)), context=room)
    fix = error.value.fix or ""
    assert fix.startswith(advice if beyond != -1 else f"raise train.max_tokens, to {room} at most")
    assert "or set train.long_rows to truncate" in fix


def test_rows_longer_than_the_models_context_are_to_be_shortened(recipe):
    with pytest.raises(LuthierError, match="rows are longer than") as error:
        prepare(recipe(max_tokens=64), Template(ct.tokenizer(ct.CHATML)), context=64)
    assert (error.value.fix or "").startswith("shorten them, for the model's context is 64 tokens")


@pytest.mark.parametrize("how", ["drop", "truncate"])
def test_the_ledger_does_not_either_also_from_the_cache(recipe, how):
    asked = recipe(max_tokens=32, long_rows=how, max_lost=1.0)
    for room, advice in ((None, "raise train.max_tokens"), (32, "shorten them"), (40, "raise train.max_tokens, to 40")):
        for _ in range(2):
            ledger = prepare(asked, Template(ct.tokenizer(ct.CHATML)), context=room).ledger
            ((_, lost),) = ledger.main_reasons()
            assert (lost.fix or "").startswith(advice)
