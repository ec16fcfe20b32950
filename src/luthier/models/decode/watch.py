"""What of a module may have changed since it was last looked at, told in little time."""

from __future__ import annotations

from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn


class Watch:
    """A module as it was: its parts, their hooks, the places of their tensors and the adapters switched on."""

    def __init__(self, module: nn.Module) -> None:
        parts = list(module.modules())
        self._parts = [(part, part._forward_hooks, part._forward_pre_hooks, _shape(part)) for part in parts]
        self._tensors = [
            (part._parameters, name, _place(tensor))
            for part in parts
            for name, tensor in part._parameters.items()
            if tensor is not None
        ]
        kinds: list[dict[str, Any]] = [kind for part in parts for kind in (part._parameters, part._buffers)]
        self._held = [(kind, name) for kind in kinds for name, tensor in kind.items() if tensor is not None]
        self._memory = [kind[name].data_ptr() for kind, name in self._held]
        tuners: list[Any] = [part for part in parts if isinstance(part, BaseTunerLayer)]
        self._tuners = [(part, _switches(part)) for part in tuners]

    def same_parts(self) -> bool:
        """Is it made of the same parts, with as many hooks?"""
        return all(
            (len(hooks), len(pre), "forward" in part.__dict__, *part._modules.values()) == shape
            for part, hooks, pre, shape in self._parts
        )

    def same_tensors(self) -> bool:
        """Do its tensors lie where they lay, written by nobody that torch knows of, under the same adapters?

        Optimisers that write the numbers behind torch's back are not seen; the numbers are read in place.
        """
        return self.same_places() and self._same_switches()

    def same_places(self) -> bool:
        """The same, whatever adapters are on."""
        return all(_place(held.get(name)) == place for held, name, place in self._tensors)

    def same_memory(self) -> bool:
        """Do its tensors lie where they lay, whatever was written there? What was recorded over them still holds."""
        try:  # asked before each step that was recorded, so with nothing in the way
            return [kind[name].data_ptr() for kind, name in self._held] == self._memory
        except (KeyError, AttributeError):  # one is gone, or None by now
            return False

    def same_recording(self) -> bool:
        """The same parts, memory and adapters."""
        return self.same_parts() and self.same_memory() and self._same_switches()

    def same(self) -> bool:
        """Both the parts and the tensors."""
        return self.same_parts() and self.same_tensors()

    def _same_switches(self) -> bool:
        return all(_switches(part) == switches for part, switches in self._tuners)


def _shape(part: nn.Module) -> tuple[Any, ...]:
    hooks = len(part._forward_hooks), len(part._forward_pre_hooks)
    return *hooks, "forward" in part.__dict__, *part._modules.values()


def _place(tensor: Any) -> tuple[int, int, bool] | None:
    return None if tensor is None else (tensor.data_ptr(), tensor._version, tensor.requires_grad)


def _switches(part: Any) -> tuple[Any, ...]:
    return part.disable_adapters, part.merged, part.active_adapters[:], dict(getattr(part, "scaling", {}))
