"""The folder of a blind comparison: what is shown, the sealed key of whose answer is which, and the verdicts.

| file | what |
|---|---|
| `items.jsonl` | a prompt and two answers, called x and y |
| `key.sealed` | who x and y are; packed, so that a glance tells nothing |
| `verdicts.jsonl` | what was said on the page, each line on the disk at once |
| `sheets/NAME.csv` | the same as sheets, one a rater |
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import random
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, cast

from luthier.errors import LuthierError
from luthier.run import cut_half_line, json_line, write_atomically
from luthier.types import Example

Side = Literal["x", "y"]
Said = Literal["x", "y", "tie"]
SAID: tuple[Said, ...] = ("x", "y", "tie")


@dataclass(frozen=True)
class Dealt:
    """One item: a prompt and two answers."""

    name: str
    prompt: tuple[tuple[str, str], ...]
    """Role and text of each turn."""
    x: str
    y: str

    def row(self) -> dict[str, Any]:
        """As a line of the file."""
        prompt = [{"role": role, "text": text} for role, text in self.prompt]
        return {"item": self.name, "prompt": prompt, "x": self.x, "y": self.y}


@dataclass(frozen=True)
class Blind:
    """Such a folder."""

    folder: Path

    @property
    def items_path(self) -> Path:
        return self.folder / "items.jsonl"

    @property
    def key_path(self) -> Path:
        return self.folder / "key.sealed"

    @property
    def verdicts_path(self) -> Path:
        return self.folder / "verdicts.jsonl"

    @property
    def sheets(self) -> Path:
        return self.folder / "sheets"

    @cached_property
    def items(self) -> dict[str, Dealt]:
        """What is judged, by name. Raises LuthierError where the folder is no such folder."""
        if not self.items_path.is_file():
            raise LuthierError(
                "this folder holds no blind comparison", where=str(self.folder), fix="make one: luthier judge --blind"
            )
        found = {}
        for number, line in enumerate(self.items_path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                row = json.loads(line)
                prompt = tuple((turn["role"], turn["text"]) for turn in row["prompt"])
                found[row["item"]] = Dealt(row["item"], prompt, row["x"], row["y"])
            except (ValueError, KeyError, TypeError) as error:
                raise _damaged(self.items_path, number) from error
        return found

    def order(self, rater: str) -> list[str]:
        """The items as this rater is shown them: each has an order of their own, the same every time."""
        return sorted(self.items, key=lambda name: _mixed("order", rater, name))

    def left(self, rater: str, item: str) -> Side:
        """Which of the two stands at the left (or is called 1) for this rater."""
        return "x" if _mixed("place", rater, item)[0] & 1 else "y"

    def say(self, rater: str, item: str, said: Said) -> None:
        """Write a verdict down; it is on the disk when this returns. A later one of the same item counts instead.
        Raises LuthierError for an item or a verdict that is none."""
        if item not in self.items or said not in SAID or not rater.strip():
            raise LuthierError(
                f"no verdict: rater {rater!r}, item {item!r}, {said!r}",
                where=str(self.folder),
                fix=f"name yourself, an item that is there, and one of {', '.join(SAID)}",
            )
        row = {
            "rater": rater,
            "item": item,
            "said": said,
            "left": self.left(rater, item),
            "time": round(time.time(), 3),
        }
        with self.verdicts_path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            cut_half_line(file)
            file.write(json_line(row).encode("utf-8", "backslashreplace"))
            file.flush()
            os.fsync(file.fileno())

    def said(self) -> dict[str, dict[str, Said]]:
        """What each rater has said on the page, by item, the last word of each. Raises LuthierError at a broken
        line."""
        found: dict[str, dict[str, Said]] = {}
        if not self.verdicts_path.exists():
            return found
        whole = self.verdicts_path.read_text(encoding="utf-8")
        for number, line in enumerate(whole[: whole.rfind("\n") + 1].splitlines(), 1):  # a half line is no verdict
            try:
                row = json.loads(line)
                if row["item"] not in self.items or row["said"] not in SAID:
                    raise KeyError(row["item"])
                found.setdefault(str(row["rater"]), {})[row["item"]] = row["said"]
            except (ValueError, KeyError, TypeError) as error:
                raise _damaged(self.verdicts_path, number) from error
        return found

    @cached_property
    def key(self) -> dict[str, tuple[str, str]]:
        """Who x and y of each item are: what the seal hides. Raises LuthierError where it was changed, or the items
        were."""
        try:
            packed = self.key_path.read_bytes()
            content = json.loads(zlib.decompress(base64.b85decode(packed)))
            key = {name: (str(x), str(y)) for name, (x, y) in content["key"].items()}
            if content["items"] != _digest(self.items_path):
                raise LuthierError(
                    "the items are not those that were dealt: the file was changed",
                    where=str(self.items_path),
                    fix="put it back as it was; verdicts over other texts prove nothing",
                )
            return key
        except FileNotFoundError:
            raise LuthierError(
                "the key is not there, so nobody knows whose answers these are",
                where=str(self.key_path),
                fix="put it back, or deal anew",
            ) from None
        except (ValueError, KeyError, TypeError, zlib.error) as error:
            raise LuthierError("the key was changed", where=str(self.key_path), fix="put it back") from error


def deal(
    folder: Path, rows: Sequence[Example], said: Mapping[str, Sequence[str]], count: int, seed: int
) -> tuple[Blind, int]:
    """Deal `count` items of the prompts: of each prompt two models' answers, every two models as often. Pairs that say
    the same are left out, and counted. Raises LuthierError for a folder that is not empty, and where nothing is
    left."""
    if folder.exists() and any(folder.iterdir()):
        raise LuthierError(
            "this folder is not empty",
            where=str(folder),
            fix="name another --folder; to go on with it: luthier judge --blind --folder (without models)",
        )
    draw, pairs = random.Random(seed), list(combinations(said, 2))
    places = draw.sample(range(len(rows)), len(rows))
    dealt: list[Dealt] = []
    key: dict[str, tuple[str, str]] = {}
    same = 0
    turns = [(place, pair) for turn in range(len(pairs)) for place, pair in _turn(places, pairs, turn)]
    for place, (one, other) in turns:
        if len(dealt) == count:
            break
        if said[one][place].strip() == said[other][place].strip():
            same += 1
            continue
        x, y = (one, other) if draw.random() < 0.5 else (other, one)
        name = f"{len(dealt) + 1:0{len(str(count))}d}"
        prompt = tuple((turn.role, turn.text) for turn in rows[place].prompt)
        dealt.append(Dealt(name, prompt, said[x][place], said[y][place]))
        key[name] = (x, y)
    if not dealt:
        raise LuthierError("the models say the same to all prompts", where=str(folder), fix="there is nothing to judge")
    blind = Blind(folder)
    write_atomically(blind.items_path, "".join(json_line(item.row()) for item in dealt))
    content = json.dumps({"key": key, "items": _digest(blind.items_path), "seed": seed})
    write_atomically(blind.key_path, base64.b85encode(zlib.compress(content.encode())).decode())
    return blind, same


def _turn(places: Sequence[int], pairs: Sequence[tuple[str, str]], turn: int) -> Iterator[tuple[int, tuple[str, str]]]:
    """Each prompt once, the pairs taking turns, and in later turns each prompt with another pair."""
    for number, place in enumerate(places):
        yield place, pairs[(number + turn) % len(pairs)]


def _mixed(what: str, rater: str, item: str) -> bytes:
    return hashlib.blake2b("\0".join((what, rater, item)).encode("utf-8", "backslashreplace"), digest_size=8).digest()


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _damaged(path: Path, number: int) -> LuthierError:
    return LuthierError(
        "this line was cut off or changed", where=f"{path}:{number}", fix="take it out; a verdict is given again"
    )


def verdict_of(left: Side, which: str) -> Said:
    """The verdict behind `left`, `right` or `tie` for whom this one stands at the left."""
    if which == "tie":
        return "tie"
    right: Side = "y" if left == "x" else "x"
    return cast("Said", left if which == "left" else right)
