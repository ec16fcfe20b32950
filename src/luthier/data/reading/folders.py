"""Which files a path of `data:` means: one file, the data files of a folder or glob, a data set saved by `datasets`."""

from __future__ import annotations

import difflib
import glob
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.data.reading.materials import BY_ENDING, CHATS, known_by
from luthier.data.reading.sources import READERS, suffix
from luthier.data.reading.unpacking import unpacked_name
from luthier.errors import LuthierError
from luthier.registry import suggest

ABOUT = re.compile(
    r"(licen[cs]e|copying|copyright|notice|readme|authors?|contribut\w*|credits|change(s|log)?|citation|"
    r"requirements|provenance|checksums?|sha256(sums)?|md5(sums)?|robots)([ ._-].*)?",
    re.IGNORECASE,
)
"""Names of text files that tell about data and are none."""
LISTINGS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""Files that describe a data set, as `datasets` and LLaMA-Factory write them."""
OURS = (".ledger.json", ".changes.jsonl.gz")
"""What `luthier curate` writes beside the rows."""
SPLIT = re.compile(r"(?:^|[._-])(train|training|test|validation|valid|val|dev|eval)(?:$|[._-])", re.IGNORECASE)
OTHER = {
    ".zip": "unpack it and name the file inside",
    ".tar": "unpack it and name the files inside",
    ".tgz": "unpack it and name the files inside",
    ".7z": "unpack it and name the file inside",
    ".rar": "unpack it and name the file inside",
    ".xlsx": "save the sheet as .csv (UTF-8)",
    ".xls": "save the sheet as .csv (UTF-8)",
    ".ods": "save the sheet as .csv (UTF-8)",
}
"""Kinds of files that are not read → what to do with one."""
SHOWN = 3


@dataclass(frozen=True)
class Found:
    """The files to read, in order, and what is to be said about them."""

    paths: tuple[Path, ...]
    said: tuple[str, ...] = ()


def find(path: str, split: str = "train", endings: Sequence[str] = (), *, pages: bool = False) -> Found:
    """The files behind a file, folder or glob. `split`: which of a saved data set with several. `endings`: those of
    the files that are meant; a file that is named is read whatever its name ends with. `pages`: files that hold no
    rows, but can be made rows of, are meant, too.

    Raises LuthierError when there are none, and for text files beside data files, which may be more data or none.
    """
    place = Path(path).expanduser()
    if endings:
        return _of_kind(place, path, endings)
    if place.is_dir():
        saved = _saved(place, split)
        return saved or _chosen([f for f in sorted(place.rglob("*")) if not _hidden(f, place)], path, pages)
    if place.is_file():
        if suffix(place) not in READERS and not (pages and suffix(place) in BY_ENDING):
            kind = suffix(place) or place.suffix
            advice = f"{OTHER[kind]}; " if kind in OTHER else ""
            raise LuthierError(
                f"unknown kind of file {kind!r}", where=str(place), fix=f"{advice}known kinds: {_known(pages)}"
            )
        return Found((place,))
    if glob.has_magic(path):
        matches = sorted(map(Path, glob.glob(str(place), recursive=True)))  # noqa: PTH207  (Path.glob takes no absolute pattern)
        return _chosen(matches, path, pages)
    raise missing(place)


def _of_kind(place: Path, path: str, endings: Sequence[str]) -> Found:
    """The files with these endings behind a file, folder or glob. Raises LuthierError when there are none."""
    if place.is_file():
        return Found((place,))
    if place.is_dir():
        entries = [file for file in sorted(place.rglob("*")) if not _hidden(file, place)]
    elif glob.has_magic(path):
        entries = sorted(map(Path, glob.glob(str(place), recursive=True)))  # noqa: PTH207  (as in `find`)
    else:
        raise missing(place)
    files = [entry for entry in entries if entry.is_file() and suffix(entry) in endings]
    if not files:
        raise LuthierError("no file of this kind is there", where=path, fix=f"its files end with {', '.join(endings)}")
    return Found(tuple(files))


def _known(pages: bool) -> str:
    return ", ".join(ending[1:] for ending in (*READERS, *(BY_ENDING if pages else ())))


def _chosen(entries: Sequence[Path], path: str, with_pages: bool) -> Found:
    """The data files among these, or the pages where there are no others. A glob of text files names them itself."""
    pattern = glob.has_magic(path)
    files = [entry for entry in entries if entry.is_file() and suffix(entry) in READERS]
    pages = [entry for entry in entries if with_pages and entry.is_file() and suffix(entry) in BY_ENDING]
    if not files:
        files, pages = pages, []
    listings = [file for file in files if file.name in LISTINGS or file.name.endswith(OURS)]
    about = [file for file in files if suffix(file) == ".txt" and ABOUT.fullmatch(unpacked_name(file).stem)]
    if pattern and suffix(Path(path)) == ".txt":
        about = []
    left = [file for file in files if file not in listings and file not in about]
    if not left:
        what = "no data file matches this pattern" if pattern else "the folder holds no data files"
        only = f" beside {_named(about + listings)}" if about or listings else ""
        raise LuthierError(
            what + only, where=path, fix=f"name the file that is data; known kinds: {_known(with_pages)}"
        )
    if with_pages:
        _ask_about_materials(left, pages, path)
    _ask_about_texts(left, path)
    said = []
    if about:
        named = _named(about)
        said.append(f"{path}: left out {named}, as it tells about the data; what is to train is a source of its own")
    if pages:
        said.append(f"{path}: left out {_named(pages)} beside rows; pages that are to train are a source of their own")
    if listings:
        named = _named(listings)
        said.append(f"{path}: left out {named}, which has no rows (`llamafactory:` reads a LLaMA-Factory listing)")
    splits = sorted({split for file in left for split in _splits(file, None if pattern else Path(path).expanduser())})
    if len(splits) > 1 and any(name.startswith("train") for name in splits):
        alone = Path(path).with_name("*train*") if pattern else Path(path) / "**" / "*train*"
        said.append(f"{path}: files of several splits are read ({', '.join(splits)}); one alone is named so: {alone}")
    return Found(tuple(left), tuple(said))


def _splits(file: Path, folder: Path | None) -> list[str]:
    """The splits that the name of a file speaks of, or that of a folder it lies in."""
    parts = file.relative_to(folder).parts[:-1] if folder else ()
    return [split.lower() for name in (*parts, unpacked_name(file).stem) for split in SPLIT.findall(name)]


def _ask_about_materials(files: Sequence[Path], pages: Sequence[Path], path: str) -> None:
    """Raises LuthierError for chats beside anything else, with a source for each kind: who is who has to be said of
    each chat."""
    kinds: dict[str, list[Path]] = {}
    for file in files:
        kind = known_by(file) or ("texts" if suffix(file) == ".txt" else "rows")
        kinds.setdefault(kind, []).append(file)
    if not set(kinds) & set(CHATS):
        return
    for page in pages:
        kinds.setdefault(BY_ENDING[suffix(page)], []).append(page)
    if len(kinds) == 1:
        return
    sources = []
    for kind, of_kind in kinds.items():
        how = f", format: {{{kind}: {{me: NAME}}}}" if kind in CHATS else ""
        how = f", format: {kind}" if kind in BY_ENDING.values() else how
        more = f" (and {len(of_kind) - SHOWN:,} more like it)" if len(of_kind) > SHOWN else ""
        sources.append(", ".join(f"{{path: {file}{how}}}" for file in of_kind[:SHOWN]) + more)
    there = ", ".join(f"{kind} ({_named(of_kind)})" for kind, of_kind in kinds.items())
    raise LuthierError(
        f"materials of several kinds lie together: {there}",
        where=path,
        fix=f"name each as a source of its own (NAME: whose turns the assistant learns): {', '.join(sources)}",
    )


def _ask_about_texts(files: Sequence[Path], path: str) -> None:
    """Raises LuthierError for text files beside files with rows: each would train as one whole text."""
    texts = [file for file in files if suffix(file) == ".txt"]
    rows = [file for file in files if suffix(file) != ".txt"]
    if not texts or not rows:
        return
    ending = rows[0].name.removeprefix(unpacked_name(rows[0]).stem)
    place = Path(path).parent if glob.has_magic(path) else Path(path) / "**"
    raise LuthierError(
        f"text files lie beside data files: {_named(texts)} beside {_named(rows)}; are they to train, too?",
        where=path,
        fix=f"name what trains: {place / f'*{ending}'} for the rows alone; "
        f"{place / '*.txt'} as one more source for the texts",
    )


def _named(files: Sequence[Path]) -> str:
    names = [file.name for file in files]
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _saved(folder: Path, split: str) -> Found | None:
    """The files of a data set that `datasets` saved with `save_to_disk`; None where the folder is something else."""
    if (folder / "dataset_dict.json").is_file():
        splits = [str(name) for name in _listing(folder / "dataset_dict.json").get("splits", ())]
        if split not in splits:
            raise LuthierError(
                f"the saved data set has no split {split!r}; it has {', '.join(splits) or 'none'}",
                where=str(folder),
                fix=f"set `split:` on the source; {suggest(split, splits)}",
            )
        inside = _saved(folder / split, split)
        if inside is None:
            raise LuthierError(
                f"the split {split!r} of the saved data set is not whole: it has no state.json",
                where=str(folder / split),
                fix="copy the whole folder again, or save the data set anew",
            )
        others = ", ".join(name for name in splits if name != split)
        said = f"{folder}: a saved data set; its split {split!r} is read" + (f", not {others}" if others else "")
        return Found(inside.paths, (said,))
    if not (folder / "state.json").is_file() or not (folder / "dataset_info.json").is_file():
        return None
    state = _listing(folder / "state.json")
    files = [folder / str(entry.get("filename")) for entry in state.get("_data_files", ()) if isinstance(entry, dict)]
    absent = [file for file in files if not file.is_file()]
    if absent or not files or state.get("_indices_files") or state.get("_indices_data_files"):
        what = f"{absent[0].name} is missing" if absent else "it keeps its rows in another order than they lie on disk"
        raise LuthierError(
            "the saved data set cannot be read: " + (what if files else "its state.json names no files"),
            where=str(folder),
            fix="copy the whole folder again, or save it anew: load_from_disk(…).flatten_indices().save_to_disk(…)",
        )
    return Found(tuple(files))


def _listing(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LuthierError(
            f"the saved data set's {path.name} is damaged: {error}",
            where=str(path),
            fix="copy the folder again, or save the data set anew",
        ) from None
    return content if isinstance(content, dict) else {}


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def missing(path: Path) -> LuthierError:
    """The error of a file that is not there, with near names."""
    if not path.parent.is_dir():
        return LuthierError("no such file: its folder does not exist", where=str(path), fix=f"check {path.parent}")
    names = sorted(entry.name for entry in path.parent.iterdir())
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    data = [name for name in names if suffix(Path(name)) in READERS]
    if near:
        fix = f"did you mean {' or '.join(near)}?"
    else:
        fix = f"data files there: {', '.join(data[:8])}" if data else "there are no data files in that folder"
    return LuthierError("no such file", where=str(path), fix=fix)


__all__ = ["Found", "find", "missing"]
