"""Scalar heads: one number from a hidden state of any causal language model; a reward model's, a critic's.

A head is a linear map without a bias in fp32, beside the model and not inside it: r = w . h, where h is the backbone's
last hidden state (after its final norm) where each scored token is predicted (a critic: the worth of what precedes the
token), or at the last token of a response (an outcome reward model) or of each of its steps (a process reward model,
arXiv:2305.20050), whose reading is that token's own. It begins at zero, so that every reward does, and a Bradley-Terry
loss (arXiv:2203.02155) at exactly log 2; on a model that brings a head of the same kind along (an earlier reward run, a
checkpoint for sequence classification) it goes on from that.

Shape suffixes: D = hidden size, K = readings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from luthier.errors import LuthierError
from luthier.types import Reads

REWARD = "reward"
"""The role of a reward model's head; others are named by what reads them ("value")."""
WEIGHTS = "head.safetensors"
CARD = "head.json"
"""Of the reward head; another one's name has its role in it."""
SCORE = "score.weight"
"""The head of transformers' models for sequence classification, among the model's own weights."""


@dataclass(frozen=True)
class HeadCard:
    """How a head is read: written beside its weights, so that a scorer reads it as training did."""

    kind: Reads = "row"
    """At every token, at the last one of each response, or of each of its steps."""
    objective: str = "reward"
    """What the head was trained with."""
    separator: str = "\n"
    """What divided the steps of the responses it learnt from: an answer is cut into steps there."""


class ScalarHead(nn.Linear):
    """Hidden states to rewards, fp32: (..., D) -> (...)."""

    def __init__(self, hidden: int, card: HeadCard | None = None, device: torch.device | str | None = None) -> None:
        super().__init__(hidden, 1, bias=False, device=device, dtype=torch.float32)
        self.card = card or HeadCard()
        nn.init.zeros_(self.weight)

    def read(self, hidden_KD: Tensor) -> Tensor:
        """The reward of each hidden state: (K, D) of any type -> K, fp32."""
        return nn.functional.linear(hidden_KD.float(), self.weight)[..., 0]

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, kind={self.card.kind}"


def parameter(role: str) -> str:
    """What a head's weight is called among those that train."""
    return "head.weight" if role == REWARD else f"head.{role}.weight"


def attach(module: Any, device: torch.device, card: HeadCard | None = None) -> ScalarHead:
    """An untrained head that fits a causal language model. Raises LuthierError where the hidden size is not known."""
    size = getattr(module.config.get_text_config(), "hidden_size", None)
    if not isinstance(size, int):
        raise LuthierError(
            f"a scalar head does not fit this model: {type(module).__name__} does not say its hidden size",
            where="objective",
            fix="take another model for the reward model",
        )
    return ScalarHead(size, card, device)


@dataclass(frozen=True)
class FoundHead:
    """A head that a model to train on brings along: a reward model of ours, or a checkpoint for classification."""

    weight_KD: Tensor
    kind: Reads
    whose: str
    """In a message: which head it is."""

    def why_not(self, card: HeadCard, hidden: int) -> str | None:
        """Why training cannot go on with it where it is to be read as `card` says; None where it can."""
        if tuple(self.weight_KD.shape) != (1, hidden):
            return f"it gives {len(self.weight_KD)} numbers, not one"
        reads = {"row": "whole responses", "step": "single steps", "token": "every token"}
        return None if self.kind == card.kind else f"it reads {reads[self.kind]}, not {reads[card.kind]}"


def found_head(folder: Path) -> FoundHead | None:
    """The head in a model's folder, None where there is none. Raises LuthierError when its files are damaged."""
    try:
        if (folder / WEIGHTS).is_file():
            card = HeadCard(**json.loads((folder / CARD).read_text(encoding="utf-8")))
            weight_KD = load_file(folder / WEIGHTS)["weight"]
            return FoundHead(weight_KD, card.kind, f"the scalar head that objective {card.objective} trained")
        return _of_classifier(folder)
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise _unreadable(folder, error) from error


def _of_classifier(folder: Path) -> FoundHead | None:
    """`score`, as transformers calls the head of its models for sequence classification: read at the last token."""
    config = folder / "config.json"
    named = json.loads(config.read_text(encoding="utf-8")).get("architectures") if config.is_file() else None
    if not any("ForSequenceClassification" in name for name in named or ()):
        return None
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            if SCORE in file.keys():  # noqa: SIM118  no mapping
                return FoundHead(file.get_tensor(SCORE).float(), "row", "the `score` head of a classifier")
    return None


def is_classifier(folder: Path) -> bool:
    """Is it a checkpoint for sequence classification?"""
    return _of_classifier(folder) is not None


def must_speak(folder: Path, module: Any) -> None:
    """Raises LuthierError for a checkpoint for sequence classification that has no output head of its own."""
    if not module.config.tie_word_embeddings and _of_classifier(folder) is not None:
        raise LuthierError(
            "this checkpoint is a classifier without an output head: it judges texts and writes none",
            where=str(folder),
            fix="train it further with `objective: reward`, or take a language model",
        )


def begin(folder: Path, module: Any, device: torch.device, card: HeadCard | None = None) -> ScalarHead:
    """The head as training begins: the one that the model's folder brings where it is read alike, else zeros."""
    head, old = attach(module, device, card), found_head(folder)
    if old is not None and old.why_not(head.card, head.in_features) is None:
        head.load_state_dict({"weight": old.weight_KD})
    return head


def anew(folder: Path, module: Any, device: torch.device, card: HeadCard | None = None) -> ScalarHead:
    """A head that begins at zero, whatever the model's folder brings."""
    return attach(module, device, card)


def describe(folder: Path, head: ScalarHead | None) -> str | None:
    """What becomes of a head that the model brings along, in a sentence; None where it brings none."""
    old = found_head(folder)
    if old is None:
        return None
    if head is None:
        return f"{old.whose} is left out: this objective reads none"
    why = old.why_not(head.card, head.in_features)
    return f"training goes on with {old.whose}" if why is None else f"a new head begins at zero; {old.whose}: {why}"


def files(role: str) -> tuple[str, str]:
    """The names of the files of a head: its weights, and how it is read."""
    return (WEIGHTS, CARD) if role == REWARD else (f"head-{role}.safetensors", f"head-{role}.json")


def write(heads: Mapping[str, ScalarHead], folder: Path) -> None:
    """Write heads by role, and how each is read, beside an adapter or a whole model."""
    for role, head in heads.items():
        weights, card = files(role)
        save_file({"weight": head.weight.detach().contiguous().cpu()}, folder / weights)
        (folder / card).write_text(json.dumps(asdict(head.card), indent=2) + "\n", encoding="utf-8")


def read(folder: Path, module: Any, device: torch.device) -> dict[str, ScalarHead]:
    """The heads that lie beside an adapter or a whole model, by role.

    Raises LuthierError when their files are damaged or do not fit the model.
    """
    roles = [REWARD] if (folder / WEIGHTS).is_file() else []
    roles += sorted(path.stem.removeprefix("head-") for path in folder.glob("head-*.safetensors"))
    return {role: _read(folder, role, module, device) for role in roles}


def _read(folder: Path, role: str, module: Any, device: torch.device) -> ScalarHead:
    weights, card_name = files(role)
    try:
        card = HeadCard(**json.loads((folder / card_name).read_text(encoding="utf-8")))
        weight_1D = load_file(folder / weights)["weight"]
        head = attach(module, device, card)
        head.load_state_dict({"weight": weight_1D})
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise _unreadable(folder, error) from error
    return head


def _unreadable(folder: Path, error: Exception) -> LuthierError:
    return LuthierError(
        f"the reward model's head cannot be read: {str(error).strip().splitlines()[-1].strip()}",
        where=str(folder),
        fix="train the reward model again",
    )
