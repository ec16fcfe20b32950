"""The scalar head of a reward model: one number from a hidden state of any causal language model.

The head is a linear map without a bias in fp32, beside the model and not inside it: r = w . h, where h is the trunk's
last hidden state (after its final norm) at the last token of a response (an outcome reward model) or of each of its
steps (a process reward model, arXiv:2305.20050). There is no shift: the reading at a token is that token's own.
It begins at zero, so that every reward does, and a Bradley-Terry loss (arXiv:2203.02155) at exactly log 2.

Shape suffixes: D = hidden size, K = readings.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from luthier.errors import LuthierError

WEIGHTS = "head.safetensors"
CARD = "head.json"


@dataclass(frozen=True)
class HeadCard:
    """How a head is read: written beside its weights, so that a scorer reads it as training did."""

    kind: Literal["row", "step"] = "row"
    """At the last token of each response, or of each of its steps."""
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


def write(head: ScalarHead, folder: Path) -> None:
    """Write the head and how it is read beside an adapter or a whole model."""
    save_file({"weight": head.weight.detach().contiguous().cpu()}, folder / WEIGHTS)
    (folder / CARD).write_text(json.dumps(asdict(head.card), indent=2) + "\n", encoding="utf-8")


def read(folder: Path, module: Any, device: torch.device) -> ScalarHead | None:
    """The head that lies beside an adapter or a whole model; None where there is none.

    Raises LuthierError when its files are damaged or do not fit the model.
    """
    if not (folder / WEIGHTS).is_file():
        return None
    try:
        card = HeadCard(**json.loads((folder / CARD).read_text(encoding="utf-8")))
        weight_1D = load_file(folder / WEIGHTS)["weight"]
        head = attach(module, device, card)
        head.load_state_dict({"weight": weight_1D})
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise LuthierError(
            f"the reward model's head cannot be read: {str(error).strip().splitlines()[-1].strip()}",
            where=str(folder),
            fix="train the reward model again",
        ) from error
    return head
