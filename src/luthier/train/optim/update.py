"""The weight update: gradient norm and clipping, fp32 masters, the optimisers' step, and all of it as plain tensors.

Masters: a bf16 weight has 8 bits of mantissa, so an update below 1/256 of the weight is lost. Each bf16 weight that
trains is therefore stepped on an fp32 copy and written back. Its gradient moves to fp32 as soon as autograd has
finished with it, so micro-batches add up in fp32 and no bf16 gradient stays in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from luthier.distributed.group import Group
from luthier.errors import LuthierError
from luthier.train.optim.optimizers import OptimizerSpec, Weight

Named = Sequence[tuple[str, Parameter]]
IN_FP64 = 1 << 26
"""So many gradients are summed over processes in fp64, in which the order of a sum hardly ever shows; more, in fp32."""
AT_ONCE = 1 << 26
"""Bytes of gradients that are summed over processes at once, where they are many."""


class Update:
    """Steps the trainable parameters of a policy."""

    def __init__(
        self,
        trainable: Named,
        spec: OptimizerSpec,
        *,
        weight_decay: float,
        masters: bool = True,
        embeddings: Collection[int] = (),
    ) -> None:
        """`embeddings` are the ids of the parameters that embed tokens or score the vocabulary."""
        self._held: list[Tensor | None] = []
        self._spec, self._weight_decay, self.masters, self._embeddings = spec, weight_decay, masters, embeddings
        self._hooks: dict[int, RemovableHandle] = {}
        self.names: list[str] = []
        self.parameters: list[Parameter] = []
        self.stepped: list[Tensor] = []
        self.optimizers: list[Optimizer] = []
        self.resting: dict[str, Parameter] = {}
        """Weights that do not train now, but have or will."""
        self.factors: Mapping[str, float] = {}
        self.train(trainable)

    def train(self, trainable: Named, resting: Named = ()) -> None:
        """From now on step these weights. Those stepped before keep their masters and the optimiser's state.

        `resting` is kept in checkpoints beside them. Raises LuthierError if nothing trains.
        """
        if not trainable:
            raise LuthierError("nothing trains: every weight is frozen", where="adapt", fix="give lora, freeze or full")
        masters = {id(p): stepped for p, stepped in zip(self.parameters, self.stepped, strict=True)}
        self.names = [name for name, _ in trainable]
        self.parameters = [parameter for _, parameter in trainable]
        self.resting = dict(resting)
        for gone in masters.keys() - {id(parameter) for parameter in self.parameters}:
            if gone in self._hooks:
                self._hooks.pop(gone).remove()
        self.stepped = [masters[id(p)] if id(p) in masters else self._stepped(p) for p in self.parameters]
        self._build()

    def rate(self, factors: Mapping[str, float]) -> None:
        """Step each weight at so much of the learning rate, by name; 1 for those not named."""
        if factors != self.factors:
            self.factors = factors
            self._build()

    def _build(self) -> None:
        """The optimisers for what trains now, with the state of the ones before."""
        before: dict[Tensor, Any] = {}
        for optimizer in self.optimizers:
            before |= optimizer.state
        hidden = [parameter.ndim == 2 and id(parameter) not in self._embeddings for parameter in self.parameters]
        factors = [self.factors.get(name, 1.0) for name in self.names]
        weights = [Weight(*each) for each in zip(self.names, self.stepped, hidden, factors, strict=True)]
        self.optimizers = self._spec.build(weights, 1.0, self._weight_decay)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                for tensor in group["params"]:
                    if tensor in before:
                        optimizer.state[tensor] = before[tensor]

    @property
    def has_masters(self) -> bool:
        """Is any weight stepped on an fp32 copy?"""
        return any(a is not b for a, b in zip(self.stepped, self.parameters, strict=True))

    @property
    def lossy(self) -> bool:
        """Is any low-precision weight stepped in place, where small updates round to nothing?"""
        return any(stepped.dtype.itemsize < 4 for stepped in self.stepped)

    def _stepped(self, parameter: Parameter) -> Tensor:
        if not self.masters or parameter.dtype.itemsize >= 4:
            return parameter
        master = Parameter(parameter.detach().float())
        register: Callable[..., RemovableHandle] = parameter.register_post_accumulate_grad_hook
        self._hooks[id(parameter)] = register(_move_gradient_to(master))
        return master

    # of several micro-batches, and processes
    def hold(self) -> None:
        """Add the gradients to sums in fp64, in which the order of the micro-batches does not show, and drop them."""
        self._held = self._held or [None] * len(self.stepped)
        for place, weight in enumerate(self.stepped):
            if weight.grad is not None:
                held = self._held[place]
                self._held[place] = weight.grad.double() if held is None else held.add_(weight.grad)
                weight.grad = None

    def add_up(self, group: Group) -> None:
        """Leave on each weight its gradient's sum over what is held and over all processes."""
        gradients = [held if held is not None else w.grad for held, w in zip(self._given(), self.stepped, strict=True)]
        if group.several:
            few = sum(weight.numel() for weight in self.stepped) <= IN_FP64 or bool(self._held)
            gradients = _added_up(gradients, self.stepped, group, torch.float64 if few else torch.float32)
        for weight, gradient in zip(self.stepped, gradients, strict=True):
            weight.grad = None if gradient is None else gradient.to(weight.dtype)
        self._held = []

    def _given(self) -> list[Tensor | None]:
        return self._held or [None] * len(self.stepped)

    def norm(self) -> Tensor:
        """The 2-norm of all gradients together, a scalar on the device."""
        return torch.nn.utils.get_total_norm([g for weight in self.stepped if (g := weight.grad) is not None])

    @torch.no_grad()
    def step(self, lr: float, norm: float, clip: float, stepped: Callable[[], None] | None = None) -> None:
        """Clip the gradients to norm `clip` (0 = never), step at rate `lr`, and drop the gradients; before that,
        `stepped` is called."""
        if clip and norm > clip:
            torch._foreach_mul_([g for weight in self.stepped if (g := weight.grad) is not None], clip / norm)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr * group["lr_factor"]
            optimizer.step()
        self.write_back()
        if stepped is not None:
            stepped()
        self.drop_gradients()

    @torch.no_grad()
    def write_back(self) -> None:
        """Round the masters into the weights the model computes with."""
        for stepped, parameter in zip(self.stepped, self.parameters, strict=True):
            if stepped is not parameter:
                parameter.copy_(stepped)

    def drop_gradients(self) -> None:
        """None instead of zeros: the next backward pass writes its gradients without reading old ones."""
        self._held = []
        for tensor in (*self.stepped, *self.parameters):
            tensor.grad = None

    def close(self) -> None:
        """Drop the gradients and leave the parameters as any others."""
        self.drop_gradients()
        for hook in self._hooks.values():
            hook.remove()

    # what a checkpoint holds
    def weights(self) -> dict[str, Tensor]:
        """What trains, by name: fp32 masters where there are any (the weights themselves are their rounding); and
        what rests."""
        return {name: tensor.detach() for name, tensor in self._kept().items()}

    def _kept(self) -> dict[str, Tensor]:
        return {**self.resting, **dict(zip(self.names, self.stepped, strict=True))}

    @torch.no_grad()
    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Put back what `weights()` gave. Raises LuthierError if other weights train now."""
        kept = self._kept()
        shapes = {name: tuple(tensor.shape) for name, tensor in kept.items()}
        if shapes != {name: tuple(tensor.shape) for name, tensor in weights.items()}:
            differ = sorted(set(shapes) ^ set(weights)) or [n for n in shapes if shapes[n] != tuple(weights[n].shape)]
            raise LuthierError(
                f"the checkpoint holds other weights than those that train now (first difference: {differ[0]})",
                fix="continue with the recipe and the model the run began with, or set another `output:`",
            )
        for name, tensor in kept.items():
            tensor.copy_(weights[name])
        self.write_back()

    def state(self) -> list[dict[Any, Any]]:
        """Each optimiser's state. Its groups are not kept: the recipe makes them."""
        return [optimizer.state_dict()["state"] for optimizer in self.optimizers]

    def load_state(self, states: list[dict[Any, Any]]) -> None:
        """Put back what `state()` gave."""
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _added_up(
    gradients: Sequence[Tensor | None], weights: Sequence[Tensor], group: Group, dtype: torch.dtype
) -> list[Tensor | None]:
    """Each gradient's sum over the processes; None where no process has one."""
    there = torch.tensor([float(each is not None) for each in gradients], dtype=dtype, device=weights[0].device)
    total: list[Tensor | None] = [None] * len(weights)
    begin = 0
    while begin < len(weights):
        end, size = begin, 0
        while end < len(weights) and (end == begin or dtype == torch.float64 or size < AT_ONCE):
            size += weights[end].numel() * dtype.itemsize
            end += 1
        flat = torch.cat(
            [
                torch.zeros(w.numel(), dtype=dtype, device=w.device) if g is None else g.reshape(-1).to(dtype)
                for g, w in zip(gradients[begin:end], weights[begin:end], strict=True)
            ]
            + ([there] if end == len(weights) else [])
        )
        group.add_up(flat)
        place = 0
        for number in range(begin, end):
            size = weights[number].numel()
            total[number] = flat[place : place + size].view(weights[number].shape)
            place += size
        if end == len(weights):
            there = flat[place:]
        begin = end
    return [each if known else None for each, known in zip(total, there.tolist(), strict=True)]


def _move_gradient_to(master: Parameter) -> Callable[[Tensor], None]:
    def move(parameter: Tensor) -> None:
        if parameter.grad is None:
            return
        if master.grad is None:
            master.grad = parameter.grad.float()
        else:
            master.grad += parameter.grad
        parameter.grad = None

    return move
