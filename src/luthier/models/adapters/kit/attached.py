"""The adapters of one model at work: attached in order, called around each step, saved and put back by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from luthier.models.adapters import Adapter
from luthier.models.adapters.own.own import Own

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter

    from luthier.types import Encoded


def bare(module: Any) -> Any:
    """The transformers model inside a PEFT model, or the model itself."""
    from peft import PeftModel

    return module.get_base_model() if isinstance(module, PeftModel) else module


def attach(module: Any, adapters: Sequence[Adapter], sample: Sequence[Encoded] = ()) -> Any:
    """Attach what `build` has put in order: first what chooses among the base's weights, then what adds some.

    Each adapter that adds weights sees the base's weights as the first ones left them, and those added before it
    frozen; in the end exactly what the adding adapters have marked trains. Returns the module, or what wraps it.
    """
    adding = [adapter for adapter in adapters if adapter.kind != "base"]
    for adapter in adapters:
        if adapter.kind == "base":
            module = adapter.attach(module, sample[: adapter.sample_rows])
    if not adding:
        return module
    free: list[Parameter] = [weight for weight in module.parameters() if weight.requires_grad]
    chosen: list[Parameter] = []
    for adapter in adding:
        module = adapter.attach(module, sample[: adapter.sample_rows])
        chosen += [weight for weight in module.parameters() if weight.requires_grad]
        _only(module, free)
    _only(module, chosen)
    return module


def _only(module: Any, weights: Sequence[Parameter]) -> None:
    module.requires_grad_(False)
    for weight in weights:
        weight.requires_grad_(True)


class Attached:
    """A module with its live adapters. Parameters are named as in `module.named_parameters()`."""

    def __init__(self, module: Any, adapters: Sequence[Adapter]) -> None:
        self.module, self.adapters = module, tuple(adapters)

    def _of(self, adapter: Adapter) -> Any:
        """What an adapter is handed: PEFT's its wrapper, ours the model inside."""
        return self.module if adapter.kind == "peft" else bare(self.module)

    # around each step
    @property
    def changes(self) -> bool:
        """May the set of weights that train change from step to step?"""
        return any(type(adapter).before_step is not Adapter.before_step for adapter in self.adapters)

    def before_step(self, step: int, total: int) -> bool:
        """`Adapter.before_step` of all; True if another set of weights trains now."""
        changed = [adapter.before_step(self._of(adapter), step, total) for adapter in self.adapters]
        return any(changed)

    def after_step(self, step: int, total: int) -> None:
        """`Adapter.after_step` of all."""
        for adapter in self.adapters:
            adapter.after_step(self._of(adapter), step, total)

    def penalty(self) -> Tensor | None:
        """The sum of all penalties; None if there are none."""
        found = [value for each in self.adapters if (value := each.penalty(self._of(each))) is not None]
        return sum(found[1:], found[0]) if found else None

    def lr_factors(self) -> dict[str, float]:
        """Factors on the learning rate by parameter name; of several on one weight, their product."""
        factors: dict[int, float] = {}
        for adapter in self.adapters:
            module = self._of(adapter)
            given = adapter.lr_factors(module)
            if given:
                weights = dict(module.named_parameters())
                for name, factor in given.items():
                    factors[id(weights[name])] = factors.get(id(weights[name]), 1.0) * factor
        if not factors:
            return {}
        return {name: factors[id(weight)] for name, weight in self.module.named_parameters() if id(weight) in factors}

    def memory(self) -> dict[str, Tensor]:
        """What the adapters remember from step to step besides weights, for a checkpoint."""
        return {
            f"{number}.{name}": tensor
            for number, adapter in enumerate(self.adapters)
            for name, tensor in adapter.memory(self._of(adapter)).items()
        }

    def remember(self, memory: Mapping[str, Tensor]) -> None:
        """Put back what `memory` gave."""
        for number, adapter in enumerate(self.adapters):
            own = {name.partition(".")[2]: t for name, t in memory.items() if name.startswith(f"{number}.")}
            if own:
                adapter.remember(self._of(adapter), own)

    # of kind "own"
    @property
    def own(self) -> list[tuple[int, Own]]:
        """The adapters whose weights we save ourselves, with their place in the list."""
        return [(number, adapter) for number, adapter in enumerate(self.adapters) if isinstance(adapter, Own)]

    def tensors(self) -> dict[str, Tensor]:
        """What adapters of our own save, each name behind the adapter's place in the list."""
        from peft.tuners.tuners_utils import BaseTunerLayer
        from peft.utils import AuxiliaryTrainingWrapper

        module = bare(self.module)
        peft = {
            id(weight)
            for layer in module.modules()
            if isinstance(layer, BaseTunerLayer | AuxiliaryTrainingWrapper)
            for kind in layer.adapter_layer_names
            for weight in getattr(layer, kind).parameters()
        }
        saved: dict[str, Tensor] = {}
        weights = {name: id(weight) for name, weight in module.named_parameters()}
        for number, adapter in self.own:
            for name, tensor in adapter.tensors(module).items():
                if weights.get(name) not in peft:  # those are in PEFT's own file
                    saved[f"{number}.{name}"] = tensor
        return saved

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave. Raises KeyError for a name that is not there."""
        for number, adapter in self.own:
            own = {name.partition(".")[2]: t for name, t in tensors.items() if name.startswith(f"{number}.")}
            adapter.restore(bare(self.module), own)

    @contextmanager
    def off(self) -> Iterator[None]:
        """Inside the block PEFT's adapter and ours are switched off together."""
        from peft import PeftModel

        with ExitStack() as stack:
            for _, adapter in reversed(self.own):
                stack.enter_context(adapter.off(bare(self.module)))
            if isinstance(self.module, PeftModel):
                stack.enter_context(self.module.disable_adapter())
            yield

    def merge(self) -> Any:
        """Fold all adapters into the base's weights, in place; returns the plain model."""
        from peft import PeftModel

        from luthier.models.folding import fold_

        module = self.module
        if isinstance(module, PeftModel):
            module = fold_(module)
        for _, adapter in reversed(self.own):
            adapter.merge(module)
        return module
