"""From a pipeline's YAML to its stages: references followed, rounds written out, all checked before any begins."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

from luthier.errors import LuthierError
from luthier.recipe import Recipe, document, former, models_located, places, resolve, shape
from luthier.recipe.document import Node, Override, dotted
from luthier.recipe.generation import built
from luthier.recipe.load import built as recipe_of
from luthier.recipe.resolve import misspelt, plain
from luthier.recipe.schema import Model, Plugin, Source
from luthier.recipe.shape import slots
from luthier.registry import suggest
from luthier.scorers.judges.constitution import SHIPPED, constitution
from luthier.scorers.judges.revising import must_have
from luthier.workflow.pipeline.keys import Answering, Revising, Selection
from luthier.workflow.pipeline.stages import Choosing, Rewriting, Stage
from luthier.workflow.registries import REGISTRIES

NAME = re.compile(r"[A-Za-z_][\w-]*")
REFERENCE = re.compile(r"\$([A-Za-z_][\w-]*)((?:/.*)?)")
KINDS = ("train", "generate", "revise", "select")
TOP = ("output", "stages")
BLOCK = ("repeat", "start", "stages")
ROUNDS = 1000
"""The most rounds of a block: more are a slip."""


@dataclass(frozen=True)
class Pipeline:
    """A pipeline, whole. `told`: what is to be said of how it is written."""

    path: Path
    output: Path
    stages: tuple[Stage, ...]
    told: tuple[str, ...] = ()


def read(path: str | Path, overrides: Sequence[str] = ()) -> Pipeline:
    """The stages of a file, in order. Raises LuthierError at whatever is wrong with any of them."""
    path = Path(path)
    tree = document.read(path)
    settings: dict[tuple[str, ...], list[Override]] = {}
    for text in overrides:
        tree = _set(tree, document.parse_override(text), settings)
    _known(tree, TOP, "a pipeline")
    for key in TOP:
        if key not in tree.value:
            _refuse(f"{key!r} is missing", tree, "a pipeline has `output:` and `stages:`")
    output = tree.value["output"]
    if not isinstance(output.value, str):
        _refuse("'output' must be a folder", output, "for instance `output: runs/raft`")
    reader = _Reader(path, Path(output.value).expanduser().resolve(), settings)
    reader.block(_mapping(tree.value["stages"], "stages"), (), {})
    return Pipeline(path, reader.output, tuple(reader.stages), tuple(dict.fromkeys(reader.told)))


# what stands in the file
def _refuse(what: str, node: Node, fix: str) -> NoReturn:
    raise LuthierError(what, where=str(node.origin), fix=fix)


def _mapping(node: Node, name: str) -> dict[str, Node]:
    if not isinstance(node.value, dict) or not node.value:
        _refuse(f"{name!r} must be a mapping of names to stages", node, "write `name:` and the keys of the stage below")
    found: dict[str, Node] = node.value
    return found


def _known(node: Node, keys: Sequence[str], what: str) -> None:
    for key, child in node.value.items():
        if key not in keys:
            _refuse(f"{what} has no key {key!r}", child, suggest(key, list(keys)))


def _set(tree: Node, item: Override, settings: dict[tuple[str, ...], list[Override]]) -> Node:
    """The tree with an override that decides what stages there are; one for the keys of a stage goes to `settings`."""
    if item.key == ("output",):
        return Node({**tree.value, "output": item.node}, tree.origin)
    if item.key[0] != "stages" or "stages" not in tree.value:
        _refuse(f"unknown key {dotted(item.key)!r}", item.node, "for instance stages.sft.train.lr=1e-4, or output=…")
    return Node({**tree.value, "stages": _below(tree.value["stages"], item, item.key[1:], (), settings)}, tree.origin)


def _below(
    node: Node,
    item: Override,
    rest: tuple[str, ...],
    above: tuple[str, ...],
    settings: dict[tuple[str, ...], list[Override]],
) -> Node:
    stages = _mapping(node, "stages")
    if len(rest) < 2 or rest[0] not in stages:
        fix = suggest(rest[0], list(stages)) if rest and rest[0] not in stages else "name a key of the stage"
        _refuse(f"no stage's key: {dotted(item.key)!r}", item.node, fix)
    name, key = rest[0], rest[1:]
    stage = stages[name]
    inner = stage.value if isinstance(stage.value, dict) else {}
    if "stages" in inner and key[0] == "stages":
        inner = {**inner, "stages": _below(inner["stages"], item, key[1:], (*above, name), settings)}
    elif "stages" in inner and key[0] == "start" and len(key) == 2:
        start = inner["start"].value if "start" in inner and isinstance(inner["start"].value, dict) else {}
        inner = {**inner, "start": Node({**start, key[1]: item.node}, item.node.origin)}
    elif len(key) == 1 and key[0] in ("repeat", "kind", "recipe"):
        inner = {**inner, key[0]: item.node}
    else:
        settings.setdefault((*above, name), []).append(replace(item, key=key))
        return node
    return Node({**stages, name: Node(inner, stage.origin)}, node.origin)


# what it comes to
@dataclass(frozen=True)
class _Made:
    """What a name stands for: a stage that was read, or what a block begins with."""

    place: str
    folder: str
    stage: str | None
    answers: bool = False


@dataclass
class _Reader:
    path: Path
    output: Path
    settings: Mapping[tuple[str, ...], list[Override]]
    stages: list[Stage] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    _names: dict[str, str] = field(default_factory=dict)
    """Every name, and where it was given: `$name` must mean one thing."""
    _round: str = ""
    """Which one is read, in words; empty outside of blocks."""

    def block(self, given: Mapping[str, Node], above: tuple[str, ...], known: dict[str, _Made]) -> dict[str, _Made]:
        """Read stages in their order; what their names stand for, `known` included."""
        for name, node in given.items():
            if not NAME.fullmatch(name):
                _refuse(f"{name!r} is no name of a stage", node, "take letters, digits, - and _, a letter first")
            if self._names.setdefault(name, str(node.origin)) != str(node.origin):
                _refuse(f"two stages are called {name!r}", node, f"the other one is at {self._names[name]}")
            if node.value is not None and not isinstance(node.value, dict):
                _refuse(f"the stage {name!r} must be a mapping of keys to values", node, "see docs/pipelines.md")
            if isinstance(node.value, dict) and "stages" in node.value:
                if above:
                    _refuse(f"{name!r} is a block within a block", node, "rounds within rounds are not there")
                known = self._rounds(name, node, known)
            else:
                stage = self._stage((*above, name), name, Node(node.value or {}, node.origin), known)
                self.stages.append(stage)
                known = {**known, name: _Made(str(stage.made), str(stage.folder), stage.name, stage.kind == "generate")}
        return known

    def _rounds(self, name: str, node: Node, known: dict[str, _Made]) -> dict[str, _Made]:
        _known(node, BLOCK, f"the block {name!r}")
        inner = _mapping(node.value["stages"], f"{name}.stages")
        repeat = node.value.get("repeat", Node(1, node.origin))
        count = repeat.value
        if not isinstance(count, int) or isinstance(count, bool) or not 0 < count <= ROUNDS:
            _refuse(f"{name}.repeat must be a whole number from 1 to {ROUNDS:,}", repeat, "for instance `repeat: 3`")
        start = node.value.get("start", Node({}, node.origin))
        for key, child in (start.value or {}).items():
            if key not in inner:
                _refuse(f"{name}.start names no stage of the block: {key!r}", child, suggest(key, list(inner)))
            at_first, after = self._followed(child, known)
            known = {**known, key: _Made(str(at_first.value), str(at_first.value), next(iter(after), None))}
        for number in range(1, count + 1):
            self._round = f"{name} {number} of {count}, "
            known = self.block(inner, (name, str(number)), known)
        self._round = ""
        return known

    def _followed(self, node: Node, known: Mapping[str, _Made]) -> tuple[Node, frozenset[str]]:
        """The tree with `$name` replaced by what it stands for, and which stages that are."""
        after: set[str] = set()

        def walk(one: Node) -> Node:
            if isinstance(one.value, dict):
                return Node({key: walk(child) for key, child in one.value.items()}, one.origin)
            if isinstance(one.value, list):
                return Node([walk(child) for child in one.value], one.origin)
            if not isinstance(one.value, str):
                return one
            if one.value.startswith("$$") and REFERENCE.fullmatch(one.value[1:]):
                return Node(one.value[1:], one.origin)
            match = REFERENCE.fullmatch(one.value)
            if match is None:
                return one
            made = known.get(match[1])
            if made is None:
                self._unknown(match[1], one, known)
            if made.stage is not None:
                after.add(made.stage)
            return Node(made.folder + match[2] if match[2] else made.place, one.origin)

        return walk(node), frozenset(after)

    def _unknown(self, name: str, node: Node, known: Mapping[str, _Made]) -> NoReturn:
        if name in self._names or self._round:
            fix = f"name an earlier stage; in a block that repeats, say what it is at first: `start: {{{name}: …}}`"
            _refuse(f"`${name}` stands for nothing yet: no stage of that name comes before", node, fix)
        fix = suggest(name, list(known)) if known else "it is the first stage"
        _refuse(f"no earlier stage is called {name!r}", node, f"{fix}; a text that begins so is written `$${name}`")

    def _stage(self, place: tuple[str, ...], name: str, node: Node, known: Mapping[str, _Made]) -> Stage:
        folder = self.output.joinpath(*place)
        kind = node.value.get("kind", Node("train", node.origin))
        if kind.value not in KINDS:
            _refuse(f"no kind of stage: {kind.value!r}", kind, f"{suggest(str(kind.value), list(KINDS))}")
        if "output" in node.value:
            _refuse("a stage has its folder below the pipeline's", node.value["output"], "leave `output` out")
        body, after = self._followed(Node({k: v for k, v in node.value.items() if k != "kind"}, node.origin), known)
        chosen = []
        for item in self.settings.get(tuple(part for part in place if not part.isdigit()), ()):
            value, more = self._followed(item.node, known)
            chosen.append(replace(item, node=value))
            after |= more
        try:
            if kind.value == "train":
                work: Recipe | Answering | Rewriting | Choosing = self._train(body, chosen, folder, known)
            else:
                makers: dict[str, Callable[[Node, list[Override]], Answering | Rewriting | Choosing]] = {
                    "generate": self._generate,
                    "revise": self._revise,
                    "select": self._select,
                }
                work = makers[kind.value](body, chosen)
        except LuthierError as error:
            if error.where:
                raise
            raise LuthierError(error.what, where=str(node.origin), fix=error.fix) from error
        label = f"{self._round}{name}"
        return Stage("/".join(place), label, folder, work, after)

    def _train(self, node: Node, chosen: list[Override], folder: Path, known: Mapping[str, _Made]) -> Recipe:
        own = Node({k: v for k, v in node.value.items() if k != "recipe"}, node.origin)
        own = shape.normal(former.current(own, self.told), Recipe, whole=False)
        if "recipe" in node.value:
            own = _merged(self._recipe(node.value["recipe"]), own)
        own = Node({**own.value, "output": Node(str(folder), node.origin)}, node.origin)
        loaded = recipe_of(own, chosen, self.path, REGISTRIES)
        self.told += loaded.renamed
        recipe = models_located(resolve(loaded, REGISTRIES).recipe)
        if Path(recipe.output) != folder:
            raise LuthierError("a stage has its folder below the pipeline's", where=folder.name, fix="leave it out")
        for source in (*recipe.data, *recipe.validate.data):
            if any(made.answers and source.path == made.place for made in known.values()):
                what = "answers are no rows to learn from: nobody has said which are good"
                _refuse(what, node, "put a stage of kind `select` between, and name that")
        return recipe

    def _recipe(self, node: Node) -> Node:
        """The recipe of a file, its own files found beside it."""
        if not isinstance(node.value, str):
            _refuse(
                "`recipe` must be the path of a recipe's YAML file", node, "other keys of the stage stand beside it"
            )
        path = Path(self._near(node.value))
        tree = shape.normal(former.current(document.read(path), self.told), Recipe, whole=False)
        places.find(tree, path.parent)
        return tree

    def _near(self, given: str) -> str:
        """A path, looked for beside the pipeline's file too."""
        beside = self.path.parent / given
        here = Path(given).expanduser()
        return str(beside) if not here.exists() and not here.is_absolute() and beside.exists() else str(here)

    def _generate(self, node: Node, chosen: list[Override]) -> Answering:
        keys = built(node, chosen, Answering, self.path.parent)
        REGISTRIES["engine"].build(keys.engine.name, keys.engine.args)  # its keys are told before anything begins
        return replace(keys, model=self._model(keys.model))

    def _model(self, given: str) -> str:
        model = self._near(given)
        return places.absolute(model) if places.is_place(model) else given

    def _revise(self, node: Node, chosen: list[Override]) -> Rewriting:
        keys = built(node, chosen, Revising, self.path.parent)
        REGISTRIES["engine"].build(keys.engine.name, keys.engine.args)
        keys = replace(keys, model=self._model(keys.model))
        if keys.constitution not in SHIPPED:
            keys = replace(keys, constitution=places.absolute(self._near(keys.constitution)))
        must_have(constitution(keys.constitution), keys.rounds)
        if keys.answers is None:
            if not keys.data:
                _refuse("nothing says what is to be revised", node, "set `data:` (prompts, or rows with answers)")
            return Rewriting(keys, keys.model)
        answers, data, asked = self._answered(keys.answers, keys.data, node)
        return Rewriting(replace(keys, answers=answers, data=data), keys.model if asked is None else asked.model)

    def _answered(
        self, given: str, data: tuple[Source, ...], node: Node
    ) -> tuple[str, tuple[Source, ...], Answering | None]:
        """A file of answers, the prompts that they answer, and the stage that asked them if it was one."""
        answers = places.absolute(self._near(given))
        by = next((stage for stage in self.stages if str(stage.made) == answers), None)
        asked = by.work if by is not None and isinstance(by.work, Answering) else None
        if by is not None and asked is None:
            what = f"`answers` names the stage {by.label!r}, which has answered nothing"
            _refuse(what, node.value.get("answers", node), "name a stage of kind `generate`")
        data = data or (asked.data if asked is not None else ())
        if not data:
            _refuse("nothing says which prompts were answered", node, "set `data:` as when they were")
        return answers, data, asked

    def _select(self, node: Node, chosen: list[Override]) -> Choosing:
        keys = built(node, chosen, Selection, self.path.parent)
        answers, data, asked = self._answered(keys.answers, keys.data, node)
        reward = tuple(replace(one, scorer=_whole(one.scorer)) for one in keys.reward)
        keys = replace(keys, answers=answers, data=data, reward=reward)
        return Choosing(keys, None if asked is None else asked.model)


def _whole(scorer: Plugin) -> Plugin:
    """The scorer with all its keys. Raises LuthierError where one is wrong."""
    try:
        made = REGISTRIES["scorer"].build(scorer.name, scorer.args)
    except LuthierError as error:
        known = scorer.name in REGISTRIES["scorer"].names()
        fix = misspelt(scorer, REGISTRIES["scorer"]) if known else None
        raise LuthierError(error.what, where=error.where, fix=fix or error.fix) from error
    return replace(scorer, args={f.name: plain(getattr(made, f.name)) for f in dataclasses.fields(made) if f.init})


def _merged(base: Node, own: Node) -> Node:
    """A recipe with a stage's own keys in place of its: those of `train:`, `rollout:` and the like one by one."""
    known, found = slots(Recipe), dict(base.value)
    for name, child in own.value.items():
        hint = known[name].hint
        joins = dataclasses.is_dataclass(hint) and hint not in (Plugin, Model)
        old = found.get(name)
        if joins and old is not None and isinstance(old.value, dict) and isinstance(child.value, dict):
            child = Node({**old.value, **child.value}, child.origin)
        found[name] = child
    return Node(found, own.origin)
