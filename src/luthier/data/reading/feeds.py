"""From the recipe's `data:` entries to Examples: which files, which row shape, how many rows, mended how."""

from __future__ import annotations

import itertools
import json
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from luthier.data.encode.messages import REASONING
from luthier.data.ledger import Ledger
from luthier.data.reading import tables
from luthier.data.reading.cutting.parts import Part
from luthier.data.reading.folders import find
from luthier.data.reading.formats import FORMATS, recognise, unknown_columns
from luthier.data.reading.formats.preferences import PROMPTS, Preference, Stepwise, repeats_prompt, zero_means_wrong
from luthier.data.reading.formats.shape import BadRow
from luthier.data.reading.formats.turns import with_media
from luthier.data.reading.kept import kept
from luthier.data.reading.materials import MATERIALS
from luthier.errors import LuthierError
from luthier.recipe import Source as Entry
from luthier.types import RAW, Example, Format, Source, Turn

LOOKED_AT = 1000
"""Rows that tell whether the pairs of a source repeat their prompt; of a stream, all that a whole source tells."""


@dataclass(frozen=True)
class Feed:
    """One entry of `data:`, ready to read."""

    entry: Entry
    name: str
    """What the ledger calls it."""
    parts: tuple[Part, ...]
    shape: Format | None = None
    """None: recognised by the columns of each part's first row."""
    only_mapped: bool = False
    """Columns that `columns` does not map are left out (LLaMA-Factory)."""
    samples: int | None = None
    """Draw so many rows, again and again if there are fewer (LLaMA-Factory's num_samples)."""
    media: Path | None = None
    """Folder that media paths are relative to."""
    said: tuple[str, ...] = ()
    """What the ledger is to say about the files that were found."""
    keep: tuple[str, ...] = ()
    """Columns that rows keep beside what they say, as `meta`: what a step goes by."""

    def key(self) -> list[Any]:
        """What decides the rows of this feed, for the token cache."""
        return [repr(self), [part.fingerprint() for part in self.parts]]

    def __repr__(self) -> str:
        names = [part.name for part in self.parts]
        more = f"{self.shape!r}, {self.only_mapped}, {self.samples}, {self.media}, {self.said}"
        return f"Feed({self.entry!r}, {names}, {more}{f', {self.keep}' if self.keep else ''})"

    def columns(self) -> tuple[str, ...]:
        """The columns of its first row."""
        return tuple(next(self._ahead(mapped=False), {}))

    def pieces(self, size: int) -> list[Feed]:
        """The feed in pieces that can be read apart, of about so many bytes where its files can be cut: together they
        give what it gives. One piece where only `limit` of its rows are taken."""
        if self.entry.limit is not None:
            return [self]
        cut = [part.pieces(size) for part in self.parts]
        parts = [piece for part in cut for piece in part]
        if len(parts) == 1:
            return [self]
        ahead = replace(self, parts=tuple(parts))._looked_ahead([part[0] for part in cut])
        if len(cut) > 1 and next(replace(self, parts=tuple(parts))._ahead(), None) is not None:
            parts = [replace(part, beside=True) for part in parts]
        made = [replace(self, parts=(part,), said=() if number else self.said) for number, part in enumerate(parts)]
        for one in made:
            vars(one).update(ahead)
        return made

    def whole_parts(self, size: int) -> Iterator[tuple[str, str]]:
        """The files of more than so many bytes that are read in one piece, and why."""
        for part in self.parts:
            large = part.file is not None and part.file.is_file() and part.file.stat().st_size > size
            if large and self.entry.limit is None and len(part.pieces(size)) == 1:
                yield part.name, part.why_whole()

    def _looked_ahead(self, firsts: Sequence[Part]) -> dict[str, Any]:
        """What only the whole source can tell, for its pieces: what `_settled` and `_check_absent` ask. `firsts`: of
        each file the first piece."""
        shapes = [self.shape] if self.shape else [_first_shape(replace(self, parts=(part,))) for part in firsts]
        asked = {
            "_zero_means_wrong": any(isinstance(shape, Stepwise) for shape in shapes),
            "_repetition": any(isinstance(shape, Preference) for shape in shapes),
            "_never": bool(self.entry.columns),
        }
        return {name: getattr(self, name) for name, wanted in asked.items() if wanted}

    def examples(self, ledger: Ledger) -> Iterator[Example]:
        """The readable rows as Examples; the others are dropped into the ledger with their reason."""
        for line in self.said:
            ledger.note(line)
        yield from itertools.islice(self._parts(ledger), self.entry.limit)

    def _parts(self, ledger: Ledger) -> Iterator[Example]:
        """One file after the other. Raises LuthierError where none has a row; of several, empty ones are told of."""
        empty: list[Part] = []
        for part in self.parts:
            count = yield from self._part(part, ledger)
            if count == 0 and part.begins is None:
                empty.append(part)
        if empty and len(empty) == len(self.parts) and not empty[0].beside:
            raise LuthierError("the data is empty: no rows", where=empty[0].name, fix="put at least one row into it")
        for part in empty:
            ledger.note(f"{part.name}: this file is empty, and nothing was read from it")

    def _part(self, part: Part, ledger: Ledger) -> Generator[Example, None, int]:
        """The rows of a file. Gives back how many it has, those included that cannot be read."""
        shape, name = self.shape, type(self.shape).__name__.lower()
        known: set[frozenset[str]] = set()
        count = 0
        for line in part.said():
            ledger.note(line)
        if part.begins is not None and shape is None and isinstance(part.begins[1], Mapping):
            place, row = part.begins
            first = place if isinstance(place, Source) else Source(part.name, place)
            name, shape = self._recognise(self._columns(_bare_names(row, first), first), first)
        for source, row in part.read(ledger.note):
            if isinstance(row, BadRow):
                count += 1
                ledger.read(self.name)
                ledger.drop(self.name, source, str(row), row.fix)
                continue
            if not isinstance(row, Mapping):
                raise LuthierError(
                    "the row is not an object with columns", where=str(source), fix='write rows as {"column": "text"}'
                )
            bare = _bare_names(row, source)
            if bare is not row:
                ledger.note(f"{part.name}: column names are read without the white space around them", source)
            row = self._columns(bare, source)
            if shape is None or part.mixed:
                name, shape = self._recognise(row, source)
            if count == 0 or part.mixed:
                shape, said = self._settled(shape, name)
                ledger.recognised(self.name, said)
            count += 1
            if self.shape is None and not part.mixed and (columns := frozenset(row)) not in known:
                self._check_same(row, source, name, shape)
                known.add(columns)
            ledger.read(self.name)
            try:
                example = kept(_with_said(row, with_media(row, shape.read(row))), self.keep, row, bare)
                _whole_characters(example)
                for turn in (*example.prompt, *(turn for response in example.responses for turn in response.turns)):
                    ledger.overlook(turn.unread)
                yield self._mend(example, source)
            except BadRow as fault:
                ledger.drop(self.name, source, str(fault), fault.fix)
        return count

    def _settled(self, shape: Format, name: str) -> tuple[Format, str]:
        """The shape with what only the whole source can tell, and its name for the ledger."""
        if isinstance(shape, Stepwise) and self._zero_means_wrong:
            return replace(shape, binary=True), f"{name} (label 0: wrong)"
        if isinstance(shape, Preference) and self._repetition is not None:
            return replace(shape, repeated=self._repetition == "text"), f"{name} (prompt repeated)"
        return shape, name

    @cached_property
    def _repetition(self) -> Literal["text", "turns"] | None:
        """Where pairs repeat the prompt of its column; by the first rows, so that none is split before it is known."""
        shape = self.shape if isinstance(self.shape, Preference) else Preference()
        return repeats_prompt(shape, itertools.islice(self._ahead(), LOOKED_AT))

    @cached_property
    def _zero_means_wrong(self) -> bool:
        """Of judged steps; read ahead, so that no row is scored before it is known. A stream may have no end."""
        return zero_means_wrong(itertools.islice(self._ahead(), LOOKED_AT if self.entry.streaming else None))

    def _ahead(self, *, mapped: bool = True) -> Iterator[Mapping[str, Any]]:
        """The rows before they are read, up to the first that cannot be: it is told of when reading comes to it."""
        numbered = (placed for part in self.parts for placed in part.read(silent))
        try:
            for source, row in numbered:
                if isinstance(row, Mapping):
                    bare = _bare_names(row, source)
                    yield self._columns(bare, source) if mapped else bare
        except LuthierError:
            return

    def _columns(self, row: Mapping[str, Any], source: Source) -> Mapping[str, Any]:
        mapping = {ours: theirs if theirs in row else theirs.strip() for ours, theirs in self.entry.columns.items()}
        if not mapping:
            return row
        if not self.only_mapped:
            self._check_absent(row, mapping, source)
        renamed = {ours: row[theirs] for ours, theirs in mapping.items() if theirs in row}
        taken = set(mapping.values())
        return renamed if self.only_mapped else {**{k: v for k, v in row.items() if k not in taken}, **renamed}

    def _check_absent(self, row: Mapping[str, Any], mapping: Mapping[str, str], source: Source) -> None:
        """Raises LuthierError where the row lacks a mapped column that its shape needs, or one that no row has."""
        absent = {ours: theirs for ours, theirs in mapping.items() if theirs not in row}
        if not absent:
            return
        whole = frozenset({*(name for name in row if name not in mapping.values()), *mapping})
        needed = [theirs for ours, theirs in absent.items() if not self._may_lack(whole, ours)]
        never = [theirs for theirs in absent.values() if theirs in self._never]
        if needed or never:
            what = f"`columns` names {(needed or never)[0]!r}, but the row has {', '.join(row)}"
            raise LuthierError(
                what, where=str(source), fix="see `columns:`" if needed else "no row has it: mend `columns:`"
            )

    def _may_lack(self, columns: frozenset[str], name: str) -> bool:
        """Have rows the same shape without this column? A prompt that is mapped is never taken from elsewhere."""
        if name in PROMPTS:
            return False
        wanted = self.shape or _named_shape(self.entry)
        if wanted is not None:
            return wanted.matches(columns - {name})
        whole, less = recognise(columns), recognise(columns - {name})
        return whole is not None and less is not None and whole[0] == less[0]

    @cached_property
    def _never(self) -> frozenset[str]:
        """The mapped columns that no row has, of a stream none of the first; looked for when a row lacks one."""
        never = set(self.entry.columns.values())
        for row in itertools.islice(self._ahead(mapped=False), LOOKED_AT if self.entry.streaming else None):
            never -= row.keys()
            if not never:
                break
        return frozenset(never)

    def _recognise(self, row: Mapping[str, Any], source: Source) -> tuple[str, Format]:
        shape = _named_shape(self.entry)
        if shape is None:
            found = recognise(row)
            if found is None:
                raise unknown_columns(row, source.path)
            return found
        assert self.entry.format is not None
        wanted = self.entry.format.name
        if not shape.matches(frozenset(row)):
            raise unknown_columns(row, source.path, wanted)
        return wanted, shape

    def _check_same(self, row: Mapping[str, Any], source: Source, name: str, shape: Format) -> None:
        if _named_shape(self.entry) is not None:
            if shape.matches(frozenset(row)):
                return
            other = "other columns"
        else:
            found = recognise(row)
            if found is not None and found[0] == name:
                return
            other = f"the shape {found[0]!r}" if found else "no known shape"
        raise LuthierError(
            f"mixed shapes in one file: the rows before are {name!r}, this one has {other} ({', '.join(row)})",
            where=str(source),
            fix="put rows of different shapes into different files, or mend this row",
        )

    def _mend(self, example: Example, source: Source) -> Example:
        example = replace(example, source=source)
        if not self.entry.chat:
            example = as_text(example)
        if self.entry.system and (not example.prompt or example.prompt[0].role not in ("system", "developer", RAW)):
            spoken = example.prompt or tuple(turn for response in example.responses for turn in response.turns)
            if spoken and spoken[0].role != RAW:
                example = replace(example, prompt=(Turn("system", self.entry.system), *example.prompt))
        if self.media is not None and any(turn.media for turn in example.prompt):
            example = replace(example, prompt=tuple(self._with_media(turn) for turn in example.prompt))
        return example

    def _with_media(self, turn: Turn) -> Turn:
        paths = (path if "://" in path else str((self.media or Path()) / path) for path in turn.media)
        return replace(turn, media=tuple(paths))


def _first_shape(one: Feed) -> Format | None:
    """The shape of its first row; None where it has none, which is told when reading comes to it."""
    first = next(one._ahead(), None)
    if first is None:
        return None
    named = _named_shape(one.entry)
    if named is not None:
        return named
    found = recognise(first)
    return found[1] if found else None


def silent(what: str, source: Source | None) -> None:
    """Takes what has been said, or will be."""


def _named_shape(entry: Entry) -> Format | None:
    """The row shape that the entry names; None where it names none, or a material."""
    if entry.format is None or entry.format.name in MATERIALS.names():
        return None
    shape: Format = FORMATS.build(entry.format.name, entry.format.args)
    return shape


def _with_said(row: Mapping[str, Any], example: Example) -> Example:
    """The example with what a teacher told of its tokens, as it stands; whoever learns from that reads it."""
    said = row.get("logprobs")
    return example if said is None else replace(example, meta={**example.meta, "logprobs": said})


def _bare_names(row: Mapping[str, Any], source: Source) -> Mapping[str, Any]:
    """The row, its columns named without white space around the names. Raises LuthierError where two are then one."""
    if all(name == name.strip() for name in row):
        return row
    tables.once([name.strip() for name in row], str(source))
    return {name.strip(): value for name, value in row.items()}


def _whole_characters(example: Example) -> None:
    """Raises BadRow for half a surrogate pair, as a text cut within an emoji has: it is no Unicode text."""
    turns = [*example.prompt, *(turn for response in example.responses for turn in response.turns)]
    words = [example.answer or "", *(turn.text for turn in turns)]
    words += [json.dumps(turn.calls, ensure_ascii=False, default=str) for turn in turns if turn.calls]
    words += [str(text) for turn in turns for text in turn.extra.values()]
    words += [json.dumps(example.tools, ensure_ascii=False, default=str)] if example.tools else []
    try:
        for text in words:
            text.encode()
    except UnicodeEncodeError:
        raise BadRow("a text holds half a character (a lone \\ud800 to \\udfff)") from None


def as_text(example: Example) -> Example:
    """The example without a chat template (`chat: false`): prompt and response as they stand. Raises BadRow."""
    if all(turn.role == RAW for response in example.responses for turn in response.turns) and not example.prompt:
        return example
    plain = all(len(response.turns) == 1 and not response.turns[0].calls for response in example.responses)
    if len(example.prompt) != 1 or not plain or example.tools:
        raise BadRow("a conversation cannot be read with `chat: false`: it has several turns")
    if any(REASONING in turn.extra for response in example.responses for turn in response.turns):
        raise BadRow("a message's reasoning cannot be read with `chat: false`", "write it into the text")
    gaps = example.meta.get("gaps") or [""] * len(example.responses)  # of texts that held their prompt
    responses = tuple(
        replace(r, turns=(Turn(RAW, between + r.turns[0].text, r.turns[0].weight),))
        for r, between in zip(example.responses, gaps, strict=True)
    )
    return replace(example, prompt=(Turn(RAW, example.prompt[0].text),), responses=responses)


def feed(entry: Entry) -> Feed:
    """Find what one `data:` entry names. Raises LuthierError when it is not there."""
    if entry.hub:
        from luthier.data.reading.hub import hub_feed

        return hub_feed(entry)
    if entry.llamafactory:
        from luthier.data.reading.llamafactory import llamafactory_feed

        return llamafactory_feed(entry)
    assert entry.path is not None
    from luthier.data.reading.material_feeds import material_feed, parts

    whole = material_feed(entry)
    if whole is not None:
        return whole
    found = find(entry.path, entry.split, pages=True)
    read = tuple(part for path in found.paths for part in parts(path, recognised=entry.format is None))
    return Feed(entry, entry.path, read, said=found.said)


def keeping(one: Feed, names: Iterable[str]) -> Feed:
    """The feed, whose rows keep these columns, too."""
    wanted = tuple(sorted({*one.keep, *names}))
    return one if wanted == one.keep else replace(one, keep=wanted)


def read(
    sources: Iterable[Entry | str] | str, ledger: Ledger | None = None, keep: Iterable[str] = ()
) -> Iterator[Example]:
    """All rows of the sources as Examples, in order, each with its `source`.

    `sources`: paths or recipe entries. `keep`: columns that rows keep as `meta`. Weights play no part here. Rows
    that cannot be read are dropped into the ledger. Raises LuthierError for a missing file, broken JSON, text that is
    not UTF-8, empty data, columns of no known shape and shapes mixed in one file; each names the file, and the line
    where there is one.
    """
    from luthier.data.curation.feeds import opened as curated

    given: Sequence[Entry | str] = [sources] if isinstance(sources, str) else list(sources)
    tally = Ledger() if ledger is None else ledger
    for number, entry in enumerate(Entry(path=entry) if isinstance(entry, str) else entry for entry in given):
        plain = feed(entry) if not entry.steps else None
        one = curated([entry], key=f"data.{number}")[0] if plain is None else keeping(plain, keep)
        yield from one.examples(tally)


__all__ = ["Feed", "as_text", "feed", "keeping", "read", "silent"]
