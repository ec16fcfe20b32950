"""Data sets of the Hugging Face hub, read through `datasets`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from luthier.data.reading.cutting.parts import Part
from luthier.data.reading.feeds import Feed
from luthier.data.reading.text_files import NumberedRow
from luthier.errors import LuthierError
from luthier.recipe import Source as Entry
from luthier.types import Format

T = TypeVar("T")


def hub_feed(
    entry: Entry,
    *,
    folder: str | None = None,
    shape: Format | None = None,
    only_mapped: bool = False,
    samples: int | None = None,
) -> Feed:
    """The feed of a hub data set. Nothing is fetched until it is read."""
    assert entry.hub is not None
    name = ":".join(part for part in (entry.hub, entry.name, entry.split) if part)

    def rows() -> Iterator[NumberedRow]:
        from datasets import load_dataset

        def load() -> Any:
            return load_dataset(entry.hub, entry.name, data_dir=folder, split=entry.split, streaming=entry.streaming)

        found = iter(_asked(load, name))
        for number in itertools.count(1):
            row = _asked(lambda: next(found, None), name)
            if row is None:
                return
            yield number, row

    def fingerprint() -> str:
        from datasets import load_dataset_builder

        builder = _asked(lambda: load_dataset_builder(str(entry.hub), entry.name, data_dir=folder), name)
        return str(builder.hash)

    from luthier.data.reading.material_feeds import over_rows

    part = over_rows(entry, Part(name, rows, fingerprint))
    return Feed(entry, name, (part,), shape, only_mapped, samples)


def _asked(ask: Callable[[], T], name: str) -> T:
    """Call the hub; its many kinds of fault become one that says what to do."""
    try:
        return ask()
    except Exception as error:  # datasets, huggingface_hub and the network each raise their own
        first = str(error).strip().split("\n")[0] or type(error).__name__
        raise LuthierError(
            f"the hub data set cannot be loaded: {first}",
            where=name,
            fix="check its name, configuration and split; without a network, download it and give its `path:`",
        ) from error
