"""A tokenizer with more tokens than the model has embeddings for: named before anything trains or is asked."""

from __future__ import annotations

from pathlib import Path

import chat_templates as ct
import pytest
from test_template import Q1, chat

from luthier.data import Template
from luthier.data.preparation import prepare
from luthier.errors import LuthierError
from luthier.recipe import Model, Recipe, Source, Train
from luthier.types import Turn


def test_a_token_without_an_embedding_is_named_with_its_row() -> None:
    tokenizer = ct.tokenizer(ct.CHATML)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    with pytest.raises(LuthierError, match=rf"(?s)rows.jsonl:7: .*'<\|im_end\|>' \({end}\).*resize_token_embeddings"):
        Template(tokenizer, end).encode(chat(Q1, "It is 4."))
    with pytest.raises(LuthierError, match=rf"(?s)'<\|im_end\|>' \({end}\).*resize"):
        Template(tokenizer, end).prompt_ids([Turn("user", Q1)])


def test_tokens_that_no_text_holds_do_no_harm() -> None:
    tokenizer = ct.tokenizer(ct.CHATML)
    for rows in (None, len(tokenizer), len(tokenizer) + 64, tokenizer.convert_tokens_to_ids("<|im_end|>") + 1):
        template = Template(tokenizer, rows)
        assert template.encode(chat(Q1, "It is 4.")).weights[0].any()
        assert template.prompt_ids([Turn("user", Q1)])


def test_a_cache_that_another_model_filled_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n')
    recipe = Recipe(model=Model(name="m"), data=(Source(path=str(path)),), train=Train(max_tokens=100), output="run")
    tokenizer = ct.tokenizer(ct.CHATML)
    assert len(prepare(recipe, Template(tokenizer)).train) == 1
    with pytest.raises(LuthierError, match=r"rows.jsonl:1: .*embeddings for 300 tokens"):
        prepare(recipe, Template(tokenizer, 300))
