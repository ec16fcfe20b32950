"""Gradual unfreezing (arXiv:1801.06146, §3.3): the blocks nearest to the output train first, lower ones join later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from luthier.errors import LuthierError
from luthier.models.adapters import Adapter
from luthier.models.adapters.kit.card import Card
from luthier.models.adapters.kit.depth import blocks, depths, discriminative
from luthier.recipe.schema import Float, Int, Why

if TYPE_CHECKING:
    from luthier.models.adapters.kit.shape import Shape
    from luthier.types import Encoded


@dataclass
class _Now:
    """Where a run stands. The trainable set is a pure function of it, so that a run resumes anywhere."""

    step: int = 0
    total: int = 1
    groups: dict[str, int] = field(default_factory=dict)
    """By parameter name: 0 trains from the start, 1 joins first, and so on."""


@dataclass(frozen=True)
class Progressive(Adapter):
    """Unfreeze the model from the top down, a group of blocks at a time; in the end everything trains.

    The final norm and an output head of its own belong to the first group, the embeddings to the last. A group that
    joins brings a fresh optimiser state, and its learning rate rises over `warmup` steps. Composes: with freeze what
    is frozen stays so, with an adapter the adapter's weights are unfrozen from the top down.
    """

    groups: Annotated[Int, Field(gt=0)] | None = None
    """Into how many groups the blocks are cut. Default: 4, or one for each block where there are fewer."""
    every: Annotated[Int, Field(gt=0)] | Annotated[Float, Field(gt=0, lt=1)] = 0.2
    """One more group joins every so many steps, or below 1 every such share of the run."""
    warmup: Annotated[Int, Field(ge=0), Why("Adam's first steps are as large as its later ones")] = 10
    """Steps in which the learning rate of a group that joins rises to the full one."""
    decay: Annotated[Float, Field(ge=1), Why("one rate for all; the paper's 2.6 is meant for four layers")] = 1.0
    """Divide the learning rate by this for every block further from the output (discriminative rates)."""

    _now: _Now = field(default_factory=_Now, init=False, repr=False, compare=False)

    card: ClassVar[Card] = Card(
        title="Progressive (gradual) unfreezing, ULMFiT",
        paper="arXiv:1801.06146",
        authors="Jeremy Howard, Sebastian Ruder",
        venue="ACL 2018",
        problem="Training all layers at once lets early, noisy gradients spoil what the lower layers know.",
        idea="Train the last layers first and let the next lower ones join one by one, each with a smaller learning "
        "rate if wished (discriminative rates).",
        formula="trains at step s: groups 0 … ⌊s / every⌋, from the top;  lr of block l−1 = lr of block l / decay",
        trains="from the last blocks to everything",
        choose="Few rows and a full fine-tune that forgets too much; early steps are cheap, for nothing below the "
        "lowest group is computed backwards.",
        avoid="Memory is short: the last stage needs as much as full fine-tuning. LoRA forgets little as it is.",
        limits="Checkpoints hold the whole model. The best `every` and `decay` differ from task to task.",
        related=("freeze", "full", "lora"),
    )
    default_lr: ClassVar[float] = 2e-5
    kind: ClassVar[Literal["base", "peft", "own"]] = "base"

    def count(self, shape: Shape) -> int | None:
        """All of them, in the end."""
        return shape.total

    def attach(self, module: Any, sample: Sequence[Encoded] = ()) -> Any:
        """Nothing is frozen before the first step: memory is planned for the last stage."""
        total = len(blocks(module))
        if self.groups is not None and self.groups > total:
            raise LuthierError(
                f"progressive: {self.groups} groups, but the model has only {total} blocks",
                where="adapt.progressive.groups",
                fix=f"give 1 to {total}",
            )
        return module

    def before_step(self, module: Any, step: int, total: int) -> bool:
        """Let the groups of this step train, the others rest."""
        now = self._now
        now.step, now.total = step, total
        if not now.groups:
            now.groups = self._grouped(module)
            self._check(max(now.groups.values(), default=0), total)
        changed = False
        for name, weight in module.named_parameters():
            if name in now.groups:
                trains = now.groups[name] <= self.stage(step, total)
                changed |= trains != weight.requires_grad
                weight.requires_grad_(trains)
        return changed

    def _check(self, last: int, total: int) -> None:
        """Raises LuthierError where the last group would never train."""
        if self.stage(total - 1, total) < last:
            raise LuthierError(
                f"progressive: a run of {total} step{'s' * (total != 1)} ends before the last of {last + 1} groups "
                f"joins (one every {self._every(total)})",
                where="adapt.progressive",
                fix="train for more steps, or lower every or groups",
            )

    def stage(self, step: int, total: int) -> int:
        """The last group that trains at a step (from 0)."""
        return step // self._every(total)

    def _every(self, total: int) -> int:
        return max(1, round(self.every * total)) if isinstance(self.every, float) else self.every

    def _grouped(self, module: Any) -> dict[str, int]:
        """What trains now, by group; groups in which nothing trains are left out of the count."""
        top = len(blocks(module))
        count = min(self.groups or 4, top)
        found = {
            name: (top - min(max(depth, 1), top)) * count // top
            for name, depth in depths(module).items()
            if module.get_parameter(name).requires_grad
        }
        order = sorted(set(found.values()))
        return {name: order.index(group) for name, group in found.items()}

    def lr_factors(self, module: Any) -> Mapping[str, float]:
        """Discriminative rates, times the rise of a group that has just joined."""
        now = self._now
        factors = discriminative(module, self.decay)
        for name, group in now.groups.items():
            since = now.step - group * self._every(now.total) + 1
            if group and 0 < since <= self.warmup:
                factors[name] = factors.get(name, 1.0) * since / (self.warmup + 1)
        return factors
