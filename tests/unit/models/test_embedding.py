"""Vectors of an encoder: against transformers' own, pooled as the folder says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import tiny_tokenizers
import torch
from tokenizers import pre_tokenizers
from transformers import BertConfig, BertModel

from luthier.data.selecting.embedding import OfTexts, embedding
from luthier.data.steps import Tools
from luthier.errors import LuthierError
from luthier.models.embedding import POOLING, Embedder, is_encoder
from luthier.types import Example, Turn

TEXTS = ["w3 w4", "w5", "w3 w4 w5 w6 w7 w8", "w9 " * 40]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=16,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=24,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(tmp_path / "encoder")
    tokenizer = tiny_tokenizers.words(16)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


def hidden(folder: Path, text: str) -> torch.Tensor:
    module = BertModel.from_pretrained(folder).eval()
    ids = torch.tensor([[int(word[1:]) for word in text.split()][:23]])
    with torch.no_grad():
        return module(ids).last_hidden_state[0]


def test_the_mean_of_its_tokens(folder: Path):
    for text, vector in zip(TEXTS, Embedder(folder)(TEXTS), strict=True):
        assert np.allclose(vector, hidden(folder, text).mean(0), atol=1e-5)


def test_the_first_token_where_the_folder_says_so(folder: Path):
    plain = Embedder(folder).identity
    (folder / POOLING).parent.mkdir()
    (folder / POOLING).write_text(json.dumps({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}))
    (vector,) = Embedder(folder)(TEXTS[:1])
    assert np.allclose(vector, hidden(folder, TEXTS[0])[0], atol=1e-5) and Embedder(folder).identity != plain
    (folder / POOLING).write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(LuthierError, match="vectors of this kind are not known: pooling_mode_max_tokens"):
        Embedder(folder)(TEXTS)


def test_what_an_encoder_is(folder: Path, tmp_path: Path):
    tiny.folder(tmp_path / "speaks")
    assert is_encoder(folder) and not is_encoder(tmp_path / "speaks") and not is_encoder(tmp_path / "absent")
    made = embedding(Tools(encoders=lambda name: Embedder(Path(name))), str(folder))
    assert isinstance(made, OfTexts) and made.identity == Embedder(folder).identity
    one, none = made([Example((Turn("user", "w3 w4"),)), Example((Turn("user", " "),))])
    assert none is None and one is not None and np.allclose(one, hidden(folder, "w3 w4").mean(0), atol=1e-5)
