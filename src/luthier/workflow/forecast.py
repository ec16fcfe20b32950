"""What a run will take, said before its first step; what it took, said after its last; both kept for the next one."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luthier.errors import LuthierError
from luthier.run import Run

if TYPE_CHECKING:
    from luthier.advisor.forecast import Forecast
    from luthier.advisor.history import Ended
    from luthier.advisor.load import Laid
    from luthier.advisor.setup import Setup
    from luthier.models.adapters.kit.shape import Shape
    from luthier.recipe import Model, Recipe
    from luthier.types import Needs, TokenStore
    from luthier.workflow.job import Job

KEY = "forecast"
"""Where a run's summary keeps it."""
TRY = "train some steps: what a step takes is shown, and kept"


@dataclass(frozen=True)
class Expected:
    """A forecast with what it was made of."""

    forecast: Forecast
    setup: Setup
    laid: Laid
    threads: int


def expected(job: Job) -> Expected:
    """What the run of a job will take on this machine. The rows are read; no weights are. Raises LuthierError where it
    cannot be told, and why."""
    import torch

    from luthier.advisor import calibration, forecast, history

    recipe = job.recipe
    if job.speaks:
        what = "of what a model says itself, nobody knows beforehand how long it will be"
        raise LuthierError(what, fix=TRY)
    setup = setup_of(recipe, job.objective.needs)
    store = job.prepared.train
    laid = laid_out(recipe, job.objective.needs, store)
    held_out = job.prepared.validation
    if held_out is not None:
        looks = _looks(recipe.validate.every, laid.steps)
        share = looks * int(held_out.lengths.sum()) / max(1.0, laid.step.tokens * laid.steps)
        setup = dataclasses.replace(setup, evaluated=setup.evaluated + share)
    threads = recipe.train.threads or torch.get_num_threads()
    rate = calibration.rate(setup.shape, setup.dtype, threads) if setup.device == "cpu" else None
    found = forecast.of(setup, laid, rate, threads, list(history.ended()))
    return Expected(found, setup, laid, threads)


def laid_out(recipe: Recipe, needs: Needs, store: TokenStore) -> Laid:
    """What a run on these rows computes, its steps laid out as the loop will."""
    import numpy as np

    from luthier.advisor import load
    from luthier.train import sources

    train = recipe.train
    budget = train.micro_tokens or train.batch * train.max_tokens
    share = train.share_prefix and not train.neftune
    layout = "padded" if train.layout == "padded" else "packed"
    cut = load.Cut(budget, share, layout, needs.whole_step)  # type: ignore[arg-type]
    order = sources.Order(len(store), train.batch, recipe.seed, recipe.shuffled)
    source, lengths = sources.of(store, recipe), np.asarray(store.lengths)

    def sizes(number: int) -> int:
        here = lengths[order.positions(number)]
        return int(max(here.max(), min(budget, here.sum())))

    return load.laid(lambda number: source.next(number, 0), sizes, source.total, cut, order.steps_per_epoch)


def setup_of(recipe: Recipe, needs: Needs, device: str | None = None, shape: Shape | None = None) -> Setup:
    """What memory and time hang on. Raises LuthierError where the model's sizes or what trains are not known."""
    from luthier import machine
    from luthier.advisor.memory import reads_vocabulary
    from luthier.advisor.setup import STATES, Setup
    from luthier.advisor.trains import trains
    from luthier.models import fetch
    from luthier.models.adapters import named

    folder = fetch(recipe.model).folder if shape is None else None
    shape = shape or shape_of(recipe.model)
    adapters = named(recipe.adapt)
    train = recipe.train
    if train.optimizer.name not in STATES:
        what = f"nothing is known of the memory of the optimiser {train.optimizer.name!r}"
        raise LuthierError(what, fix=TRY)
    others = {"reference": recipe.reference.model, "teacher": recipe.teacher.model if recipe.teacher else None}
    beside = sum(_weights(model) for model in others.values() if model is not None)
    dtype = machine.best_dtype() if recipe.model.dtype == "auto" else recipe.model.dtype
    return Setup(
        shape=shape,
        trains=trains(shape, adapters, folder),
        dtype=dtype,
        quantize=None if recipe.quantize is None else recipe.quantize.name,
        device=device or ("cuda" if machine.uses_gpu() else "cpu"),  # type: ignore[arg-type]
        optimizer=train.optimizer.name,
        masters=train.masters is not False,
        checkpointing=train.checkpointing is True,
        fused=train.fused and train.layout != "padded",
        reference=_reference(recipe, needs, adapters),  # type: ignore[arg-type]
        beside=beside,
        vocabulary=reads_vocabulary(needs),
        evaluated=2.0 if needs.kl_baseline else 0.0,  # the model and its reference on pairs that do not match
    )


def shape_of(model: Model) -> Shape:
    """The sizes of a model, from its configuration."""
    from transformers import AutoConfig

    from luthier.models import fetch
    from luthier.models.adapters.kit.shape import Shape

    folder = fetch(model).folder
    config = AutoConfig.from_pretrained(folder, trust_remote_code=model.trust_remote_code, local_files_only=True)
    return Shape.of(config.to_dict(), model.name)


def _weights(model: Model) -> int:
    from luthier import machine
    from luthier.advisor.setup import BYTES

    dtype = machine.best_dtype() if model.dtype == "auto" else model.dtype
    return BYTES[dtype] * shape_of(model).total


def _reference(recipe: Recipe, needs: Needs, adapters: Sequence[tuple[str, Any]]) -> str:
    """Where a reference's log-probabilities will come from (`train/roles/reference.py`)."""
    if not needs.reference:
        return "none"
    second, own = recipe.reference.model is not None, not any(adapter.kind != "base" for _, adapter in adapters)
    wish = recipe.reference.cache
    cached = (second or own or recipe.train.epochs > 1) if wish == "auto" else wish
    if cached and not needs.kl_baseline:
        return "kept"
    if second:
        return "second"
    rewritten = any(adapter.rewrites_base or not adapter.exact_start for _, adapter in adapters)
    return "copy" if own or rewritten else "off"


def _looks(every: float, total: int) -> int:
    """Evaluations of a run."""
    return max(1, round(1 / every)) if every < 1 else max(1, int(total // every))


# before and after
def before(job: Job, say: Callable[[str], None]) -> Expected | None:
    """Say what the run will take, and warn where it cannot fit. None where that cannot be told; then it says why."""
    from luthier.advisor import hardware

    try:
        found = expected(job)
    except LuthierError as error:
        say(f"memory and time are not predicted: {error.what}")
        return None
    forecast, there = found.forecast, hardware.here()
    say(f"expected: memory {forecast.said_memory()} of {there.name}; training {forecast.said_time()}")
    if forecast.fits(there) is False:
        say(f"warning: this run needs {forecast.said_memory()}, and there are {there.memory / 2**30:.1f} GiB: {REMEDY}")
    return found


REMEDY = (
    "lower train.max_tokens or train.micro_tokens, set train.checkpointing=true, a smaller `r`, freeze blocks, or "
    "quantize=nf4"
)


def after(found: Expected | None, run: Run, say: Callable[[str], None]) -> None:
    """Say what came beside what was expected, and keep both."""
    if found is None:
        return
    from luthier.advisor import history
    from luthier.advisor.forecast import duration, size

    forecast, summary = found.forecast, run.read_json(run.summary_path)
    run.write_json(run.summary_path, {**summary, KEY: forecast.to_json()})
    if summary.get("resumed_from") is not None or summary.get("stopped_early"):
        return  # another sitting's memory and time, or fewer steps
    peak, seconds = float(summary["peak_memory"]), float(summary["seconds"])
    off = peak / forecast.memory.total - 1
    say(
        f"came: memory {size(peak)} ({off:+.0%} of what was expected); training {duration(seconds)}, expected "
        f"{forecast.said_time()}"
    )
    history.add(ended(found, peak, seconds, int(summary["steps"])))


def ended(found: Expected, peak: float, seconds: float, steps: int) -> Ended:
    """What the cache is to keep of a run."""
    from luthier.advisor.history import Ended

    forecast, heaviest = found.forecast, found.laid.heaviest
    return Ended(
        path=found.setup.path,
        threads=found.threads,
        tokens=heaviest.tokens,
        scored=heaviest.scored,
        peak=peak,
        predicted=forecast.memory.total,
        seconds=seconds,
        steps=steps,
        flops=forecast.work.flops * steps,
        at_rate=forecast.at_rate or 0.0,
        model=found.setup.shape.name,
        shape=dataclasses.asdict(found.setup.shape),
        when=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
