"""What the recipe leaves open is filled in, each value with its reason; and the lock, which leaves nothing open."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml

from luthier import machine
from luthier.errors import LuthierError
from luthier.recipe import abilities, on_policy
from luthier.recipe.document import Key, dotted
from luthier.recipe.load import Loaded, Seams
from luthier.recipe.places import located
from luthier.recipe.rollout import BESIDE
from luthier.recipe.schema import Plugin, Recipe
from luthier.recipe.shape import every_slot
from luthier.registry import Registry, suggest

LARGEST_MICRO = 2048
"""Tokens of a forward pass beyond which a CPU gains nothing more, and memory only grows."""

SPOKEN_MICRO = 1024
"""The same on a processor where a model learns from what it says: its groups share their prompts, so that few tokens
are computed for many answers; a group or two at a time hold a quarter less memory than four, and take a few per cent
longer (benchmarks/NOTES.md)."""

DTYPE_REASONS = {
    "bf16": "half the memory of fp32, same loss within noise",
    "fp32": "this processor does not multiply bf16 numbers, and would take several times as long in bf16",
}

FREE = (
    "output", "evaluate", "engine", "export", "train.log_every", "train.trackers", "train.keep", "allow_drop",
    "rollout.follow.folder",
    *(f"rollout.engine.openai.{key}" for key in ("url", "key_env", "concurrency", "timeout", "retries")),
)  # fmt: skip
"""Keys that do not touch the weights: they may differ between a run and the recipe that continues it."""


@dataclass(frozen=True)
class Resolved:
    """A recipe with nothing left open, and why each derived value is what it is."""

    recipe: Recipe
    reasons: Mapping[Key, str]


def resolve(recipe: Recipe | Loaded, seams: Seams | None = None) -> Resolved:
    """Fill in what is derived; with `seams`, build each plug-in, which checks its keys, and write out its defaults.

    Raises LuthierError for an unknown plug-in, a wrong key, and combinations that cannot be.
    """
    loaded = recipe if isinstance(recipe, Loaded) else Loaded(recipe)
    _check(loaded)
    recipe = _plugins(loaded, seams) if seams else loaded.recipe
    if recipe.quantize is not None and seams and "adapter" in seams:
        origin = loaded.nearest(("quantize",))
        refuse_unquantisable(recipe.adapt, recipe.quantize, seams["adapter"], str(origin) if origin else "quantize")
    adapters = abilities.built(recipe, seams["adapter"]) if seams and "adapter" in seams else []
    abilities.check(loaded, recipe, adapters, seams.get("exporter") if seams else None)
    learns: dict[Key, str] = {}
    if seams and "objective" in seams:
        needs = seams["objective"].build(recipe.objective.name, recipe.objective.args).needs
        recipe, learns = on_policy.filled(loaded, recipe, needs, seams)
        on_policy.check(loaded, recipe, needs, seams)
        recipe = _plugins(replace(loaded, recipe=recipe), seams) if learns else recipe
    recipe, reasons = _derive(recipe, seams)
    train, more = abilities.adjust(recipe.train, adapters)
    return Resolved(replace(recipe, train=train), {**learns, **reasons, **more})


def _derive(recipe: Recipe, seams: Seams | None) -> tuple[Recipe, dict[Key, str]]:
    reasons: dict[Key, str] = {}
    model, train = recipe.model, recipe.train
    if model.dtype == "auto":
        best = machine.best_dtype()
        model = replace(model, dtype=best)
        reasons["model", "dtype"] = f"from auto: {DTYPE_REASONS[best]}"
    if train.lr is None and seams and "adapter" in seams:
        way, rate = _rate(recipe, seams)
        train = replace(train, lr=rate)
        reasons["train", "lr"] = f"from {way}"
    if train.micro_tokens is None:
        speaks = recipe.rollout is not None and not machine.uses_gpu()
        most = SPOKEN_MICRO if speaks else LARGEST_MICRO
        tokens = max(train.max_tokens, min(most, train.batch * train.max_tokens))
        train = replace(train, micro_tokens=tokens)
        words = f"{most:,}{' where the model answers itself, on a processor' if speaks else ''}"
        reasons["train", "micro_tokens"] = f"from batch x max_tokens, up to {words}, and never less than one row"
    return replace(recipe, model=model, train=train), reasons


def _rate(recipe: Recipe, seams: Seams) -> tuple[str, float]:
    """What decides the learning rate, and the rate: the adapter's (of one that adds weights before one that does not),
    scaled as the objective's own rate for LoRA stands to LoRA's where the objective has one."""
    adapters = seams["adapter"]
    named = [(plugin.name, adapters.get(plugin.name)) for plugin in recipe.adapt] or [("full", adapters.get("full"))]
    name, adapter = max(named, key=lambda pair: pair[1].kind != "base")
    objectives = seams.get("objective")
    objective = objectives.build(recipe.objective.name, recipe.objective.args) if objectives else None
    if objective is None or objective.default_lr is None:
        return f"adapt: {name}", adapter.default_lr
    rate = objective.default_lr * adapter.default_lr / adapters.get("lora").default_lr
    return f"objective: {recipe.objective.name}, adapt: {name}", float(f"{rate:.3g}")


# combinations
def _check(loaded: Loaded) -> None:
    recipe = loaded.recipe

    def refuse(key: Key, what: str, fix: str) -> None:
        origin = loaded.nearest(key)
        raise LuthierError(what, where=str(origin) if origin else dotted(key), fix=fix)

    names = [plugin.name for plugin in recipe.adapt]
    if not names:
        refuse(
            ("adapt",),
            "`adapt:` is empty: nothing is said of what trains",
            "leave it out for LoRA, or write `adapt: full` to train every weight",
        )
    others = [name for name in names if name not in ("freeze", "full")]
    if not recipe.data:
        refuse(("data",), "`data:` is empty: there is nothing to train on", "name a file, a folder or a hub data set")
    if "full" in names and others:
        refuse(
            ("adapt",),
            f"`full` trains every weight, `{others[0]}` trains an adapter on frozen ones: they cannot be one run",
            f"keep one of them; `freeze` and `{others[0]}` compose",
        )
    if "full" in names and "freeze" in names:
        refuse(("adapt",), "`full` trains every weight and `freeze` holds some still", "keep one of them")
    for name in names:
        if names.count(name) > 1:
            refuse(("adapt",), f"`{name}` is given twice in `adapt:`", "give it once, with all its keys")
    held_out = recipe.validate.share > 0 or bool(recipe.validate.data)
    if recipe.validate.patience is not None and not held_out:
        refuse(
            ("validate", "patience"),
            "early stopping (validate.patience) needs validation rows",
            "set validate.share=0.05 or validate.data",
        )
    if recipe.validate.share > 0 and recipe.validate.data:
        refuse(("validate", "share"), "validate.share and validate.data exclude each other", "keep one of them")
    if any(source.streaming for source in recipe.data) and recipe.train.steps is None:
        refuse(("data",), "a streamed source has no known end: the run needs a length", "set train.steps")
    if recipe.train.warmup >= 1 and recipe.train.steps is not None and recipe.train.warmup >= recipe.train.steps:
        refuse(
            ("train", "warmup"),
            f"warm-up takes {recipe.train.warmup:g} steps of a run of {recipe.train.steps}",
            "make it shorter; below 1 it is a share of the run",
        )
    tasks = [task.name for task in recipe.evaluate]
    for index, name in enumerate(tasks):
        if name in tasks[:index]:
            refuse(("evaluate", index), f"two tasks of `evaluate:` are called {name!r}", "give each its own `name:`")


def refuse_unquantisable(adapt: Sequence[Plugin], quantize: Plugin, adapters: Registry, where: str) -> None:
    """Raises LuthierError where what trains cannot train on a base in these few bits."""
    for plugin in adapt or [Plugin(name="full")]:
        adapter = adapters.build(plugin.name, plugin.args)
        goes: bool | tuple[str, ...] = adapter.quantisable
        if isinstance(goes, tuple) and goes and quantize.name not in goes:
            raise LuthierError(
                f"`{plugin.name}` cannot train on a base in {quantize.name}, only in {' or '.join(goes)}",
                where=where,
                fix=f"set `quantize: {goes[0]}`",
            )
        if not goes:
            why = "the base's own weights train" if adapter.kind == "base" else "it needs the base's weights"
            raise LuthierError(
                f"`{plugin.name}` cannot train on a base in {quantize.name}: {why}, and those are codes of few bits "
                "then",
                where=where,
                fix="leave `quantize:` out, or take `adapt: lora`",
            )


# plug-ins
def plugin_keys(recipe: Recipe) -> list[tuple[Key, str, Plugin]]:
    """Every plug-in of the recipe: its key, the kind of its seam, and itself."""
    found: list[tuple[Key, str, Plugin]] = []

    def visit(value: Any, rest: tuple[Any, ...], key: Key, kind: str) -> None:
        if isinstance(value, Plugin):
            found.append((key, kind, value))
        elif isinstance(value, tuple):
            for index, item in enumerate(value):
                visit(item, rest, (*key, index), kind)
        elif rest and value is not None:
            visit(getattr(value, rest[0]), rest[1:], (*key, rest[0]), kind)

    for path, slot in every_slot():
        if slot.seam is not None:
            visit(recipe, path, (), slot.seam)
    return found


def _plugins(loaded: Loaded, seams: Seams) -> Recipe:
    recipe = loaded.recipe
    for key, kind, plugin in plugin_keys(recipe):
        if kind not in seams:
            continue
        try:
            built = seams[kind].build(plugin.name, plugin.args)
        except LuthierError as error:
            named = [arg for arg in plugin.args if repr(arg) in error.what]
            origin = loaded.nearest((*key, plugin.name, *named[:1]))
            known = plugin.name in seams[kind].names()
            fix = misspelt(plugin, seams[kind]) if known and key[0] == "reward" else None
            raise LuthierError(
                error.what, where=str(origin) if origin else dotted(key), fix=fix or error.fix
            ) from error
        args = {field.name: plain(getattr(built, field.name)) for field in dataclasses.fields(built) if field.init}
        recipe = _put(recipe, key, Plugin(name=plugin.name, args=args))
    return recipe


def misspelt(plugin: Plugin, scorers: Registry) -> str | None:
    """What may be meant by a key that a scorer has not, where it stands among its keys in an entry of `reward:`: there
    the entry's own are written, too. None where it has all."""
    known = [field.name for field in dataclasses.fields(scorers.get(plugin.name)) if field.init]
    wrong = next((key for key in plugin.args if key and key not in known), None)
    return None if wrong is None else suggest(wrong, [*known, *BESIDE])


def _put(value: Any, key: Key, new: Any) -> Any:
    """`value` with `new` at `key`, everything else as it was."""
    if not key:
        return new
    first, rest = key[0], key[1:]
    if isinstance(first, int):
        return (*value[:first], _put(value[first], rest, new), *value[first + 1 :])
    return replace(value, **{first: _put(getattr(value, first), rest, new)})


# the recipe as a tree of plain values
def plain(value: Any) -> Any:
    """Dataclasses, tuples and plug-ins as mappings and lists; what is None is left out."""
    if isinstance(value, Plugin):
        return {value.name: plain(value.args)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: plain(getattr(value, f.name))
            for f in dataclasses.fields(value)
            if getattr(value, f.name) is not None
        }
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return value


def tree(recipe: Recipe) -> dict[str, Any]:
    """The recipe as it would be written in YAML, in its long form."""
    return plain(recipe)


class _Dumper(yaml.SafeDumper):
    """Numbers as we read them: 2e-05 would be text to other YAML readers, 2.0e-05 is a number to all."""


def _float(dumper: yaml.SafeDumper, value: float) -> yaml.Node:
    text = repr(value)
    if "e" in text and "." not in text:
        text = text.replace("e", ".0e")
    return dumper.represent_scalar("tag:yaml.org,2002:float", text)


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    style = '"' if _reads_otherwise(value) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


def _reads_otherwise(value: str) -> bool:
    """Whether our reader would take the bare text for a number."""
    from luthier.recipe.document import parse_override

    try:
        return "=" not in value and not isinstance(parse_override(f"x={value}").node.value, str)
    except LuthierError:
        return False


_Dumper.add_representer(float, _float)
_Dumper.add_representer(str, _text)


def lock(recipe: Recipe) -> str:
    """The recipe in full as YAML: `luthier train` on this text runs the same again."""
    from luthier import __version__

    whole = located(recipe)
    head = (
        f"# Written by luthier {__version__}, every value resolved. `luthier train` on this file runs the same again.\n"
    )
    return head + yaml.dump(tree(whole), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def digest(recipe: Recipe) -> str:
    """A short name for what shapes the weights: the keys of `FREE` do not count, data paths do."""
    content = {key: value for key, value in flat(recipe).items() if not is_free(key)}
    if not recipe.reward:  # runs from before there was such a key go on
        del content["reward"]
    if not content.get("rollout.ahead"):
        content.pop("rollout.ahead", None)
    for key in ("mix", "rehearse"):
        if content.get(key, ...) is None:  # so do these
            del content[key]
    for key in [key for key, value in content.items() if value == [] and key.split(".")[-1] == "steps"]:
        del content[key]
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def is_free(key: str) -> bool:
    """Is it one of the keys that do not touch the weights?"""
    return any(key == free or key.startswith(free + ".") for free in FREE)


def flat(recipe: Recipe) -> dict[str, Any]:
    """Dotted key → value, for every value of the recipe, paths absolute."""
    return flattened(tree(located(recipe)))


def flattened(content: Any) -> dict[str, Any]:
    """Dotted key → value, for every value of a tree of plain ones."""
    found: dict[str, Any] = {}

    def visit(value: Any, key: Key) -> None:
        if isinstance(value, dict) and value:
            for name, item in value.items():
                visit(item, (*key, name))
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for index, item in enumerate(value):
                visit(item, (*key, index))
        else:
            found[dotted(key)] = value

    visit(content, ())
    return found
