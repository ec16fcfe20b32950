"""Texts as vectors of an encoder (BERT and its kin), pooled as its folder says, else by the mean over its tokens.

Shape suffixes: N = texts of a batch, T = tokens, D = hidden size.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from luthier.errors import LuthierError
from luthier.models.loading.digest import must_be_whole, weights_digest
from luthier.models.loading.load import UNREADABLE
from luthier.models.loading.quiet import quiet
from luthier.models.loading.tokenizer import load_tokenizer

AT_ONCE = 32
LONGEST = 512
POOLING = "1_Pooling/config.json"
"""Where sentence-transformers writes how a text's tokens become one vector."""


def is_encoder(folder: Path) -> bool:
    """Is the model of this folder one that writes nothing? So says its configuration."""
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    named = content.get("architectures") or [] if isinstance(content, dict) else []
    return bool(named) and not any("CausalLM" in name or "LMHead" in name or "Conditional" in name for name in named)


@dataclass(frozen=True)
class Embedder:
    """A text's vector: the mean over its tokens, or the first token's where the folder says so; not scaled."""

    folder: Path

    @property
    def identity(self) -> str:
        """What the vectors hang on."""
        return f"{weights_digest(self.folder)} {self._first}"

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """The vector of each text, D; of a long one, that of its beginning."""
        order = sorted(range(len(texts)), key=lambda n: len(texts[n]))
        found: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(texts)
        for start in range(0, len(order), AT_ONCE):
            some = order[start : start + AT_ONCE]
            made = self._tokenizer(
                [texts[n] for n in some], truncation=True, max_length=self._longest, padding=True, return_tensors="pt"
            )
            asked = {name: made[name].to(self._module.device) for name in ("input_ids", "attention_mask")}
            hidden_NTD = self._module(**asked).last_hidden_state.float()
            mask_NT1 = asked["attention_mask"][..., None].float()
            vectors_ND = hidden_NTD[:, 0] if self._first else (hidden_NTD * mask_NT1).sum(1) / mask_NT1.sum(1)
            for n, vector_D in zip(some, vectors_ND.cpu().numpy(), strict=True):
                found[n] = vector_D
        return found

    @cached_property
    def _first(self) -> bool:
        """Does the first token stand for the text?"""
        path = self.folder / POOLING
        try:
            told = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except ValueError as error:
            raise LuthierError(
                "how the vectors are made cannot be read", where=str(path), fix="fetch the folder again"
            ) from error
        ways = [key for key, value in told.items() if key.startswith("pooling_mode_") and value is True]
        if ways not in ([], ["pooling_mode_mean_tokens"], ["pooling_mode_cls_token"]):
            raise LuthierError(
                f"vectors of this kind are not known: {', '.join(ways)}",
                where=str(path),
                fix="take a model that pools by the mean or by its first token",
            )
        return ways == ["pooling_mode_cls_token"]

    @cached_property
    def _longest(self) -> int:
        config = self._module.config
        most = getattr(config, "max_position_embeddings", None) or LONGEST
        most -= (getattr(config, "pad_token_id", None) or 0) + 1  # RoBERTa's kin count places from behind the padding
        return int(min(most, self._tokenizer.model_max_length))

    @cached_property
    def _tokenizer(self) -> Any:
        return load_tokenizer(self.folder)

    @cached_property
    def _module(self) -> Any:
        from transformers import AutoModel

        load: Any = AutoModel.from_pretrained
        must_be_whole(self.folder)
        try:
            with quiet():
                module = load(self.folder, local_files_only=True, use_safetensors=True)
        except UNREADABLE as error:
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise LuthierError(
                f"cannot load the model of the vectors: {said}",
                where=str(self.folder),
                fix="give the folder of an encoder, with config.json and model.safetensors, or a language model",
            ) from error
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return module.eval().requires_grad_(False).to(device)


__all__ = ["Embedder", "is_encoder"]
