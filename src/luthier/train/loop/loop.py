"""The training loop: one for every objective, every adapter and every device.

Each step takes its examples from a fixed order, adds up the gradients of its micro-batches, steps the weights once
and says so. What a killed run has not yet written to a checkpoint happens again, exactly: order, random states,
optimiser, guards and the event log all continue from the newest whole checkpoint.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from luthier.distributed.placement import agree
from luthier.errors import LuthierError, Told
from luthier.recipe import Recipe, digest
from luthier.train import SCHEDULES
from luthier.train.loop import allocator, checkpoint, memory, rng
from luthier.train.loop.accumulation import Accumulation, Gradients
from luthier.train.loop.budget import Budget
from luthier.train.loop.guards import Guards, finite, not_finite
from luthier.train.loop.losses import Losses
from luthier.train.loop.progress import FitResult, Progress
from luthier.train.optim.schedule import due_after, warmup_steps
from luthier.train.optim.weights import Policy, Weights
from luthier.train.rollouts.source import Rollouts
from luthier.train.telemetry.log import Log
from luthier.types import TOKEN, StepSource, TokenStore

EMPTY = (
    "nothing of this step's rows counts for the objective (all of their steps are neutral, or no answer is better than "
    "another): no weight moves"
)


@dataclass(frozen=True)
class Parts:
    """What a loop is made of."""

    weights: Weights
    budget: Budget
    losses: Losses


class Loop:
    """One run of `fitting.fit`."""

    def __init__(
        self,
        policy: Policy,
        source: StepSource,
        validation: TokenStore | None,
        recipe: Recipe,
        log: Log,
        parts: Parts,
    ) -> None:
        self.policy, self.source, self.validation = policy, source, validation
        self.recipe, self.train, self.device, self.log = recipe, recipe.train, policy.device, log
        self.weights, self.budget, self.losses = parts.weights, parts.budget, parts.losses
        self.total = source.total
        self.schedule = SCHEDULES.build(self.train.schedule.name, self.train.schedule.args)
        self.warmup = warmup_steps(self.train.warmup, self.total)
        self.accumulation = Accumulation(source, self.budget, self.losses, self.weights.update, recipe)
        self.group = self.budget.group
        self.budget.on_shrink = self._out_of_memory
        needs = self.losses.objective.needs
        # a loss on what the model writes itself lies near zero whatever is learnt
        self.guards = Guards(
            0 if needs.rollouts else self.train.stall_window, per_token=needs.unit == TOKEN and not needs.rollouts
        )
        self.save_at = due_after(self.train.save_every, self.total)
        self.rollouts = source if isinstance(source, Rollouts) else None
        looked_at = self.validation is not None or (self.rollouts is not None and self.rollouts.holds_out)
        self.evaluate_at = due_after(recipe.validate.every, self.total) if looked_at else frozenset()
        tokens, checkpointing = self.budget.tokens, self.budget.checkpointing
        self.progress = Progress(digest(recipe), source.identity, tokens, checkpointing, policy.digest)
        self.resumed_from: int | None = None

    # begin, or continue
    def begin(self) -> None:
        """Start from the beginning or from the newest whole checkpoint."""
        self.log.open_trackers(self.recipe)
        rng.seed_all(self.recipe.seed)
        allocation = allocator.keep_freed_memory() if self.device.type == "cpu" else "allocator: the device's own"
        for note in self.losses.roles.notes:
            self.log.screen.say(note)
        self.log.screen.say(f"path: {self.budget.forward.path}")
        if self.group.several:
            count = torch.get_num_threads()
            self.log.screen.say(f"processes: {self.group.world}, each with {count} thread{'s' * (count > 1)}")
        found = self._found()
        if found:
            self._continue(found)
        else:
            self.log.begin_at(0)
            self.log.event("start", **self._facts(allocation))
            self.accumulation.rehearse()
        if self.weights.update.lossy:
            self.log.screen.warn(
                "weights are stepped in low precision without fp32 masters: small updates round to nothing"
            )

    def _found(self) -> checkpoint.Checkpoint | None:
        """The newest whole checkpoint, which the first process looks for and all go on from."""
        run, found = self.log.run, None
        if self.group.first:
            checkpoint.remove_leftovers(run)
            found = checkpoint.latest(run, self.log.screen.warn)
            checkpoint.discard_after(run, found.step if found else -1)
        step = self.group.share(None if found is None else found.step)
        if found is None and step is not None:
            found = checkpoint.latest(run)
            if found is None or found.step != step:
                raise LuthierError(
                    f"the checkpoint of step {step} is not to be seen from here",
                    where=str(run.folder),
                    fix="name an `output:` on a disk that all processes see",
                )
        return found

    def _continue(self, found: checkpoint.Checkpoint) -> None:
        state = found.state()
        before = Progress(**state["progress"])
        kinds = (("recipe", "another recipe"), ("data", "other data"), ("base", "other weights of the base model"))
        for key, what in kinds:
            if getattr(before, key) not in (None, getattr(self.progress, key)):
                raise LuthierError(
                    f"this run folder holds a run of {what}, {before.step} steps far",
                    where=str(self.log.run.folder),
                    fix="go back to what the run began with, set another `output:`, or remove the folder",
                )
        before.base = self.progress.base
        self.progress, self.resumed_from = before, before.step
        self.budget.restore(before.micro_tokens, before.checkpointing)
        self.source.load_state(before.source)
        self.weights.before_step(before.step - 1)
        self.weights.put_back(found.weights())
        self.weights.update.load_state(found.optimizers())
        self.guards.load_state(before.guards)
        self.losses.load_state(before.objective)
        rng.restore(found.rng(), self.device)
        self.log.begin_at(state["events_bytes"])
        self.log.screen.continue_at(before.step)
        self.log.screen.say(f"continuing after step {before.step} of {self.total} ({found.folder.name})")

    # the steps
    def run(self) -> None:
        """All steps that are still to do."""
        progress, began = self.progress, time.perf_counter()
        before = progress.seconds
        while progress.step < self.total and not progress.stopped:
            self._step()
            improved = self._evaluate() if progress.step in self.evaluate_at else False
            progress.seconds = before + time.perf_counter() - began
            if progress.step in self.save_at or improved or progress.stopped:
                self._save()
        progress.seconds = before + time.perf_counter() - began

    def _step(self) -> None:
        began, progress = time.perf_counter(), self.progress
        lr = self.lr(progress.step)
        self.weights.before_step(progress.step)
        gradients = self.accumulation.gradients(progress.step, progress.step)
        penalty = self.weights.penalty()
        norm = self.weights.update.norm()
        # the one place in a step where the host waits for the device
        loss, size, *added = torch.stack(
            [gradients.loss.float(), norm.float(), *([] if penalty is None else [penalty])]
        ).tolist()
        if not finite(loss, size):
            raise self._not_finite(gradients, loss, lr)
        # answers that are all worth the same say nothing: neither decay nor momentum is to speak in their place
        unmoved = gradients.empty or (self.rollouts is not None and size == 0.0)
        if gradients.empty:
            self.log.warn("empty", progress.step + 1, EMPTY)
        if not unmoved:
            self.weights.step(progress.step, lr, size, self.train.clip)
        seen = {**gradients.metrics, **({"penalty": added[0]} if added else {})}
        seconds = time.perf_counter() - began
        if self.rollouts is not None:
            seconds -= self.rollouts.spent
            seen["training_seconds"] = round(seconds, 3)
            seen["unmoved"] = float(unmoved)
            seen["unpaid"] = float(self.rollouts.unpaid and not unmoved)
        progress.stepped(loss, gradients.tokens, gradients.computed, seen, seconds)
        if progress.step % self.train.log_every == 0 or progress.step == self.total:
            epoch = round(self.source.epoch(progress.step - 1), 6)
            fields = {"lr": lr, "grad_norm": size, "memory": memory.used(self.device)}
            self.log.event("step", step=progress.step, epoch=epoch, **progress.take_since(), **fields)
        for guard, text in self.guards.observe(loss, gradients.metrics):
            self.log.warn(guard, progress.step, text)
        if self.rollouts is not None:
            self.rollouts.observe(progress.step, gradients.metrics)
            progress.stopped = self.rollouts.learnt

    def _evaluate(self) -> bool:
        """Record the evaluation loss; True if it is the best so far and its weights should be kept."""
        progress, validate = self.progress, self.recipe.validate
        if self.rollouts is not None:
            loss, metrics = self.rollouts.evaluate(progress.step)
        else:
            assert self.validation is not None
            loss, metrics = self.accumulation.evaluate(self.validation, progress.step)
        if not finite(loss):
            raise LuthierError(
                f"the evaluation loss after step {progress.step} is {loss}",
                where="validate",
                fix="look at the validation rows (luthier data --show 5); lower train.lr",
            )
        best = progress.evaluated(loss, validate.patience)
        epoch = round(self.source.epoch(progress.step - 1), 6)
        self.log.event("evaluation", step=progress.step, epoch=epoch, loss=loss, best=best, **metrics)
        told = f"loss {loss:.4f}" + (f", accuracy {metrics['accuracy']:.3f}" if "accuracy" in metrics else "")
        if self.rollouts is not None:  # its loss is no more than what is wanting to 1
            told = f"held-out score {metrics['score']:.3f}"
        self.log.screen.say(f"evaluation after step {progress.step}: {told}{' (best)' if best else ''}")
        return best and validate.keep_best

    def _save(self) -> None:
        progress = self.progress
        # first the event, then the checkpoint, which keeps the length of the log with the event in it
        self.log.event("checkpoint", step=progress.step)
        progress.micro_tokens, progress.checkpointing = self.budget.tokens, self.budget.checkpointing
        progress.source = self.accumulation.source_state()
        progress.guards, progress.objective = self.guards.state(), dict(self.losses.state)
        progress.peak_memory = max(progress.peak_memory, memory.peak(self.device))
        weights, optimizers = self.weights.content(), self.weights.update.state()
        agree(self.group, weights)
        if not self.group.first:
            return
        content = checkpoint.Content(progress.step, weights, optimizers, rng.capture(self.device), asdict(progress))
        checkpoint.save(self.log.run, content)
        best = progress.best_step if self.recipe.validate.keep_best else None
        checkpoint.prune(self.log.run, self.train.keep, best)

    # the end
    def finish(self) -> FitResult:
        """Put the best weights back, say how it went, and write summary.json."""
        progress = self.progress
        evaluation = progress.evaluation_loss
        if not self.group.first:
            return progress.result(evaluation, self.resumed_from)
        if self.recipe.validate.keep_best and progress.best_step not in (None, progress.step):
            best = checkpoint.at(self.log.run, progress.best_step or 0)
            self.weights.put_back(best.weights())
            evaluation = progress.best_loss
            self.log.screen.say(f"the weights of the best evaluation (step {best.step}) are put back")
        progress.peak_memory = max(progress.peak_memory, memory.peak(self.device))
        result = progress.result(evaluation, self.resumed_from)
        fields = {key: value for key, value in asdict(result).items() if key not in ("steps", "resumed_from")}
        self.log.event("end", step=progress.step, **fields)
        if result.shared >= 0.001:
            self.log.screen.say(f"shared {result.shared:.0%} of tokens: computed once for several rows")
        run = self.log.run
        summary = {**run.read_json(run.summary_path), "recipe_digest": progress.recipe, **asdict(result)}
        run.write_json(run.summary_path, summary)
        return result

    def close(self) -> None:
        """Give the model back as it was and end the trackers."""
        self.accumulation.close()
        self.log.close()

    # details
    def lr(self, step: int) -> float:
        """The learning rate of step `step` (from 0)."""
        assert self.train.lr is not None, "the recipe is not resolved"
        return self.train.lr * float(self.schedule.factor(step, self.total, self.warmup))

    def _facts(self, allocation: str) -> dict[str, Any]:
        import transformers

        from luthier import __version__

        update = self.weights.update
        return {
            "path": self.budget.forward.path,
            "allocator": allocation,
            "device": str(self.device),
            "processes": self.group.world,
            "threads": torch.get_num_threads(),
            "trainable": sum(parameter.numel() for parameter in update.parameters),
            "parameters": self.policy.parameter_counts()[1],
            "masters": update.has_masters,
            "examples": None if (every := self.source.every()) is None else len(every),
            "steps": self.total,
            "batch": self.train.batch,
            "micro_tokens": self.budget.tokens,
            "objective": self.recipe.objective.name,
            **self.losses.roles.facts,
            "optimizer": self.train.optimizer.name,
            "versions": {
                "luthier": __version__,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "python": platform.python_version(),
            },
        }

    def _not_finite(self, gradients: Gradients, loss: float, lr: float) -> LuthierError:
        step = self.progress.step + 1
        if not self.group.first:
            self.group.agree(False)  # the first process tells, when it has looked
            raise Told
        what = f"the {'gradient' if finite(loss) else 'loss'} is not finite"
        rows = self.accumulation.suspects(gradients)
        saved = checkpoint.latest(self.log.run)
        kept = f"the weights of step {saved.step} are kept" if saved else "no checkpoint was written yet"
        error = not_finite(what, step, lr, rows, kept)
        self.log.event("warning", step=step, guard="not_finite", text=str(error))
        self.group.agree(False)
        return error

    def _out_of_memory(self, fields: dict[str, Any]) -> None:
        self.log.screen.warn(smaller(fields))
        self.log.event("oom", step=self.progress.step + 1, **fields)


def smaller(fields: Mapping[str, Any]) -> str:
    """What is said when memory ran out."""
    tokens = f"micro-batches of {fields['micro_tokens']:,} tokens"
    how = "gradient checkpointing on" if fields["checkpointing"] else tokens
    return f"out of memory; going on with {how}, same effective batch"
