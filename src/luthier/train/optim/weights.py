"""The weights that train: which ones now, stepped once a step with what the adapters do around it, and kept whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import Parameter

from luthier.errors import LuthierError
from luthier.models import heads
from luthier.models.adapters import Adapter
from luthier.models.adapters.kit.attached import Attached
from luthier.models.heads import ScalarHead
from luthier.objectives.base import MODEL
from luthier.recipe.schema import Train
from luthier.train import OPTIMIZERS
from luthier.train.loop import memory
from luthier.train.optim.update import Update
from luthier.train.roles import reference

MEMORY = "memory: "
"""Before the names of what adapters remember, in a checkpoint's weights."""


class Policy(reference.Model, Protocol):
    """What the loop asks of a model; `luthier.models.Policy` is one."""

    module: Any
    device: torch.device
    adapters: list[Adapter]
    heads: dict[str, ScalarHead]

    def trainable(self) -> list[tuple[str, Parameter]]: ...
    def parameter_counts(self) -> tuple[int, int]: ...


class Weights:
    """A policy's weights and its adapters, from step to step of a run of `total` steps."""

    def __init__(
        self, policy: Policy, train: Train, total: int, rates: Callable[[int], Mapping[str, float]] = lambda _: {}
    ) -> None:
        """`rates`: what the objective asks for at a step (`Objective.rates`). Raises LuthierError where nothing trains,
        or would in fp16."""
        self.policy, self.total = policy, total
        self.attached = Attached(policy.module, policy.adapters)
        self.update = _update(policy, train)
        self._rates = rates

    def before_step(self, step: int) -> None:
        """Let other weights train, at other rates, where an adapter says so."""
        if self.attached.before_step(step, self.total) or (self.attached.changes and not self.update.resting):
            trainable = self.policy.trainable()
            names = {name for name, _ in trainable}
            resting = [(name, weight) for name, weight in self.policy.module.named_parameters() if name not in names]
            self.update.train(trainable, resting if self.attached.changes else ())
        self.update.rate(self._factors(step))

    def _factors(self, step: int) -> dict[str, float]:
        """What the adapters ask for, and the objective, by the names of weights."""
        factors, rates = dict(self.attached.lr_factors()), dict(self._rates(step))
        own = {heads.parameter(role): role for role in self.policy.heads}
        for name in self.update.names if rates else ():
            asked = rates.get(own.get(name, MODEL), 1.0)
            if asked != 1.0:
                factors[name] = asked * factors.get(name, 1.0)
        return factors

    def penalty(self) -> Tensor | None:
        """The adapters' own loss, its gradient added to the step's; None where they have none."""
        penalty = self.attached.penalty()
        if penalty is None:
            return None
        penalty.backward()  # type: ignore[no-untyped-call]
        return penalty.detach().float()

    def step(self, step: int, lr: float, norm: float, clip: float) -> None:
        """Step `step` (from 0) at rate `lr`, its gradients of norm `norm` clipped to `clip` and then dropped.

        Raises LuthierError where there is no memory for the optimiser's state.
        """
        try:
            self.update.step(lr, norm, clip, lambda: self.attached.after_step(step, self.total))
        except (RuntimeError, MemoryError) as error:
            if not memory.ran_out(error):
                raise
            raise LuthierError(
                "not enough memory for the optimiser's state",
                where="train.optimizer",
                fix="use adafactor (or adamw_8bit, adamw_paged on CUDA), lora, or a smaller model",
            ) from error

    # what a checkpoint holds
    def content(self) -> dict[str, Tensor]:
        """The weights, and what the adapters remember beside them."""
        remembered = {MEMORY + name: tensor for name, tensor in self.attached.memory().items()}
        return {**self.update.weights(), **remembered}

    def put_back(self, content: Mapping[str, Tensor]) -> None:
        """What `content` gave. Raises LuthierError if other weights train now."""
        remembered = {name.removeprefix(MEMORY): t for name, t in content.items() if name.startswith(MEMORY)}
        self.attached.remember(remembered)
        self.update.load_weights({name: t for name, t in content.items() if not name.startswith(MEMORY)})


def _update(policy: Policy, train: Train) -> Update:
    module = policy.module
    if any(parameter.dtype == torch.float16 for parameter in module.parameters()):
        raise LuthierError(
            "training in fp16 would need loss scaling, which is not there",
            where="model.dtype",
            fix="use bf16 (as wide as fp32 in range) or fp32",
        )
    ends: Sequence[Any] = (module.get_input_embeddings(), module.get_output_embeddings())
    embeddings = {id(weight) for end in ends if end is not None for weight in end.parameters()}
    return Update(
        policy.trainable(),
        OPTIMIZERS.build(train.optimizer.name, train.optimizer.args),
        weight_decay=train.weight_decay,
        masters=train.masters is not False,
        embeddings=embeddings,
    )
