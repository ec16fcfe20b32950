"""YAML and command-line overrides as a tree in which every value knows where it was written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from luthier.errors import LuthierError

Key = tuple[str | int, ...]
"""The way to a value: ("adapt", 0, "lora", "r")."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Who set a value, and where: recipe.yaml:7, an override on the command line, a default, or a derivation."""

    kind: Literal["file", "override", "default", "derived", "python"]
    where: str = ""

    def __str__(self) -> str:
        return {"file": self.where, "override": f"override {self.where}"}.get(self.kind, self.kind)


@dataclass(slots=True)
class Node:
    """A value with its origin: a mapping and a list hold further nodes."""

    value: Any
    origin: Origin

    def plain(self) -> Any:
        """The value without its origins."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def walk(self, key: Key = ()) -> Iterator[tuple[Key, Node]]:
        """This node and everything below it, with the key of each."""
        yield key, self
        items = self.value.items() if isinstance(self.value, dict) else ()
        for name, node in [*items, *(enumerate(self.value) if isinstance(self.value, list) else ())]:
            yield from node.walk((*key, name))


def dotted(key: Key) -> str:
    """("train", "lr") → "train.lr"."""
    return ".".join(str(part) for part in key)


NESTED = "nested too deeply to be read"
# YAML 1.2's core scalars: 1e-4 is a number (YAML 1.1 reads text), and no, on and 2024-01-01 are text.
_SCALARS: tuple[tuple[re.Pattern[str], Any], ...] = (
    (re.compile(r"|~|null|Null|NULL"), lambda text: None),
    (re.compile(r"true|True|TRUE"), lambda text: True),
    (re.compile(r"false|False|FALSE"), lambda text: False),
    (re.compile(r"[-+]?[0-9][0-9_]*"), lambda text: int(text)),
    (re.compile(r"0x[0-9a-fA-F]+"), lambda text: int(text, 16)),
    (re.compile(r"0o[0-7]+"), lambda text: int(text, 8)),
    (re.compile(r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?"), lambda text: float(text)),
    (re.compile(r"[-+]?\.(inf|Inf|INF)"), lambda text: float(text.replace(".", ""))),
    (re.compile(r"\.(nan|NaN|NAN)"), lambda text: float("nan")),
)


def _scalar(node: yaml.ScalarNode) -> Any:
    if node.style is None:
        for pattern, convert in _SCALARS:
            if pattern.fullmatch(node.value):
                try:
                    return convert(node.value)
                except ValueError:  # 1__0 and the like: text after all
                    return node.value
    return node.value


def _tree(node: yaml.Node, origin: Origin, file: str | None, above: tuple[int, ...] = ()) -> Node:
    """A composed YAML node as a tree. With `file`, origins are file:line; otherwise all are `origin`."""
    here = Origin("file", f"{file}:{node.start_mark.line + 1}") if file else origin
    if id(node) in above:
        raise LuthierError("an anchor that contains itself", where=str(here), fix="write the value out")
    if not node.tag.startswith("tag:yaml.org,2002:") or "python" in node.tag:
        raise LuthierError(f"the tag {node.tag!r} means nothing here", where=str(here), fix="write the plain value")
    above = (*above, id(node))
    if isinstance(node, yaml.ScalarNode):
        return Node(_scalar(node), here)
    if isinstance(node, yaml.SequenceNode):
        return Node([_tree(item, origin, file, above) for item in node.value], here)
    mapping: dict[str, Node] = {}
    for key_node, value_node in node.value:
        where = Origin("file", f"{file}:{key_node.start_mark.line + 1}") if file else origin
        if not isinstance(key_node, yaml.ScalarNode):
            raise LuthierError("a key must be a word", where=str(where), fix="write `word: value`")
        if key_node.value in mapping:
            first = mapping[key_node.value].origin
            raise LuthierError(
                f"the key {key_node.value!r} is given twice (first at {first})",
                where=str(where),
                fix="keep one of them",
            )
        child = _tree(value_node, origin, file, above)
        mapping[key_node.value] = Node(child.value, where)
    return Node(mapping, here)


def _fault(error: yaml.YAMLError, file: str | None) -> tuple[str, str | None]:
    """What PyYAML found wrong, in short, and where."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    context = getattr(error, "context", None)
    where = f"{file}:{mark.line + 1}" if file and mark is not None else file
    return f"not valid YAML: {problem}" + (f" ({context})" if context else ""), where


def parse(text: str, file: str) -> Node:
    """The tree of a YAML text; `file` names it in origins and errors. Raises LuthierError."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except RecursionError:
        raise LuthierError(NESTED, where=file, fix="look for brackets that are never closed") from None
    except yaml.YAMLError as error:
        what, where = _fault(error, file)
        tab = "a tab" in what or "\\t" in what
        fix = "indent with spaces, not tabs" if tab else "mend the file there; a text with : or # wants quotes"
        raise LuthierError(what, where=where, fix=fix) from error
    if node is None:
        raise LuthierError("the recipe is empty", where=file, fix="it needs at least `model:`, `data:` and `output:`")
    tree = _tree(node, Origin("file", file), file)
    if not isinstance(tree.value, dict):
        raise LuthierError("a recipe is a mapping of keys to values", where=file, fix="start with `model: …`")
    return tree


def read(path: Path) -> Node:
    """The tree of a YAML file. Raises LuthierError when it is missing, unreadable or not UTF-8."""
    import difflib

    if not path.exists():
        near = [str(file) for file in sorted(path.parent.glob("*.y*ml"))] if path.parent.is_dir() else []
        match = difflib.get_close_matches(str(path), near, n=1, cutoff=0.6)
        raise LuthierError(
            "no such recipe", where=str(path), fix=f"did you mean {match[0]}?" if match else "check the path"
        )
    if path.is_dir():
        inside = path / "recipe.lock.yaml"
        file = f"the recipe of the run in it is {inside}" if inside.is_file() else "give the path of its YAML file"
        raise LuthierError("this is a folder, not a recipe", where=str(path), fix=file)
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise LuthierError("not UTF-8 text", where=f"{path}:{line}", fix="save the file as UTF-8") from error
    return parse(text, str(path))


@dataclass(frozen=True, slots=True)
class Override:
    """`train.lr=1e-4` on the command line."""

    key: tuple[str, ...]
    node: Node
    text: str


def parse_override(text: str) -> Override:
    """Split `dotted.key=value`; the value is YAML (number, word, "quoted", [list], {mapping}). Raises LuthierError."""
    name, equals, value = text.partition("=")
    parts = tuple(name.strip().split("."))
    origin = Origin("override", text)
    if not equals or not all(parts):
        raise LuthierError(
            "an override is written key=value", where=str(origin), fix="for instance train.lr=1e-4, without spaces"
        )
    try:
        composed = yaml.compose(value, Loader=yaml.SafeLoader)
    except RecursionError:
        raise LuthierError(NESTED, where=str(origin), fix="look for brackets that are never closed") from None
    except yaml.YAMLError as error:
        raise LuthierError(_fault(error, None)[0], where=str(origin), fix="put the value in quotes") from error
    return Override(parts, Node(None, origin) if composed is None else _tree(composed, origin, None), text)
