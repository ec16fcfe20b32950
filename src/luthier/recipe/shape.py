"""The recipe's shape, read off the schema: which keys there are, what each holds, and its short and long forms.

Short forms (`adapt: lora`, `data: rows.jsonl`) are brought to one long form here, so that overrides, origins and
error messages speak of one shape: lists are lists, a source is {path: …}, a model {name: …}, a plug-in {name: {…}}.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator
from functools import cache
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from luthier.errors import LuthierError
from luthier.recipe import rollout, task
from luthier.recipe.document import Key, Node, Override, dotted
from luthier.recipe.schema import Model, Plugin, Recipe, Reference, Reward, Seam, Source, Task, Teacher, Why
from luthier.registry import suggest

PEERS = {
    "model_name_or_path": "model",
    "output_dir": "output",
    "dataset": "data",
    "datasets": "data",
    "stage": "objective",
    "finetuning_type": "adapt",
    "learning_rate": "train.lr",
    "num_train_epochs": "train.epochs",
    "num_epochs": "train.epochs",
    "max_steps": "train.steps",
    "per_device_train_batch_size": "train.batch (the whole batch of a step)",
    "gradient_accumulation_steps": "train.batch (the whole batch of a step)",
    "micro_batch_size": "train.micro_tokens (or leave it out)",
    "batch_size": "train.batch",
    "cutoff_len": "train.max_tokens",
    "max_length": "train.max_tokens",
    "max_seq_length": "train.max_tokens",
    "sequence_len": "train.max_tokens",
    "lr_scheduler_type": "train.schedule",
    "lr_scheduler": "train.schedule",
    "warmup_ratio": "train.warmup",
    "warmup_steps": "train.warmup",
    "max_grad_norm": "train.clip",
    "gradient_checkpointing": "train.checkpointing",
    "optim": "train.optimizer",
    "report_to": "train.trackers",
    "logging_steps": "train.log_every",
    "save_steps": "train.save_every",
    "val_size": "validate.share",
    "lora_rank": "adapt.lora.r",
    "lora_r": "adapt.lora.r",
    "lora_alpha": "adapt.lora.alpha",
    "num_generations": "rollout.n",
    "max_completion_length": "rollout.max_new_tokens",
    "num_iterations": "rollout.updates",
    "reward_funcs": "reward (a function of your own: `python: rewards.py:name`)",
    "reward_weights": "reward, with `weight` beside each scorer",
    "beta": "objective.NAME.kl or .beta: `luthier explain NAME` has the keys of an objective",
    "epsilon": "objective.NAME.clip_low and clip_high",
    "epsilon_high": "objective.NAME.clip_high",
    "use_vllm": "rollout.engine: vllm",
}
"""What other tools call our keys: named in the message for an unknown key."""


@dataclasses.dataclass(frozen=True)
class Slot:
    """One key of one mapping of the recipe."""

    name: str
    hint: Any
    """Its type without Annotated."""
    required: bool
    default: Any
    why: str | None
    seam: str | None
    """The kind of plug-in it names, if it does."""


@cache
def slots(cls: type) -> dict[str, Slot]:
    """The keys of a recipe dataclass."""
    plain, rich = get_type_hints(cls), get_type_hints(cls, include_extras=True)
    found = {}
    for field in dataclasses.fields(cls):
        said = list(notes(rich[field.name]))
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        default = _unwrap(default)
        found[field.name] = Slot(
            name=field.name,
            hint=_given(plain[field.name]),
            required=default is dataclasses.MISSING,
            default=default,
            why=next((note.text for note in said if isinstance(note, Why)), None),
            seam=next((note.kind for note in said if isinstance(note, Seam)), None),
        )
    return found


def _given(hint: Any) -> Any:
    """A plug-in or a mapping that may be left out is one where it is given."""
    parts = [part for part in get_args(hint) if part is not type(None)]
    optional = get_origin(hint) in (Union, UnionType) and len(parts) == 1 and dataclasses.is_dataclass(parts[0])
    return parts[0] if optional else hint


def notes(hint: Any) -> Iterator[Any]:
    """What stands beside a type in Annotated, at any depth."""
    if get_origin(hint) is Annotated:
        inner, *beside = get_args(hint)
        yield from beside
        yield from notes(inner)
    elif get_origin(hint) in (Union, UnionType):
        for part in get_args(hint):
            yield from notes(part)


def _unwrap(default: Any) -> Any:
    """pydantic wraps `Field(default_factory=…)` in a FieldInfo; the default itself is wanted."""
    from pydantic.fields import FieldInfo

    if not isinstance(default, FieldInfo):
        return default
    if default.is_required():
        return dataclasses.MISSING
    return default.get_default(call_default_factory=True, validated_data={})


def _item(hint: Any) -> Any:
    """tuple[X, …] → X; anything else → None."""
    return get_args(hint)[0] if get_origin(hint) is tuple else None


def normal(node: Node, hint: Any, key: Key = (), *, whole: bool = True) -> Node:
    """`node` in its long form. Raises LuthierError at an unknown key and, where it is to be `whole`, a missing one."""
    item = _item(hint)
    if item is not None:
        if node.value is None:
            return Node([], node.origin)
        listed = node.value if isinstance(node.value, list) else [Node(node.value, node.origin)]
        items = [normal(child, item, (*key, index), whole=whole) for index, child in enumerate(listed)]
        return Node(items, node.origin)
    if hint is Plugin:
        return _plugin(node, key)
    if hint is Reward:
        node = _reward(node, key)
    if hint is Task:
        node = _task(node)
    if hint is Source and isinstance(node.value, str):
        node = Node({"path": Node(node.value, node.origin)}, node.origin)
    if hint is Teacher:
        node = _teacher(node)
    if hint in (Reference, Teacher) and isinstance(node.value, str):
        node = Node({"model": Node(node.value, node.origin)}, node.origin)
    if hint is Model and isinstance(node.value, str):
        node = Node({"name": Node(node.value, node.origin)}, node.origin)
    if not dataclasses.is_dataclass(hint):
        return node
    if node.value is None:
        node = Node({}, node.origin)
    if not isinstance(node.value, dict):
        named = f"{dotted(key)} must be a mapping of keys to values, got {node.plain()!r}"
        raise LuthierError(named, where=str(node.origin), fix=f"its keys: {', '.join(slots(hint))}")  # type: ignore[arg-type]
    return _mapping(node, hint, key, whole)  # type: ignore[arg-type]


def _plugin(node: Node, key: Key) -> Node:
    if isinstance(node.value, str):
        return Node({node.value: Node({}, node.origin)}, node.origin)
    if isinstance(node.value, dict) and len(node.value) == 1:
        name, args = next(iter(node.value.items()))
        if args.value is None:
            return Node({name: Node({}, args.origin)}, node.origin)
        if isinstance(args.value, dict):
            return node
        if isinstance(args.value, str | bool | int | float):  # the value of the plug-in's first key
            return Node({name: Node({"": args}, args.origin)}, node.origin)
        what = f"the keys of {dotted((*key, name))} must be a mapping, got {args.plain()!r}"
        raise LuthierError(what, where=str(args.origin), fix=f"write {{{name}: {{key: value}}}}")
    what = f"{dotted(key)} must name one plug-in"
    if isinstance(node.value, dict) and node.value:
        what += f", not {len(node.value)} ({', '.join(node.value)})"
    raise LuthierError(what, where=str(node.origin), fix="write `name` or `{name: {key: value}}`")


def _reward(node: Node, key: Key) -> Node:
    """An entry of `reward:` with its scorer under a key of its own. Raises LuthierError at a key beside the scorer's
    name that is none of an entry's."""
    if isinstance(node.value, str):
        return Node({"scorer": node}, node.origin)
    name = rollout.named(node.value) if isinstance(node.value, dict) else None
    if name is None:
        return node
    args = node.value[name]
    found = rollout.parted(node.value, args.value)
    if found is None:
        named = {other: child for other, child in node.value.items() if other not in rollout.BESIDE}
        for other, child in named.items():
            if difflib.get_close_matches(other, rollout.BESIDE, n=1, cutoff=0.6):
                raise LuthierError(
                    f"unknown key {dotted((*key, other))!r}",
                    where=str(child.origin),
                    fix=suggest(other, list(rollout.BESIDE)),
                )
        raise LuthierError(
            f"{dotted(key)} names {len(named)} scorers ({', '.join(named)}), and an entry is one",
            where=str(node.origin),
            fix=f"write a list: reward: [{', '.join(f'{{{other}: …}}' for other in named)}]",
        )
    own, inner = found
    scorer = Node({name: Node(inner, args.origin)}, node.origin)
    return Node({"scorer": scorer, **own}, node.origin)


def _task(node: Node) -> Node:
    """An entry of `evaluate:` with its benchmark, if it is one, under a key of its own."""
    if isinstance(node.value, str):
        return Node({"benchmark": node}, node.origin)
    name = task.named(node.value) if isinstance(node.value, dict) else None
    if name is None:
        return node
    args = node.value[name]
    own, inner = task.parted(node.value, name, args.value)
    inner = {"tasks": args} if isinstance(inner, list) else inner
    return Node({"benchmark": Node({name: Node(inner, args.origin)}, node.origin), **own}, node.origin)


def _teacher(node: Node) -> Node:
    """A teacher whose model's own keys stand beside those of the teacher, with the model under a key of its own."""
    if not isinstance(node.value, dict) or "name" not in node.value or "model" in node.value:
        return node
    model = {name: child for name, child in node.value.items() if name in slots(Model)}
    rest = {name: child for name, child in node.value.items() if name not in model}
    return Node({"model": Node(model, node.origin), **rest}, node.origin)


def _mapping(node: Node, cls: type, key: Key, whole: bool) -> Node:
    known = slots(cls)
    for name, child in node.value.items():
        if name not in known:
            raise LuthierError(
                f"unknown key {dotted((*key, name))!r}", where=str(child.origin), fix=_nearest(name, key, list(known))
            )
    missing = [slot.name for slot in known.values() if slot.required and slot.name not in node.value]
    if missing and whole:
        names = " and ".join(repr(dotted((*key, name))) for name in missing)
        raise LuthierError(
            f"{names} {'is' if len(missing) == 1 else 'are'} missing",
            where=str(node.origin),
            fix=f"write `{missing[0]}: …`" + (f"; docs/recipes.md says what {dotted(key)} takes" if key else ""),
        )
    return Node(
        {
            name: child
            if child.value is None and dataclasses.is_dataclass(known[name].hint) and known[name].default is None
            else normal(child, known[name].hint, (*key, name), whole=whole)
            for name, child in node.value.items()
        },
        node.origin,
    )


def _nearest(name: str, key: Key, known: list[str]) -> str:
    """What the writer of an unknown key may have meant."""
    if name in PEERS:
        return f"here it is called {PEERS[name]}"
    if difflib.get_close_matches(name, known, n=1, cutoff=0.75):
        return suggest(name, known)
    for path, slot in every_slot():
        if slot.name == name and path[:-1] != key:
            return f"{name!r} belongs under {dotted(path[:-1]) or 'the top level'}"
    return suggest(name, known)


def every_slot(cls: type = Recipe, key: Key = ()) -> Iterator[tuple[Key, Slot]]:
    """Every key of the recipe, depth first, lists taken at their item."""
    for slot in slots(cls).values():
        path = (*key, slot.name)
        yield path, slot
        hint = _item(slot.hint) or slot.hint
        if dataclasses.is_dataclass(hint) and hint is not Plugin:
            yield from every_slot(hint, path)  # type: ignore[arg-type]


def apply(tree: Node, override: Override, root: Any = Recipe) -> Node:
    """`tree`, which has the shape of `root`, with one override set. `tree` stays as it was."""
    try:
        return _set(tree, root, override.key, override, ())
    except LuthierError as error:
        if error.where == str(override.node.origin):
            raise
        raise LuthierError(error.what, where=str(override.node.origin), fix=error.fix) from error


def _set(node: Node | None, hint: Any, rest: tuple[str, ...], override: Override, key: Key) -> Node:
    """The node that stands at `key` once the value has been set `rest` below it."""
    origin = override.node.origin
    if not rest:
        return override.node
    part, below = rest[0], rest[1:]
    item = _item(hint)
    if item is not None:
        items = [] if node is None else list(normal(node, hint, key, whole=False).value)  # more may be set yet
        index = _index(items, part, item, key, origin)
        deeper = rest if not part.isdigit() else below
        child = items[index] if index < len(items) else None
        items[index : index + 1] = [_set(child, item, deeper, override, (*key, index))]
        return Node(items, node.origin if node else origin)
    known = slots(hint) if dataclasses.is_dataclass(hint) and hint is not Plugin else None  # type: ignore[arg-type]
    if hint is Task:  # a benchmark's own keys, by its name
        node = None if node is None else _task(node)
        benchmark = node.value.get("benchmark") if node is not None and isinstance(node.value, dict) else None
        if benchmark is not None and part not in slots(Task) and part in _named(benchmark):
            part, below = "benchmark", rest
    if known is not None and part not in known:
        raise LuthierError(
            f"unknown key {dotted((*key, part))!r}", where=str(origin), fix=_nearest(part, key, list(known))
        )
    if node is not None and not isinstance(node.value, dict):
        node = normal(node, hint, key, whole=False) if known or hint is Plugin else None
    mapping = {} if node is None or not isinstance(node.value, dict) else dict(node.value)
    if hint is Plugin and part not in mapping:
        mapping = {}  # a key of another plug-in switches to it
    elif hint is Plugin and below and isinstance(mapping[part].value, str | bool | int | float):
        mapping = {part: Node({"": mapping[part]}, mapping[part].origin)}  # a bare value stays beside a further key
    child_hint = known[part].hint if known is not None else Any
    mapping[part] = _set(mapping.get(part), child_hint, below, override, (*key, part))
    return Node(mapping, node.origin if node else origin)


def _named(plugin: Node) -> list[str]:
    """The name of a plug-in as it stands in a recipe, in its short or its long form."""
    return [plugin.value] if isinstance(plugin.value, str) else list(plugin.value or ())


def _index(items: list[Node], part: str, item: Any, key: Key, origin: Any) -> int:
    """Which entry of a list an override means: by number, by a plug-in's name, or the only one there is."""
    if part.isdigit():
        if int(part) > len(items):
            have = f"it has {len(items)} entries" if items else "it has no entries"
            raise LuthierError(
                f"{dotted(key)} has no entry {part}: {have}, counted from 0",
                where=str(origin),
                fix=f"{len(items)} would add one" if items else "0 would add one",
            )
        return int(part)
    if item is Plugin:
        named = [index for index, node in enumerate(items) if part in node.value]
        return named[0] if len(named) == 1 else len(items)
    if item is Task and len(items) > 1:
        named = [
            i for i, node in enumerate(items) if "benchmark" in node.value and part in _named(node.value["benchmark"])
        ]
        if len(named) == 1:
            return named[0]
    if len(items) > 1:
        raise LuthierError(
            f"{dotted(key)} has {len(items)} entries: say which one",
            where=str(origin),
            fix=f"for instance {dotted(key)}.0.{part}=…",
        )
    return 0
