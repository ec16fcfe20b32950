"""The gradients of one optimiser step, in as many micro-batches as memory allows.

The loss is divided by the count of the objective's unit (scored token weight, row or pair) over the whole step and
all processes, known before the first backward pass; so the split into micro-batches changes nothing but rounding.
Out of memory makes the micro-batches smaller and does the same step again, from the same random state.

Of several processes each lays the whole step out, computes its micro-batches, and learns what the others found. Where
that is so, or `train.parts` wants the same of any number of processes, noise is seeded by the place in the step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from luthier.errors import LuthierError
from luthier.forward.batches import Batch
from luthier.recipe import Recipe
from luthier.train.loop import memory, rng
from luthier.train.loop.budget import Budget
from luthier.train.loop.findings import Finding, everywhere
from luthier.train.loop.losses import Losses
from luthier.train.loop.neftune import Noise
from luthier.train.optim.update import Update
from luthier.train.telemetry.step_metrics import StepMetrics
from luthier.types import DECIDED_STEP, STEP, Encoded, Source, StepSource, TokenStore

AFTER = -1
"""The part of a step that comes after its micro-batches: what adapters draw."""
EVALUATED_AT_ONCE = 256
"""Examples of the validation rows laid out together: enough to fill micro-batches well."""


@dataclass(frozen=True)
class Gradients:
    """What one step's backward passes gave, besides the gradients themselves."""

    loss: Tensor
    """The step's normalised loss, a scalar still on the device."""
    parts: list[Tensor]
    """Each micro-batch's share of it."""
    batches: list[Batch]
    tokens: int
    """Tokens of all rows, without padding."""
    computed: int
    """Tokens that went through the model: those that rows share count once."""
    metrics: dict[str, float]
    """What the step showed of the rows' worth; {} for objectives that do not judge."""
    empty: bool = False
    """Nothing of the step's rows counts (all of its steps are labelled neutral, say): there are no gradients."""


@dataclass
class _Ahead:
    """What is known of a step: its examples, which are asked for once, and their layout for a budget."""

    step: int
    examples: Sequence[Encoded]
    tokens: int = 0
    batches: list[Batch] | None = None
    before: dict[str, Any] | None = None
    """The source's state before it was asked for them, where that was ahead of time."""


class Accumulation:
    """Computes the gradients of any step, and the evaluation loss, within a token budget that shrinks on demand."""

    def __init__(self, source: StepSource, budget: Budget, losses: Losses, update: Update, recipe: Recipe) -> None:
        self.source, self.budget, self.losses, self.update = source, budget, losses, update
        self.device, self.forward, train = budget.device, budget.forward, recipe.train
        self.batch, self.pinned, self.seed = train.batch, train.parts is not None, recipe.seed
        embedding = self.forward.causal_lm.get_input_embeddings()
        self.noise = Noise(embedding, train.neftune) if train.neftune else None
        self.group = budget.group
        self._ahead: _Ahead | None = None
        self._positions: dict[bytes, int] | None = None

    def close(self) -> None:
        """Give the model back as it was."""
        if self.noise:
            self.noise.remove()
        self.budget.close()

    # a step
    def gradients(self, step: int, version: int) -> Gradients:
        """Leave the gradients of step `step` (from 0) on the parameters; `version` steps have changed the weights.

        Raises LuthierError if a row does not fit.
        """
        if self._ahead is None or self._ahead.step != step:
            self._ahead = _Ahead(step, self.source.next(step, version))
        now, before = self._ahead, rng.capture(self.device)

        def again() -> None:
            self.update.drop_gradients()
            rng.restore(before, self.device)

        findings = self.budget.until_it_fits(lambda: self._backward(self._laid_out(now), step, version), again)
        if findings:
            self.update.add_up(self.group)
        self._seed(step, AFTER)
        batches = self._laid_out(now)
        if step + 1 < self.source.total and self.source.may_prefetch:
            # laid out while the device is still busy with this step
            state = self.source.state()
            self._ahead = _Ahead(step + 1, self.source.next(step + 1, version), before=state)
            self._laid_out(self._ahead)
        else:
            self._ahead = None
        tokens = sum(batch.whole_tokens for batch in batches)
        computed = sum(batch.tokens for batch in batches)
        parts = [finding.sums_M[0] for finding in findings]
        loss = torch.stack(parts).sum() if parts else torch.zeros((), device=self.device)
        return Gradients(loss, parts, batches, tokens, computed, self.losses.end_step(findings), empty=not parts)

    def source_state(self) -> dict[str, Any]:
        """What a checkpoint keeps of the source: a run that goes on asks again for what was asked for ahead."""
        ahead = self._ahead.before if self._ahead else None
        return self.source.state() if ahead is None else ahead

    def rehearse(self) -> None:
        """Try the heaviest micro-batch of the run and discard its gradients, so that memory runs out now or never.

        Only where too much memory raises an error (`memory.runs_out_with_an_error`); elsewhere it would be time for
        nothing. Sources that make their examples on the way do not know the heaviest.
        """
        if not memory.runs_out_with_an_error(self.device):
            return
        before = rng.capture(self.device)

        def again() -> None:
            self.update.drop_gradients()
            rng.restore(before, self.device)

        def heaviest() -> None:
            examples = self.source.heaviest(self.budget.tokens)
            if examples:
                batches = self.budget.cut(examples)[:1]
                factors = self._factors(batches, 0)
                self._begin(batches[0].examples, 0)
                if factors is not None:  # each process tries it
                    self.budget.together(lambda: self._mine(batches, [0], factors, 0))

        self.budget.until_it_fits(heaviest, again)
        again()

    def suspects(self, gradients: Gradients) -> list[Source | None]:
        """Where the examples come from whose loss alone is not finite; all of the step when no single one is."""
        finite = torch.isfinite(torch.stack(gradients.parts)).tolist()
        bad = [one for batch, fine in zip(gradients.batches, finite, strict=True) if not fine for one in batch.examples]
        with self._evaluating():
            alone = [one for one in bad if not self._sums(self.budget.step([one])[0]).sums_M.isfinite().all()]
        every = [one for batch in gradients.batches for one in batch.examples]
        return [one.source for one in (alone or bad or every)]

    def _laid_out(self, ahead: _Ahead) -> list[Batch]:
        if ahead.batches is None or ahead.tokens != self.budget.tokens:
            ahead.tokens, ahead.batches = self.budget.tokens, self.budget.cut(ahead.examples)
        return ahead.batches

    def _backward(self, batches: Sequence[Batch], step: int, version: int) -> list[Finding]:
        """What each micro-batch found, its share of the loss first, the gradients of this process's added to what is
        there; [] where nothing counts."""
        factors = self._factors(batches, version)
        if factors is None:
            self.losses.begin_step(version)
            return []
        self._begin([example for _, example in sorted(_placed(batches), key=lambda pair: pair[0])], version)
        mine = self.budget.together(lambda: self._mine(batches, self.budget.mine(batches), factors, step))
        return everywhere(self.group, batches, mine, 1, self.device)

    def _mine(
        self, batches: Sequence[Batch], places: Sequence[int], factors: Tensor, step: int
    ) -> Mapping[int, Finding]:
        """The backward passes of some of a step's micro-batches."""
        found = {}
        for place in places:
            self._seed(step, place)
            finding = self._sums(batches[place])
            loss = (finding.sums_M * factors).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            found[place] = finding.of_loss(loss)
            if self.pinned:
                self.update.hold()
        return found

    def _seed(self, step: int, part: int) -> None:
        if self.pinned or self.group.several:
            rng.seed_all(rng.derived(self.seed, step, part))

    def _begin(self, examples: Sequence[Encoded], version: int, another: Encoded | None = None) -> None:
        self.losses.begin_step(version)
        if self.losses.objective.needs.kl_baseline:
            another = another or (self._another(examples[0]) if len(examples) == 1 else None)
            self.losses.measure_kl(examples, self.budget, another)

    def _another(self, example: Encoded) -> Encoded | None:
        """The example half of all examples further on; None where not all are known."""
        every = self.source.every()
        if every is None:
            return None
        if self._positions is None:
            self._positions = {every[i].key: i for i in range(len(every))}
        return every[(self._positions[example.key] + len(every) // 2) % len(every)]

    def _sums(self, batch: Batch) -> Finding:
        """Each term's loss summed over a micro-batch, not yet normalised, and what it showed."""
        self.budget.begins(batch, whole=self.budget.whole_step)
        if self.noise:
            self.noise.lengths_of(batch)
        return self.losses.sums(batch.to(self.device))

    def _factors(self, batches: Sequence[Batch], version: int) -> Tensor | None:
        """Each term's weight over its count of units in the whole step: M. None where no unit counts.

        Raises LuthierError where rows have no weight at all.
        """
        terms = self.losses.terms
        counts = [sum(each) for each in zip(*map(self.losses.units, batches), strict=True)]
        if not any(counts):
            if not batches or all(term.needs.unit in (STEP, DECIDED_STEP) for _, term in terms):
                return None
            named = ", ".join(str(example.source) for batch in batches for example in batch.examples[:4])
            raise LuthierError("nothing of these rows trains", where=named, fix="see their turns' weights or labels")
        divisors = [term.needs.unit.divisor or found for (_, term), found in zip(terms, counts, strict=True)]
        factors = [w / found if found else 0.0 for w, found in zip(self.losses.weights(version), divisors, strict=True)]
        return torch.tensor(factors, dtype=torch.float32, device=self.device)

    # the evaluation loss
    def evaluate(self, store: TokenStore, version: int) -> tuple[float, dict[str, float]]:
        """The objective's loss over all of `store`, normalised as in training, without dropout or noise; and what it
        showed of the rows' worth."""
        with self._evaluating():
            return self.budget.until_it_fits(lambda: self._evaluate(store, version))

    def _evaluate(self, store: TokenStore, version: int) -> tuple[float, dict[str, float]]:
        weights = torch.tensor(self.losses.weights(version), dtype=torch.float64, device=self.device)
        total_M, units_M = torch.zeros_like(weights), torch.zeros_like(weights)
        # ranks depend on how many are ranked: by steps of training's size the loss is that of training, and fits
        at_once = self.batch if self.budget.whole_step else EVALUATED_AT_ONCE
        metrics = StepMetrics()
        for begin in range(0, len(store), at_once):
            chosen = range(begin, min(begin + at_once, len(store)))
            half = (len(chosen) + 1) // 2  # neighbours in a file may share a prompt: pair with what lies far off
            paired = [store[i] for both in zip_longest(chosen[:half], chosen[half:]) for i in both if i is not None]
            another = store[(begin + len(store) // 2) % len(store)] if len(paired) == 1 else None
            self._begin(paired, version, another)
            batches = self.budget.step([store[i] for i in chosen])
            mine = self.budget.together(partial(self._looked_at, batches))
            findings = everywhere(self.group, batches, mine, len(weights), self.device)
            metrics.add([finding.shown for finding in findings])
            for finding, batch in zip(findings, batches, strict=True):
                total_M += finding.sums_M.double()
                units_M += torch.tensor(self.losses.units(batch), dtype=torch.float64, device=self.device)
        for place, (_, term) in enumerate(self.losses.terms):
            if term.needs.unit.divisor:  # so many in each step, as in training
                units_M[place] = term.needs.unit.divisor * len(store) / self.batch
        return float((weights * total_M / units_M.clamp(min=1e-9)).sum()), metrics.take()

    def _looked_at(self, batches: Sequence[Batch]) -> dict[int, Finding]:
        """What this process's micro-batches show."""
        return {place: self._sums(batches[place]) for place in self.budget.mine(batches)}

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Without gradients, dropout and noise."""
        module = self.forward.module
        module.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            module.train()


def _placed(batches: Sequence[Batch]) -> list[tuple[int, Encoded]]:
    """Each example with its place in the step."""
    return [pair for batch in batches for pair in zip(batch.chosen, batch.examples, strict=True)]
