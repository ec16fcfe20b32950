"""Entries of a LLaMA-Factory dataset_info.json as sources.

Its semantics, with two faults mended: tags that an entry leaves out keep their defaults (there they vanish, and a
system turn breaks the row), and `formatting: openai` adds no system prompt of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from luthier.data.reading.feeds import Feed
from luthier.data.reading.folders import find, missing
from luthier.data.reading.formats import FORMATS
from luthier.data.reading.hub import hub_feed
from luthier.data.reading.json_files import DECODER, Twice
from luthier.data.reading.sources import part, read_text_lines, suffix
from luthier.data.reading.tables import twofold
from luthier.errors import LuthierError
from luthier.recipe import Source as Entry
from luthier.registry import suggest
from luthier.types import Format

DEFAULTS = {
    "alpaca": {"prompt": "instruction", "query": "input", "response": "output"},
    "sharegpt": {"messages": "conversations"},
    "openai": {"messages": "messages"},
}
OPTIONAL = ("history", "system", "tools", "images", "videos", "audios", "chosen", "rejected", "kto_tag")
TAGS = ("role_tag", "content_tag", "user_tag", "assistant_tag", "observation_tag", "function_tag", "system_tag")
KEYS = {
    "file_name", "hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name", "formatting", "ranking",
    "subset", "split", "folder", "num_samples", "columns", "tags",
}  # fmt: skip


def llamafactory_feed(entry: Entry) -> Feed:
    """The feed of entry `name` of a dataset_info.json."""
    listing = Path(str(entry.llamafactory)).expanduser()
    listing = listing / "dataset_info.json" if listing.is_dir() else listing
    if not listing.is_file():
        raise missing(listing)
    try:
        known = DECODER.decode(listing.read_text(encoding="utf-8"))
    except Twice as twice:
        raise twofold("keys of one object", str(twice), str(listing)) from None
    except json.JSONDecodeError as error:
        raise LuthierError(
            f"broken JSON: {error.msg}", where=f"{listing}:{error.lineno}", fix="mend the file there"
        ) from None
    if entry.name not in known:
        raise LuthierError(f"no entry {entry.name!r}", where=str(listing), fix=suggest(str(entry.name), list(known)))
    info, where = known[entry.name], f"{listing}, entry {entry.name!r}"
    for key in info:
        if key not in KEYS:
            raise LuthierError(f"unknown key {key!r}", where=where, fix=suggest(key, list(KEYS)))
    columns, shape = _shape(info, where)
    entry = replace(entry, columns=columns, format=None, split=info.get("split", entry.split))
    return _located(entry, info, listing.parent, shape, where)


def _located(entry: Entry, info: Mapping[str, Any], folder: Path, shape: Format, where: str) -> Feed:
    """The source by LLaMA-Factory's precedence: hub, script, cloud, file."""
    samples = info.get("num_samples")
    if "hf_hub_url" in info:
        remote = replace(entry, hub=info["hf_hub_url"], name=info.get("subset"), llamafactory=None)
        return hub_feed(remote, folder=info.get("folder"), shape=shape, only_mapped=True, samples=samples)
    for key in ("ms_hub_url", "om_hub_url", "script_url", "cloud_file_name"):
        if key in info:
            raise LuthierError(
                f"`{key}` is not supported", where=where, fix="download the data and give it as `file_name`"
            )
    if "file_name" not in info:
        raise LuthierError("the entry names no file and no hub data set", where=where, fix="set `file_name`")
    found = find(str(folder / info["file_name"]), str(info.get("split", entry.split)))
    parts = tuple(part(path, read_text_lines if suffix(path) == ".txt" else None) for path in found.paths)
    return Feed(entry, str(entry.name), parts, shape, only_mapped=True, samples=samples, media=folder, said=found.said)


def _shape(info: Mapping[str, Any], where: str) -> tuple[dict[str, str], Format]:
    """Our columns -> theirs, and the shape that reads them.

    With `columns` given, alpaca columns that it does not list are absent: that is how {prompt: text} is raw text.
    """
    formatting = info.get("formatting", "alpaca")
    if formatting not in DEFAULTS:
        raise LuthierError(f"unknown formatting {formatting!r}", where=where, fix=suggest(formatting, list(DEFAULTS)))
    defaults = DEFAULTS[formatting]
    given: dict[str, str] | None = info.get("columns")
    for key in given or {}:
        if key not in (*DEFAULTS["alpaca"], "messages", *OPTIONAL):
            known = [*DEFAULTS["alpaca"], "messages", *OPTIONAL]
            raise LuthierError(f"unknown column {key!r}", where=where, fix=suggest(key, known))
    theirs = dict(given or {})
    if given is None:
        theirs = {**defaults, **{name: name for name in OPTIONAL if name not in ("chosen", "rejected", "kto_tag")}}
    if formatting != "alpaca":
        theirs.setdefault("messages", defaults["messages"])
    if info.get("ranking"):
        theirs = {"chosen": "chosen", "rejected": "rejected", **theirs}
    elif "chosen" in theirs or "rejected" in theirs:
        theirs = {key: value for key, value in theirs.items() if key not in ("chosen", "rejected")}
    ours = {"prompt": "instruction", "query": "input", "response": "output", "messages": "conversations"}
    args = {key: value for key, value in (info.get("tags") or {}).items() if value is not None}
    if formatting == "openai":
        args = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant", **args}
    for key in args:
        if key not in TAGS:
            raise LuthierError(f"unknown tag {key!r}", where=where, fix=suggest(key, list(TAGS)))
    columns = {ours.get(key, key): value for key, value in theirs.items()}
    return _named(columns, bool(info.get("ranking")), formatting, args)


def _named(
    columns: dict[str, str], ranking: bool, formatting: str, args: Mapping[str, Any]
) -> tuple[dict[str, str], Format]:
    if ranking:
        columns.pop("output", None)
        return columns, cast(Format, FORMATS.build("preference", args))
    if "kto_tag" in columns:
        return columns, cast(Format, FORMATS.build("unpaired", {**args, "strict": True}))
    if formatting != "alpaca":
        return columns, cast(Format, FORMATS.build("sharegpt", args))
    if "output" not in columns and "input" not in columns:
        return {"text": columns["instruction"]}, cast(Format, FORMATS.build("text"))
    return columns, cast(Format, FORMATS.build("alpaca"))
