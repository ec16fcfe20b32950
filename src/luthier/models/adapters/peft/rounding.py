"""LoRA that begins as the best low-rank part of what quantising took from the weights (LoftQ, arXiv:2310.08659).

PEFT (0.21.2, `utils/loftq_utils.py`) has the same for CUDA only.

Shape suffixes: O = outputs, I = inputs, R = rank.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from luthier.errors import LuthierError
from luthier.models.quantizers import dequantised, is_quantised


@torch.no_grad()
def begin_with_error(module: Any, folder: str) -> None:
    """Set A and B of every quantised layer to the first r singular triples of W − Q(W), split evenly, over s.

    `folder` holds the weights as they were. Raises LuthierError where a layer's are not found there.
    """
    from peft.tuners.lora import LoraLayer

    weights = Originals(Path(folder))
    layers: dict[str, Any] = dict(module.get_base_model().named_modules())
    for name, layer in layers.items():
        if not isinstance(layer, LoraLayer):
            continue
        base: Any = layer.get_base_layer()
        if not is_quantised(base.weight):
            continue
        u, s, v = torch.linalg.svd(weights.of(base, name) - dequantised(base).float(), full_matrices=False)
        lora: Any = layer
        for adapter in lora.active_adapters:
            r, scale = lora.r[adapter], lora.scaling[adapter]
            root_R = (s[:r] / scale).sqrt()
            lora.lora_A[adapter].weight.copy_(root_R[:, None] * v[:r])
            lora.lora_B[adapter].weight.copy_(u[:, :r] * root_R)


class Originals:
    """A model folder's tensors by name, each read when it is asked for."""

    def __init__(self, folder: Path) -> None:
        self._places: dict[str, Path] = {}
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                self._places |= dict.fromkeys(file.keys(), path)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._places:
            raise LuthierError(f"the base's files hold no tensor {name!r}", fix="take `adapt: lora`")
        with safe_open(self._places[name], framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor

    def of(self, layer: Any, name: str) -> Tensor:
        """The weights of a linear layer in fp32, outputs by inputs, on its device; files keep GPT-2's turned round."""
        from transformers.pytorch_utils import Conv1D

        weight = self[f"{name}.weight"].to(layer.weight.device, torch.float32)
        turned = issubclass(getattr(layer, "source_cls", type(layer)), Conv1D)  # what bitsandbytes' layer stands for
        return weight.T.contiguous() if turned else weight
