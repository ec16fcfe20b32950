"""A model made ready to tell which rows would move it where: its LoRA, and what Adam remembers of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from luthier.errors import LuthierError
from luthier.recipe import Model, Plugin
from luthier.workflow.registries import REGISTRIES
from luthier.workflow.speaker import Speaker

if TYPE_CHECKING:
    from torch.nn import Parameter

    from luthier.forward.influence import Influences, Moments
    from luthier.models import Policy

FRESH = Plugin(name="lora")


def influences(speaker: Speaker, size: int, say: Callable[[str], None]) -> Influences:
    """Of a run the LoRA that it has trained, with Adam's memory where a checkpoint holds it; of a model a fresh LoRA,
    the same each time. Raises LuthierError for a run without one."""
    from luthier import models
    from luthier.forward.influence import Influences

    if speaker.run is None:
        policy = models.load(Model(name=speaker.name), [FRESH])
        return Influences(policy.module, policy.trainable(), {}, size)
    policy = speaker.policy
    trained = [(name, weight) for name, weight in policy.module.named_parameters() if "lora_" in name]
    if not trained:
        raise LuthierError(
            "this run trained no LoRA, whose gradients are compared",
            where=speaker.name,
            fix="warm up with `adapt: lora`, or name the base model itself",
        )
    moments = _remembered(speaker, policy, trained)
    if not moments:
        say(f"{speaker.name}: no checkpoint says what Adam remembers; each row counts as its first step")
    return Influences(policy.module, trained, moments, size)


def _remembered(speaker: Speaker, policy: Policy, trained: list[tuple[str, Parameter]]) -> dict[str, Moments]:
    """What Adam remembers of each weight, by the run's newest checkpoint; nothing of other optimisers."""
    from luthier.forward.influence import Moments
    from luthier.train.loop import checkpoint
    from luthier.train.optim.update import Update

    assert speaker.run is not None and speaker.recipe is not None
    held, train = checkpoint.latest(speaker.run), speaker.recipe.train
    if held is None:
        return {}
    kept = held.weights().keys()
    stepped = [(name, weight) for name, weight in policy.module.named_parameters() if name in kept]
    if not {name for name, _ in trained} <= {name for name, _ in stepped}:
        return {}
    spec = REGISTRIES["optimizer"].build(train.optimizer.name, train.optimizer.args)
    update = Update(stepped, spec, weight_decay=train.weight_decay, masters=train.masters is not False)
    update.load_state(held.optimizers())
    names = {id(weight): name for name, weight in zip(update.names, update.stepped, strict=True)}
    found = {}
    for optimizer in update.optimizers:
        for group in optimizer.param_groups:
            for weight in group["params"]:
                state = optimizer.state.get(weight, {})
                if "betas" in group and {"exp_avg", "exp_avg_sq", "step"} <= state.keys():
                    mean, square = state["exp_avg"].float(), state["exp_avg_sq"].float()
                    first, second = map(float, group["betas"])
                    moments = Moments(mean, square, int(state["step"]), (first, second), float(group["eps"]))
                    found[names[id(weight)]] = moments
    return found


__all__ = ["influences"]
