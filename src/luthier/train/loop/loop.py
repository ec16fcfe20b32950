"""The training loop: one for every objective, every adapter and every device.

Each step takes its examples from a fixed order, adds up the gradients of its micro-batches, steps the weights once
and says so. What a killed run has not yet written to a checkpoint happens again, exactly: order, random states,
optimiser, guards and the event log all continue from the newest whole checkpoint.
"""

from __future__ import annotations

import platform
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any, Protocol

import torch

from luthier.errors import LuthierError
from luthier.forward.forward import Forward
from luthier.models import dropout, max_context
from luthier.recipe import Recipe, digest
from luthier.run import Run
from luthier.train import SCHEDULES
from luthier.train.loop import allocator, backbone, checkpoint, memory, rng
from luthier.train.loop.accumulation import Accumulation, Gradients
from luthier.train.loop.guards import Guards, finite, not_finite
from luthier.train.loop.losses import Losses, Objective
from luthier.train.loop.progress import FitResult, Progress
from luthier.train.optim.schedule import due_after, warmup_steps
from luthier.train.optim.weights import Policy, Weights
from luthier.train.roles import reference
from luthier.train.roles.row_weights import density_ratios
from luthier.train.sources.order import Order
from luthier.train.telemetry.log import Log, Watch
from luthier.train.telemetry.screen import Screen
from luthier.types import TokenStore


class Prepared(Protocol):
    """What the loop asks of the data; `luthier.data.prepare` gives one."""

    @property
    def train(self) -> TokenStore: ...
    @property
    def validation(self) -> TokenStore | None: ...


def fit(
    policy: Policy,
    objective: Objective,
    prepared: Prepared,
    recipe: Recipe,
    run: Run,
    *,
    second: Policy | None = None,
    watch: Watch | None = None,
) -> FitResult:
    """Train `policy` in place, continuing from the run's newest whole checkpoint if there is one.

    The run folder receives events.jsonl, checkpoints/ and the loop's part of summary.json; `watch` is called with
    every event; `second` is the frozen model of `reference.model`. Raises LuthierError for what the user can mend: not
    enough memory or disk, a loss that is not finite, a checkpoint of another recipe.
    """
    train = recipe.train
    if train.threads:
        torch.set_num_threads(train.threads)
    total = Order(len(prepared.train), train.batch, recipe.seed).total(train.epochs, train.steps)
    for adapter in policy.adapters:
        adapter.fits(total)
    policy.module.train()
    with ExitStack() as stack:
        log = Log(run, stack.enter_context(Screen(total)), watch)
        paths: dict[str, Any] = {"layout": train.layout, "share_prefix": train.share_prefix, "fused": train.fused}
        if train.neftune:
            paths["share_prefix"] = False  # rows that share a prefix would share its noise
        if objective.needs.reference:
            quieten(policy.module, stack, log)
            if second is not None:  # it is never in training mode, but where noise may be, prefixes are not shared
                stack.enter_context(dropout.off(dropout.of_base(second.module)))
        forward = Forward(policy.module, scalar_head=policy.head, **paths)
        stack.enter_context(forward.opened())
        loop = Loop(policy, objective, prepared, recipe, forward, log)
        stack.callback(loop.close)
        stack.enter_context(backbone.kept(policy, forward, prepared, recipe, log))
        if objective.needs.reference:
            loop.refer(stack.enter_context(Forward(second.module, **paths).opened()) if second else None, second)
        if objective.weighs_prompts:
            loop.weigh_prompts()
        loop.begin()
        loop.run()
        result = loop.finish()
    policy.module.eval()
    return result


def quieten(module: Any, stack: ExitStack, log: Log) -> None:
    """Switch the base's own dropout off until `stack` closes: a policy with noise differs from a reference without, and
    what would be learnt at first is to make up for the noise."""
    rates = dropout.of_base(module)
    stack.enter_context(dropout.off(rates))
    if rates:
        values = ", ".join(f"{value:g}" for value in sorted({rate.value for rate in rates}))
        log.screen.say(f"the model's own dropout ({values}) is off: its reference has none")


class Loop:
    """One run of `fit`."""

    def __init__(
        self,
        policy: Policy,
        objective: Objective,
        prepared: Prepared,
        recipe: Recipe,
        forward: Forward,
        log: Log,
    ) -> None:
        self.policy, self.store, self.validation = policy, prepared.train, prepared.validation
        self.recipe, self.train, self.device, self.log = recipe, recipe.train, policy.device, log
        self.order = Order(len(self.store), self.train.batch, recipe.seed)
        self.total = self.order.total(self.train.epochs, self.train.steps)
        self.schedule = SCHEDULES.build(self.train.schedule.name, self.train.schedule.args)
        self.warmup = warmup_steps(self.train.warmup, self.total)
        self.weights = Weights(policy, self.train, self.total)
        self.losses = Losses(
            forward, objective, longest=min(self.train.max_tokens, max_context(policy.module) or sys.maxsize)
        )
        self.accumulation = Accumulation(forward, self.losses, self.weights.update, self.train, self.device)
        self.accumulation.on_out_of_memory = self._out_of_memory
        self.guards = Guards(self.train.stall_window, per_token=objective.needs.unit == "token")
        self.save_at = due_after(self.train.save_every, self.total)
        self.evaluate_at = due_after(recipe.validate.every, self.total) if self.validation is not None else frozenset()
        budget, checkpointing = self.accumulation.budget, self.accumulation.checkpointing
        self.progress = Progress(digest(recipe), self.store.digest, budget, checkpointing, policy.digest)
        self.resumed_from: int | None = None
        self.compared: dict[str, Any] = {}
        """What the `start` event says of the reference."""

    def refer(self, second: Forward | None, model: Policy | None) -> None:
        """Decide where the reference's log-probabilities come from (before the first step changes any weight)."""
        pair = None
        if second is not None and model is not None:
            pair = second, model
            self.losses.longest = min(self.losses.longest, max_context(model.module) or sys.maxsize)
        choice = reference.choose(self.policy, self.accumulation.forward, pair, repr(self.recipe.adapt))
        passes = self.total / self.order.steps_per_epoch
        chosen: reference.Reference = choice.live
        self.losses.live = choice.live
        if not self.losses.kl_baselines and choice.kept(self.recipe.reference.keep, passes):
            stores = [store for store in (self.store, self.validation) if store is not None]
            say, lay_out = self.log.screen.say, self.accumulation.lay_out
            chosen = reference.keep(choice.live, stores, choice.identity, lay_out, say)
            self.losses.live = None
        elif isinstance(choice.live.off, reference.Start):
            choice.live.off.remember()
        self.losses.reference = chosen
        self.log.screen.say(f"reference: {chosen.about}")
        reasons: list[str] = []
        if second is None:
            reasons = reference.unequal(self.policy, self.policy.module, bool(self.train.neftune))
        if reasons:
            self.log.screen.say(f"the first loss will not be that of equal models: {'; '.join(reasons)}")
        self.compared = {"reference": chosen.about, "first_loss_differs": reasons}

    def weigh_prompts(self) -> None:
        """Weigh the rows by where their prompts come from, as the model sees them before the first step."""
        for store in (self.store, self.validation):
            if store is not None:
                weights = density_ratios(self.accumulation.forward, store, self.accumulation.lay_out)
                self.losses.row_weights[store.digest] = weights

    # begin, or continue
    def begin(self) -> None:
        """Start from the beginning or from the newest whole checkpoint."""
        self.log.open_trackers(self.recipe)
        checkpoint.remove_leftovers(self.log.run)
        rng.seed_all(self.recipe.seed)
        allocation = allocator.keep_freed_memory() if self.device.type == "cpu" else "allocator: the device's own"
        self.log.screen.say(f"path: {self.accumulation.forward.path}")
        found = checkpoint.latest(self.log.run, self.log.screen.warn)
        checkpoint.discard_after(self.log.run, found.step if found else -1)
        if found:
            self._continue(found)
        else:
            self.log.begin_at(0)
            self.log.event("start", **self._facts(allocation))
            self.accumulation.rehearse(self.store, self.order, self.total)
        if self.weights.update.lossy:
            self.log.screen.warn(
                "weights are stepped in low precision without fp32 masters: small updates round to nothing"
            )

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
        self.accumulation.budget = before.micro_tokens
        if before.checkpointing and not self.accumulation.checkpointing:
            self.accumulation.turn_on_checkpointing()
        self.weights.before_step(before.step - 1)
        self.weights.put_back(found.weights())
        self.weights.update.load_state(found.optimizers())
        self.guards.load_state(before.guards)
        self.losses.state = before.objective or self.losses.state
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
        self.losses.first_step = progress.step == 0
        gradients = self.accumulation.gradients(self.store, self.order, progress.step, self.total)
        penalty = self.weights.penalty()
        norm = self.weights.update.norm()
        # the one place in a step where the host waits for the device
        loss, size, *added = torch.stack(
            [gradients.loss.float(), norm.float(), *([] if penalty is None else [penalty])]
        ).tolist()
        if not finite(loss, size):
            raise self._not_finite(gradients, loss, lr)
        self.weights.step(progress.step, lr, size, self.train.clip)
        seen = {**gradients.judged, **({"penalty": added[0]} if added else {})}
        progress.stepped(loss, gradients.tokens, gradients.computed, seen, time.perf_counter() - began)
        if progress.step % self.train.log_every == 0 or progress.step == self.total:
            epoch = round(self.order.epoch(progress.step - 1), 6)
            fields = {"lr": lr, "grad_norm": size, "memory": memory.used(self.device)}
            self.log.event("step", step=progress.step, epoch=epoch, **progress.take_since(), **fields)
        for guard, text in self.guards.observe(loss, gradients.judged):
            self.log.warn(guard, progress.step, text)

    def _evaluate(self) -> bool:
        """Record the evaluation loss; True if it is the best so far and its weights should be kept."""
        progress, validate = self.progress, self.recipe.validate
        assert self.validation is not None
        loss, judged = self.accumulation.evaluate(self.validation)
        if not finite(loss):
            raise LuthierError(
                f"the evaluation loss after step {progress.step} is {loss}",
                where="validate",
                fix="look at the validation rows (luthier data --show 5); lower train.lr",
            )
        best = progress.evaluated(loss, validate.patience)
        epoch = round(self.order.epoch(progress.step - 1), 6)
        self.log.event("evaluation", step=progress.step, epoch=epoch, loss=loss, best=best, **judged)
        accuracy = f", accuracy {judged['accuracy']:.3f}" if "accuracy" in judged else ""
        self.log.screen.say(
            f"evaluation after step {progress.step}: loss {loss:.4f}{accuracy}" + (" (best)" if best else "")
        )
        return best and validate.keep_best

    def _save(self) -> None:
        progress = self.progress
        # first the event, then the checkpoint, which keeps the length of the log with the event in it
        self.log.event("checkpoint", step=progress.step)
        progress.micro_tokens, progress.checkpointing = self.accumulation.budget, self.accumulation.checkpointing
        progress.guards, progress.objective = self.guards.state(), dict(self.losses.state)
        progress.peak_memory = max(progress.peak_memory, memory.peak(self.device))
        weights, optimizers = self.weights.content(), self.weights.update.state()
        content = checkpoint.Content(progress.step, weights, optimizers, rng.capture(self.device), asdict(progress))
        checkpoint.save(self.log.run, content)
        best = progress.best_step if self.recipe.validate.keep_best else None
        checkpoint.prune(self.log.run, self.train.keep, best)

    # the end
    def finish(self) -> FitResult:
        """Put the best weights back, say how it went, and write summary.json."""
        progress = self.progress
        evaluation = progress.evaluation_loss
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
        self.weights.update.close()
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
            "path": self.accumulation.forward.path,
            "allocator": allocation,
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "trainable": sum(parameter.numel() for parameter in update.parameters),
            "parameters": self.policy.parameter_counts()[1],
            "masters": update.has_masters,
            "examples": len(self.store),
            "steps": self.total,
            "batch": self.train.batch,
            "micro_tokens": self.accumulation.budget,
            "objective": self.recipe.objective.name,
            **self.compared,
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
        what = f"the {'gradient' if finite(loss) else 'loss'} is not finite"
        rows = self.accumulation.suspects(gradients, self.store)
        saved = checkpoint.latest(self.log.run)
        kept = f"the weights of step {saved.step} are kept" if saved else "no checkpoint was written yet"
        error = not_finite(what, step, lr, rows, self.store, kept)
        self.log.event("warning", step=step, guard="not_finite", text=str(error))
        return error

    def _out_of_memory(self, fields: dict[str, Any]) -> None:
        how = (
            "gradient checkpointing on"
            if fields["checkpointing"]
            else f"micro-batches of {fields['micro_tokens']:,} tokens"
        )
        self.log.screen.warn(f"out of memory; going on with {how}, same effective batch")
        self.log.event("oom", step=self.progress.step + 1, **fields)
