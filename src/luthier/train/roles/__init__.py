"""The models beside the one that trains, and what is remembered of them: resolved from an objective's `Needs`, here."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from luthier import machine
from luthier.errors import LuthierError
from luthier.forward.batches import Batch
from luthier.forward.forward import Forward, Teaches
from luthier.forward.head import Likeliest
from luthier.forward.likelihoods import each
from luthier.models import dropout, embeddings, max_context
from luthier.recipe import Recipe
from luthier.recipe.schema import Teacher
from luthier.train.loop import allocator
from luthier.train.loop.budget import Budget
from luthier.train.roles import reference, teacher
from luthier.train.roles.reference import Live, Reference
from luthier.train.roles.row_weights import RowWeights
from luthier.train.roles.teacher import Form, Kept, Once, Said
from luthier.types import Encoded, Needs, TokenStore

if TYPE_CHECKING:
    from luthier.train.optim.weights import Policy

    Opener = Callable[[], Policy]
    """Loads a frozen model when it is wanted, so that nothing holds it longer."""


@dataclass
class Roles:
    """What an objective's models say of a micro-batch."""

    reference: Reference | None = None
    live: Live | None = None
    """The reference as a model, where log-probabilities cannot all be known ahead."""
    teacher: Teaches | None = None
    row_weights: RowWeights | None = None
    longest: int = sys.maxsize
    """Tokens of a row that every role can read."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What the `start` event says of them."""
    notes: list[str] = field(default_factory=list)
    """What the screen says of them."""


@dataclass(frozen=True)
class Known:
    """The examples that will come, as far as they are known, and those of the validation."""

    examples: Sequence[Sequence[Encoded] | TokenStore]
    all_of_it: bool
    """No example will come that is not among them."""
    passes: float
    """How often the run sees each row."""


@dataclass(frozen=True)
class Setting:
    """What roles are resolved for."""

    policy: Policy
    forward: Forward
    recipe: Recipe
    budget: Budget
    known: Known
    paths: Mapping[str, Any]
    """How further models read rows, as `Forward` takes it."""
    say: Callable[[str], None]
    digests: Mapping[str, Callable[[], str]] = field(default_factory=dict)
    """Which weights further models have, by role, told without loading them."""
    said: Said | None = None
    """What a teacher said of the rows, where they bring it themselves."""


def resolve(needs: Needs, setting: Setting, openers: Mapping[str, Opener], stack: ExitStack) -> Roles:
    """Each role that the objective names, before the first step changes any weight. Models that stay are closed with
    `stack`. Raises LuthierError where a role has no model."""
    roles = Roles(longest=min(setting.recipe.train.max_tokens, _context(setting.policy.module)))
    if needs.reference:
        _refer(roles, needs, setting, openers.get("reference"), stack)
    if "teacher" in needs.roles:
        roles.teacher = _teach(roles, setting, openers, stack)
    if needs.row_weights:
        roles.row_weights = RowWeights(setting.forward, setting.budget)
        for examples in setting.known.examples:
            roles.row_weights.add(examples)
    return roles


def _refer(roles: Roles, needs: Needs, setting: Setting, opener: Opener | None, stack: ExitStack) -> None:
    """Decide where the reference's log-probabilities come from."""
    own = ExitStack()  # a model of which all is cached goes at once
    second = None
    if opener is not None:
        model = opener()
        second = _opened(model, setting, own), model
        roles.longest = min(roles.longest, _context(model.module))
    choice = reference.choose(setting.policy, setting.forward, second, repr(setting.recipe.adapt))
    cacheable = not needs.kl_baseline and setting.known.all_of_it
    if cacheable and choice.cached(setting.recipe.reference.cache, setting.known.passes):
        values = _Values(setting.budget)
        with setting.budget.group.first_goes():  # the others find its values in the cache
            examples = setting.known.examples
            roles.reference = reference.compute(choice.live, examples, choice.identity, values, setting.say)
        setting.budget.follow()
        own.close()
    else:
        roles.reference = roles.live = choice.live
        if isinstance(choice.live.off, reference.Start):
            choice.live.off.remember()
        stack.push(own)
    about = roles.reference.about
    differs = (
        [] if second else reference.unequal(setting.policy, setting.policy.module, bool(setting.recipe.train.neftune))
    )
    roles.notes.append(f"reference: {about}")
    if differs:
        roles.notes.append(f"the first loss will not be that of equal models: {'; '.join(differs)}")
    roles.facts |= {"reference": about, "first_loss_differs": differs}


def _teach(roles: Roles, setting: Setting, openers: Mapping[str, Opener], stack: ExitStack) -> Teaches:
    """The teacher: a model beside the one that trains, or what is kept of one."""
    asked, opener = setting.recipe.teacher, openers.get("teacher")
    if asked is not None and asked.top is not None:
        found = _keep(asked, asked.top, setting, opener)
        roles.notes.append(f"teacher: {found.told()}")
        roles.facts |= {"teacher": found.facts()}
        return found
    if opener is None:
        raise LuthierError("the objective learns from a teacher, and none is named", fix="name one")
    live = _opened(opener(), setting, stack)
    _comparable(setting.forward, live)
    return live


def _keep(asked: Teacher, top: int, setting: Setting, opener: Opener | None) -> Kept:
    """A teacher's likeliest tokens, from disk; the model is loaded only where they are not there yet."""
    if not setting.known.all_of_it:
        raise LuthierError(
            "`teacher.top` keeps what a teacher says of rows that are known before the first step, and these are not",
            where="teacher.top",
            fix="leave it out: the teacher then stays beside the model",
        )
    budget, said = setting.budget, setting.said
    form = Form(top, embeddings(setting.policy.module), asked.kept)
    if said is None and opener is None:
        raise LuthierError("the objective learns from a teacher, and none is named", fix="name one")

    def read(rows: Once) -> Iterator[Likeliest]:
        if said is not None:
            yield from said.read(rows, form.width)
            return
        assert opener is not None
        before = budget.tokens
        with ExitStack() as own:
            yield from teacher.thoughts(_opened(opener(), setting, own), rows, form, budget)
        allocator.give_back(budget.device)
        budget.tokens = before  # what a teacher had no room for, the model may have

    if said is not None:
        about, identity = said.about, said.identity
    else:
        about = "the teacher" if asked.model is None else asked.model.name
        identity = (setting.digests["teacher"](), *_read_as(asked, setting))
    with budget.group.first_goes():  # the others find it in the cache
        found = teacher.kept(about, form, setting.known.examples, identity, read, setting.say)
    budget.follow()
    return found


def _read_as(asked: Teacher, setting: Setting) -> tuple[str, ...]:
    """What else a teacher's numbers hang on, by their rounding: its type, and how it reads rows."""
    dtype = None if asked.model is None else asked.model.dtype
    return str(machine.best_dtype() if dtype == "auto" else dtype), repr(sorted(setting.paths.items()))


def _opened(model: Policy, setting: Setting, stack: ExitStack) -> Forward:
    """A frozen model's forward pass, never in training mode."""
    model.module.eval()
    stack.enter_context(dropout.off(dropout.of_base(model.module)))
    return stack.enter_context(Forward(model.module, **setting.paths).opened())


def _comparable(model: Forward, teacher: Forward) -> None:
    """Raises LuthierError where the two do not speak the same tokens."""
    if model.head is None or teacher.head is None:
        return  # said by `Forward.taught`
    ours, theirs = len(model.head.weight_VD), len(teacher.head.weight_VD)
    if ours != theirs:
        raise LuthierError(
            f"the teacher has {theirs:,} tokens, the model {ours:,}: they cannot be compared",
            fix="take a teacher of the same family, with the same tokenizer",
        )


def _context(module: Any) -> int:
    return max_context(module) or sys.maxsize


class _Values:
    """What a function of a micro-batch says of each example, within the memory that there is."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget

    def __call__(
        self, examples: Sequence[Encoded] | TokenStore, logp: Callable[[Batch], Tensor]
    ) -> list[NDArray[np.float32]]:
        def noted(batch: Batch) -> Tensor:
            self._budget.begins(batch)
            return logp(batch)

        budget = self._budget
        return budget.until_it_fits(lambda: list(each(examples, budget.lay_out, noted, budget.device)), alone=True)


__all__ = ["Known", "Roles", "Setting", "resolve"]
