"""The recipe described: `luthier explain`, the JSON schema for editors, and the rows of the generated tables."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator
from functools import cache
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter

from luthier.recipe.document import Key, Origin, dotted
from luthier.recipe.load import Loaded, Seams
from luthier.recipe.resolve import plain, resolve
from luthier.recipe.schema import (
    Follow,
    Model,
    Plugin,
    Recipe,
    Reference,
    Reward,
    Rollout,
    Source,
    Task,
    Teacher,
    Train,
    Validate,
    Why,
)
from luthier.recipe.shape import Slot, every_slot, notes, slots
from luthier.recipe.tokens import TokenCleaning

if TYPE_CHECKING:
    from rich.table import Table


@cache
def docs(cls: type) -> dict[str, str]:
    """Field → the docstring that stands below it, base classes included."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        except (OSError, TypeError):  # a class made at run time has no source, hence no docs
            continue
        if not isinstance(body, ast.ClassDef):
            continue
        for field, below in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
                and isinstance(below.value.value, str)
            ):
                found[field.target.id] = inspect.cleandoc(below.value.value)
    return found


def plugin_fields(cls: type) -> list[dataclasses.Field[Any]]:
    """The YAML keys of a plug-in."""
    return [field for field in dataclasses.fields(cls) if field.init]


def why_of(cls: type, field: str) -> str:
    """The `Why` beside a plug-in's field; empty if there is none."""
    return next((note.text for note in notes(_hints(cls)[field]) if isinstance(note, Why)), "")


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


def default_of(field: dataclasses.Field[Any]) -> Any:
    """A plug-in field's default; dataclasses.MISSING if the key is required."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


# explain
@dataclasses.dataclass(frozen=True)
class Line:
    """One resolved value: what it is, who set it and why."""

    key: str
    value: Any
    origin: Origin
    why: str = ""


def lines(loaded: Loaded, seams: Seams | None = None) -> list[Line]:
    """Every resolved value of the recipe in the order of the schema. Raises LuthierError as `resolve` does."""
    resolved = resolve(loaded, seams)
    whys = {path: slot.why or "" for path, slot in every_slot()}
    found: list[Line] = []

    def add(key: Key, value: Any, why: str, written: Key | None = None) -> None:
        written = written or key
        origin = loaded.origins.get(written)
        if origin is not None and origin.kind != "python":
            found.append(Line(dotted(key), value, origin, loaded.notes.get(written, "")))
        elif key in resolved.reasons:
            found.append(Line(dotted(key), value, Origin("derived"), resolved.reasons[key]))
        else:
            found.append(Line(dotted(key), value, origin or Origin("default"), why))

    def visit(value: Any, key: Key, path: Key) -> None:
        if isinstance(value, Plugin):
            add(key if (*key, value.name) not in loaded.origins else (*key, value.name), value.name, whys.get(path, ""))
            found[-1] = dataclasses.replace(found[-1], key=dotted(key))
            for name, item in value.args.items():
                if item is not None:
                    written = _written(loaded, (*key, value.name), _class(seams, path, value.name), name)
                    add((*key, value.name, name), item, _first(seams, path, value.name, name), written)
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            for field in dataclasses.fields(value):
                visit(getattr(value, field.name), (*key, field.name), (*path, field.name))
        elif isinstance(value, tuple) and value and (dataclasses.is_dataclass(value[0])):
            for index, item in enumerate(value):
                visit(item, (*key, index), path)
        elif key in loaded.origins or (value is not None and value != {} and value != ()):
            add(key, plain(value), whys.get(path, ""))

    visit(resolved.recipe, (), ())
    return found


def _first(seams: Seams | None, path: Key, name: str, field: str) -> str:
    """Why a plug-in's default is what it is; else the first line of what the key does."""
    cls = _class(seams, path, name)
    return "" if cls is None else why_of(cls, field) or docs(cls).get(field, "").split("\n")[0]


def _class(seams: Seams | None, path: Key, name: str) -> type | None:
    """The plug-in's class, where its kind is known."""
    kind = next((slot.seam for slot_path, slot in every_slot() if slot_path == path), None)
    return None if not seams or kind is None or kind not in seams else seams[kind].get(name)


def _written(loaded: Loaded, key: Key, cls: type | None, field: str) -> Key:
    """Where the recipe has this key of the plug-in at `key`: under its name, as the bare value that stands for the
    first key (`dpo: 0.2`), or as keys that this one takes in (`peft: {peft_type: …, r: 8}`)."""
    own = (*key, field)
    if own in loaded.origins or cls is None:
        return own
    known = [entry.name for entry in plugin_fields(cls)]
    if field == known[0] and (*key, "") in loaded.origins:
        return (*key, "")
    if field == getattr(cls, "rest", None):
        inside = (written for written in loaded.origins if written[:-1] == key and written[-1] not in known)
        return next(inside, own)
    return own


def explain(loaded: Loaded, seams: Seams | None = None) -> Table:
    """A table of every resolved value with where it came from: you, a default and why, or derived and from what."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("key", "value", "from", "why"):
        table.add_column(heading, overflow="fold")  # a key or a path that is cut says nothing
    styles = {"file": "green", "override": "green", "python": "green", "derived": "yellow", "default": "dim"}
    for line in lines(loaded, seams):
        origin = "command line" if line.origin.kind == "override" else str(line.origin)
        style = styles[line.origin.kind]
        table.add_row(escape(line.key), escape(show(line.value)), f"[{style}]{escape(origin)}[/]", escape(line.why))
    return table


def show(value: Any) -> str:
    """A value as YAML would have it, on one line."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, list | tuple):
        return "[" + ", ".join(show(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {show(item)}" for key, item in value.items()) + "}"
    return f"{value:g}" if isinstance(value, float) else str(value)


# types in words
def type_words(hint: Any) -> str:
    """A type as the tables show it: `number`, `whole number`, `text`, `a | b`, `list of …`."""
    names = {
        int: "whole number",
        float: "number",
        str: "text",
        bool: "true or false",
        NoneType: "null",
        Any: "anything",
    }
    if hint in names:
        return names[hint]
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " | ".join(str(arg) for arg in args)
    if origin in (Union, UnionType):
        return " | ".join(type_words(arg) for arg in args if arg is not NoneType)
    if origin in (tuple, list, frozenset, set):
        return f"list of {type_words(args[0])}"
    if origin is dict:
        return f"mapping of {type_words(args[0])} to {type_words(args[1])}"
    if origin is not None and args:  # Annotated
        return type_words(args[0])
    words = {
        Plugin: "plug-in",
        Source: "source",
        Task: "task",
        Model: "text or mapping",
        Train: "mapping",
        Validate: "mapping",
        Reference: "text or mapping",
        Teacher: "text or mapping",
        Rollout: "mapping",
        Follow: "mapping",
        TokenCleaning: "mapping",
        Reward: "scorer",
    }
    return words.get(hint) or str(getattr(hint, "__name__", hint))


@dataclasses.dataclass(frozen=True)
class Entry:
    """A line of a generated table of keys."""

    key: str
    type: str
    default: str
    doc: str
    why: str = ""


def entries(cls: type) -> list[Entry]:
    """The keys of one recipe dataclass."""
    found = []
    for slot in slots(cls).values():
        found.append(
            Entry(slot.name, type_words(slot.hint), _default(slot), docs(cls).get(slot.name, ""), slot.why or "")
        )
    return found


def _default(slot: Slot) -> str:
    if slot.required:
        return "required"
    if (
        slot.default is None
        or slot.default in ((), {})
        or (dataclasses.is_dataclass(slot.hint) and slot.hint is not Plugin)
    ):
        return ""
    value = plain(slot.default)
    if slot.seam is not None:
        names = [next(iter(item)) for item in (value if isinstance(value, list) else [value])]
        return ", ".join(names)
    return show(value)


def plugin_entries(cls: type) -> list[Entry]:
    """The keys of one plug-in."""
    hints, texts = get_type_hints(cls), docs(cls)
    found = []
    for field in plugin_fields(cls):
        default = default_of(field)
        shown = "required" if default is dataclasses.MISSING else "" if default is None else show(plain(default))
        found.append(
            Entry(
                field.name,
                type_words(hints[field.name]),
                shown,
                texts.get(field.name, ""),
                why_of(cls, field.name),
            )
        )
    return found


# JSON schema
def json_schema(seams: Seams | None = None) -> dict[str, Any]:
    """The recipe's JSON schema, short forms and the plug-ins' names and keys included, for editors."""
    root = TypeAdapter(Recipe).json_schema()
    defs = root.pop("$defs")
    defs.pop("Plugin", None)
    for cls in _dataclasses():
        body = root if cls is Recipe else defs[cls.__name__]
        for name, text in docs(cls).items():
            slot = slots(cls)[name]
            prop = body["properties"][name]
            prop["description"] = f"{text} Default: {_default(slot)}, {slot.why}." if slot.why else text
            prop.pop("title", None)
            if slot.seam is not None:
                _shorten(prop, {"$ref": f"#/$defs/{slot.seam}"})
                defs.setdefault(slot.seam, _plugin_schema(slot.seam, seams))
            elif prop.get("items", {}).get("$ref") in ("#/$defs/Source", "#/$defs/Task", "#/$defs/Reward"):
                _shorten(prop, prop["items"])
    defs["Source"] = {"anyOf": [{"type": "string", "description": docs(Source)["path"]}, defs["Source"]]}
    defs["Model"] = {"anyOf": [{"type": "string", "description": docs(Model)["name"]}, defs["Model"]]}
    defs["Teacher"] = {"anyOf": [{"$ref": "#/$defs/Model"}, defs["Teacher"]]}
    short = [{"type": "string"}, {"type": "object", "minProperties": 1, "maxProperties": 3}]
    defs["Reward"] = {"anyOf": [defs["Reward"], *short]}
    long = [{"required": ["data"]}, {"required": ["benchmark"]}]
    beside = {"type": "object", "minProperties": 1, "maxProperties": 3, "not": {"anyOf": long}}
    defs["Task"] = {"anyOf": [defs["Task"], {"$ref": "#/$defs/benchmark"}, beside]}
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Luthier recipe"}
    return {**head, **{key: value for key, value in root.items() if key != "title"}, "$defs": defs}


def _dataclasses(cls: type = Recipe) -> Iterator[type]:
    """Recipe and every recipe dataclass below it."""
    seen = {cls: None}
    for _, slot in every_slot(cls):
        for hint in (slot.hint, *get_args(slot.hint)):
            if dataclasses.is_dataclass(hint) and hint is not Plugin and isinstance(hint, type):
                seen[hint] = None
    yield from seen


def _shorten(prop: dict[str, Any], item: dict[str, Any]) -> None:
    """Let a list be given as its single item; let a plug-in be given by the seam's definition."""
    if prop.pop("type", None) == "array":
        prop.pop("items", None)
        prop["anyOf"] = [item, {"type": "array", "items": item}]
    else:
        prop.pop("$ref", None)
        prop.pop("allOf", None)
        prop["$ref"] = item["$ref"]
    prop.pop("default", None)


def _plugin_schema(kind: str, seams: Seams | None) -> dict[str, Any]:
    """A plug-in: its name, or a mapping of its name to its keys."""
    if not seams or kind not in seams:
        return {"anyOf": [{"type": "string"}, {"type": "object", "minProperties": 1, "maxProperties": 1}]}
    forms: list[dict[str, Any]] = []
    for name in seams[kind].names():
        cls = seams[kind].get(name)
        keys = TypeAdapter(cls).json_schema()
        for field, text in docs(cls).items():
            if field in keys.get("properties", {}):
                keys["properties"][field]["description"] = text
        keys.pop("title", None)
        keys["additionalProperties"] = getattr(cls, "rest", None) is not None
        summary = (inspect.getdoc(cls) or "").split("\n")[0]
        forms.append({"const": name, "description": summary})
        body = {"anyOf": [keys, {"type": "null"}]}
        forms.append({"type": "object", "properties": {name: body}, "required": [name], "additionalProperties": False})
    return {"anyOf": forms}
