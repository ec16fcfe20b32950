"""Feeds of raw material: chats, logs, pages and trees, by name or by what their files look like."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import cast

from luthier.data.reading import sources as files
from luthier.data.reading.cutting.parts import Part
from luthier.data.reading.feeds import Feed, silent
from luthier.data.reading.folders import find
from luthier.data.reading.formats import FORMATS
from luthier.data.reading.materials import BY_ENDING, MATERIALS, Material, PlacedRow, Tell, ending, known_by
from luthier.errors import LuthierError
from luthier.recipe import Source as Entry
from luthier.registry import suggest


def named(entry: Entry) -> Material | None:
    """The material that an entry names, None where it names none. Raises LuthierError for keys that it has not."""
    if entry.format is None or entry.format.name in FORMATS.names():
        return None
    if entry.format.name not in MATERIALS.names():
        known = [*FORMATS.names(), *MATERIALS.names()]
        raise LuthierError(f"unknown format {entry.format.name!r}", fix=suggest(entry.format.name, known))
    return cast(Material, MATERIALS.build(entry.format.name, entry.format.args))


def material_feed(entry: Entry) -> Feed | None:
    """The feed of an entry that names a material, or an address of the web; None for any other."""
    material, path = named(entry), str(entry.path)
    if path.startswith(("http://", "https://")):
        from luthier.data.pages.links import Links

        links = material if isinstance(material, Links) else Links()
        return Feed(entry, path, (links.part_of(path),))
    if material is None:
        return None
    found = find(path, entry.split, material.endings)
    return Feed(entry, path, _parts_of(material, found.paths), said=found.said)


def over_rows(entry: Entry, part: Part) -> Part:
    """The part of a hub data set, its rows read by the material that the entry names."""
    material = named(entry)
    if material is None:
        return part

    def read(tell: Tell) -> Iterator[PlacedRow]:
        return material.over(part.rows(), tell)

    rows = partial(read, silent)
    return Part(part.name, rows, part.fingerprint, part.said, telling=read, mixed=material.mixed)


def parts(path: Path, *, recognised: bool) -> tuple[Part, ...]:
    """A file as parts of a feed: as rows, or where it may be `recognised` as the material that its ending says it is.

    Raises LuthierError for the export of a chat: who is who has to be said.
    """
    if recognised and ending(path) in BY_ENDING:
        return _parts_of(cast(Material, MATERIALS.build(BY_ENDING[ending(path)])), [path])
    chat = known_by(path) if recognised else None
    if chat:
        raise LuthierError(
            f"the file seems to be a chat as {chat} exports it, and holds no rows",
            where=str(path),
            fix=f"say whose turns the assistant learns: `format: {{{chat}: {{me: NAME}}}}` on this source; a NAME that "
            "nobody has lists the speakers",
        )
    return (files.part(path),)


def _parts_of(material: Material, paths: Sequence[Path]) -> tuple[Part, ...]:
    return tuple(_part(material, name, group) for name, group in material.gather(paths))


def _part(material: Material, name: Path, group: tuple[Path, ...]) -> Part:
    def fingerprint() -> str:
        return " ".join(files.fingerprint(file) for file in group)

    read = partial(material.read, group)
    return Part(str(name), partial(read, silent), fingerprint, telling=read, mixed=material.mixed)


__all__ = ["material_feed", "named", "over_rows", "parts"]
