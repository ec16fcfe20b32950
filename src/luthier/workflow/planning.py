"""`luthier plan`: a recipe made of a look at rows, a model and a machine; or of a recipe, what it would take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from luthier.errors import LuthierError
from luthier.recipe import Model, Recipe, loads, resolve
from luthier.run import write_atomically
from luthier.workflow import forecast as forecasts
from luthier.workflow.job import Job
from luthier.workflow.registries import REGISTRIES
from luthier.workflow.screen import console

if TYPE_CHECKING:
    from luthier.advisor.hardware import Hardware
    from luthier.advisor.load import Laid
    from luthier.advisor.plan import Plan, Way
    from luthier.advisor.rows import Rows, Seen
    from luthier.models.adapters.kit.shape import Shape
    from luthier.types import TokenStore

RECIPES = (".yaml", ".yml")
GOALS = ("chat", "classify", "reason", "domain", "style", "align")
MOST = 8192
"""Tokens of the longest row that is looked at, where a model can read more."""
DEFAULT_MODEL = "smollm2-135m-instruct"


@dataclass(frozen=True)
class Asked:
    """What `luthier plan` was given besides rows or a recipe."""

    model: str = DEFAULT_MODEL
    hardware: str | None = None
    """As `--gpu` means it; None: this machine."""
    goal: str | None = None
    overrides: Sequence[str] = ()


@dataclass(frozen=True)
class Proposed:
    """A plan with the recipe that it comes to."""

    plan: Plan
    recipe: dict[str, Any]
    text: str
    """The same as a file, each choice with its reason."""


def of_rows(path: Path, asked: Asked) -> Proposed:
    """Look at rows and propose a recipe for them. Raises LuthierError for rows or a model that cannot be read."""
    from luthier import data
    from luthier.advisor import shown
    from luthier.advisor.rows import look
    from luthier.advisor.rules import holding

    there = path.expanduser()
    if not there.exists():
        raise LuthierError("there are no rows", where=str(path), fix="give a file of rows, or a recipe (.yaml)")
    if asked.overrides:
        raise LuthierError("rows have no keys", where=asked.overrides[0], fix="set keys in the recipe that is proposed")
    if asked.goal is not None and asked.goal not in GOALS:
        raise LuthierError(f"{asked.goal!r} is no goal", where="--goal", fix=f"one of {', '.join(GOALS)}")
    seen = look(data.read([str(there.resolve())]))
    goal = asked.goal or _goal(seen)
    sets = {key: value for rule in holding({"kind": seen.kind, "goal": goal}) for key, value in rule.sets.items()}
    objective = {"steps": "process_reward"}.get(seen.kind, sets.get("objective", "sft"))
    base = {
        "model": _named(asked.model), "data": str(there.resolve()), "objective": objective,
        "train": {"epochs": sets.get("train.epochs", 1.0)}, "output": f"runs/{there.stem}",
    }  # fmt: skip
    if objective == "grpo":
        base["reward"] = ["maths"]
    hardware, shape = _hardware(asked), forecasts.shape_of(Model(name=asked.model))
    job, rows, store = _looked_at(base, seen, shape)
    console(stderr=True).print(*shown.rows_lines(rows, there.name), sep="\n", markup=False)
    facts = {
        **rows.facts(shape.context), "goal": goal, "memory": hardware.memory / 2**30, "device": hardware.kind,
        "cards": hardware.count, "numbers": shape.total / 1e9,
    }  # fmt: skip
    plan = _planned(job, _laid(job, rows, store), facts, hardware, shape)
    return _proposal(plan, base, rows, shape)


def _goal(seen: Seen) -> str:
    """What rows of a kind are mostly for."""
    if seen.kind in ("pairs", "labels", "steps"):
        return "align"
    return {"texts": "domain", "prompts": "reason"}.get(seen.kind, "classify" if seen.answers > 1 else "chat")


def _named(model: str) -> str:
    there = Path(model).expanduser()
    return str(there.resolve()) if there.exists() else model


def _hardware(asked: Asked) -> Hardware:
    from luthier.advisor import hardware

    return hardware.here() if asked.hardware is None else hardware.named(asked.hardware)


def _job(base: Mapping[str, Any]) -> Job:
    """A recipe, as it would be written, built."""
    text = yaml.safe_dump(dict(base), sort_keys=False, allow_unicode=True)
    return Job(resolve(loads(text, (), REGISTRIES, name="the proposal"), REGISTRIES).recipe)


def _looked_at(base: dict[str, Any], seen: Seen, shape: Shape) -> tuple[Job, Rows, TokenStore | None]:
    """The tokens of the rows at the length that they want, which is written into `base`."""
    from luthier.advisor.plan import room

    widest = min(shape.context or MOST, MOST)
    first = {**base["train"], "max_tokens": widest, "long_rows": "truncate" if seen.kind != "prompts" else "drop"}
    rows, _ = _tokens(_job({**base, "train": {**first, "max_lost": 1.0}}), seen)
    tokens, longer = room(int(rows.lengths.max()), rows.percentile(99), widest)
    base["train"] |= {"max_tokens": tokens} | ({"long_rows": longer, "max_lost": 0.1} if longer else {})
    job = _job(base)
    return job, *_tokens(job, seen)


def _tokens(job: Job, seen: Seen) -> tuple[Rows, TokenStore | None]:
    """The rows with their tokens, and the tokens where they train as they are."""
    import numpy as np

    from luthier.advisor.rows import Rows
    from luthier.data import prepare, prompts
    from luthier.models import expected_max_context

    recipe = job.recipe
    longest, _ = expected_max_context(recipe.model, recipe.adapt)
    if job.speaks:
        found = prompts(recipe, job.template, longest)
        room = recipe.rollout.max_new_tokens if recipe.rollout else 0
        lengths = np.array([len(prompt.ids) + room for prompt in found.train])
        return Rows(seen, lengths, room / max(float(lengths.mean()), 1.0), found.ledger.duplicates), None
    prepared = prepare(recipe, job.template, job.objective.needs, longest)
    store = prepared.train
    total = max(1, int(store.lengths.sum()))
    scored = float(store.scored.sum()) / total
    return Rows(seen, np.asarray(store.lengths), scored, prepared.ledger.duplicates), store


def _planned(job: Job, laid: Laid, facts: Mapping[str, Any], hardware: Hardware, shape: Shape) -> Plan:
    """Each way held against rows and machine."""
    import importlib.util

    import torch

    from luthier.advisor import calibration, forecast, history
    from luthier.advisor.plan import WAYS, candidates, choose

    recipe, needs = job.recipe, job.objective.needs
    known, threads = list(history.ended()), torch.get_num_threads()

    def expected(way: Way) -> tuple[Any, Any]:
        as_way = resolve(_with(recipe, way), REGISTRIES).recipe
        setup = forecasts.setup_of(as_way, needs, hardware.kind, shape)
        if hardware.kind == "cuda":
            setup = replace(setup, dtype="bf16")
        measured = hardware.kind == "cpu" and hardware.here
        rate = calibration.rate(shape, setup.dtype, threads) if measured else None
        return setup, forecast.of(setup, laid, rate, threads, known)

    bits = hardware.kind == "cuda" or importlib.util.find_spec("bitsandbytes") is not None
    ways = [way for way in WAYS if way.quantize is None or bits]
    return choose(candidates(expected, hardware, ways), facts)


def _with(recipe: Recipe, way: Way) -> Recipe:
    """A recipe with a way to adapt in the place of its own."""
    from luthier.recipe import Plugin

    given = way.adapt if isinstance(way.adapt, list) else [way.adapt]
    adapt = tuple(Plugin(name=name, args=args) for name, args in map(_only, given))
    quantize = Plugin(name=way.quantize) if way.quantize else None
    train = replace(recipe.train, checkpointing=way.checkpointing, lr=None)
    return replace(recipe, adapt=adapt, quantize=quantize, train=train)


def _only(given: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    if isinstance(given, str):
        return given, {}
    name, args = next(iter(given.items()))
    return name, dict(args or {})


def _laid(job: Job, rows: Rows, store: TokenStore | None) -> Laid:
    """What the rows come to when they are laid out as the loop will."""
    from luthier.advisor import load

    recipe, needs = job.recipe, job.objective.needs
    if store is None:
        budget = recipe.train.micro_tokens or recipe.train.max_tokens
        batch = recipe.train.batch
        steps = max(1, round(recipe.train.epochs * rows.count / batch))
        return load.assumed(rows.lengths.tolist(), rows.scored, batch, load.Cut(budget), steps)
    return forecasts.laid_out(recipe, needs, store)


def _proposal(plan: Plan, base: dict[str, Any], rows: Rows, shape: Shape) -> Proposed:
    """The recipe of the chosen way, which is known to resolve."""
    from luthier.advisor.plan import CHECKED, ENOUGH, recipe

    if rows.count >= ENOUGH and rows.seen.kind != "prompts":
        base["validate"] = {"share": CHECKED}
    sets = {key: value for rule in plan.rules for key, value in rule.sets.items() if key != "objective"}
    written = recipe(plan.chosen.way, base, sets)
    _job(written)
    return Proposed(plan, written, text_of(written, plan))


def text_of(written: Mapping[str, Any], plan: Plan) -> str:
    """The recipe as YAML, with the reasons above it."""
    from luthier.advisor.forecast import size

    chosen = plan.chosen
    forecast = chosen.forecast
    lines = [
        f"# Proposed by `luthier plan`: {chosen.way.name}. Memory {forecast.said_memory()}; "
        f"time {forecast.said_time()}.",
        *(f"# - {says} [{source}]" for says, source in plan.why),
        *(f"# - {rule.says} [{rule.source} ({rule.id})]" for rule in plan.said if rule.sets),
        *(f"# or {one.way.name}: {size(one.forecast.memory.total)}, {one.forecast.said_time()}" for one in plan.others),
    ]
    return "\n".join(lines) + "\n" + yaml.safe_dump(dict(written), sort_keys=False, allow_unicode=True)


def of_recipe(path: Path, asked: Asked) -> Any:
    """What a recipe would take, here or elsewhere, and what is said of such runs."""
    from luthier.advisor import calibration, forecast, history
    from luthier.recipe import load

    recipe = resolve(load(path, asked.overrides, REGISTRIES), REGISTRIES).recipe
    job, hardware = Job(recipe), _hardware(asked)
    found = forecasts.expected(job)
    if hardware.kind == found.setup.device and hardware.here:
        return found, hardware
    setup = replace(found.setup, device=hardware.kind, dtype="bf16" if hardware.kind == "cuda" else found.setup.dtype)
    measured = hardware.kind == "cpu" and hardware.here
    rate = calibration.rate(setup.shape, setup.dtype, found.threads) if measured else None
    there = forecast.of(setup, found.laid, rate, found.threads, list(history.ended()) if measured else ())
    return replace(found, setup=setup, forecast=there), hardware


# on screen
def shown(given: Path, asked: Asked, write: Path | None = None, rules: int = 8) -> Proposed | None:
    """Print the plan for rows, or what a recipe would take; write the recipe that is proposed. `rules`: how many of the
    rules that hold are shown, at most."""
    from luthier.advisor import shown as tables

    out = console()
    if given.suffix.lower() in RECIPES:
        _show_recipe(given, asked)
        return None
    proposed = of_rows(given, asked)
    plan, chosen = proposed.plan, proposed.plan.chosen
    out.print(tables.machine_line(_hardware(asked), chosen.setup), markup=False)
    out.print()
    out.print(tables.candidates_table(plan))
    out.print(f"\nproposed: {chosen.way.name}", style="bold", markup=False)
    for says, source in plan.why:
        out.print(f"  {says}  [{source}]", markup=False)
    if plan.said[:rules]:
        out.print()
        out.print(tables.rules_table(plan.said[:rules]))
        more = len(plan.rules) - len(plan.said[:rules])
        out.print(f"{more} more hold: luthier plan --rules", markup=False)
    out.print(f"\n{proposed.text}", markup=False)
    if write is not None:
        place = write.expanduser()
        if place.exists():
            raise LuthierError("there is a file already", where=str(place), fix="choose another name, or remove it")
        write_atomically(place, proposed.text)
        out.print(f"written: luthier train {place}", style="bold", markup=False)
    return proposed


def _show_recipe(path: Path, asked: Asked) -> None:
    from luthier.advisor import shown as tables

    found, hardware = of_recipe(path, asked)
    forecast, out = found.forecast, console()
    out.print(tables.machine_line(hardware, found.setup), markup=False)
    share = found.setup.trains.numbers / found.setup.shape.total
    out.print(f"trains      {found.setup.trains.numbers:,} numbers, {100 * share:.3g} % of the model's", markup=False)
    laid = found.laid
    out.print(
        f"steps       {laid.steps:,}, each {laid.step.tokens:,.0f} tokens in {laid.micro:.1f} micro-batches; the "
        f"heaviest has {laid.heaviest.tokens:,.0f}, of which {laid.heaviest.scored:,.0f} are scored",
        markup=False,
    )
    out.print(f"memory      {forecast.said_memory()}", markup=False)
    out.print(f"time        {forecast.said_time()}, by {forecast.runs} runs of its kind on this machine", markup=False)
    out.print()
    out.print(tables.parts_table(forecast))
    fits = forecast.fits(hardware)
    if fits is not True:
        word = "may not" if fits is None else "does not"
        out.print(f"\nIt {word} fit: {forecasts.REMEDY}", style="bold", markup=False)


def all_rules() -> None:
    """Print every rule."""
    from luthier.advisor import shown as tables
    from luthier.advisor.rules import rules

    console().print(tables.rules_table(rules()))
