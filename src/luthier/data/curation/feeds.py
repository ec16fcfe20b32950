"""The sources of a recipe, ready to read, those with steps gone through them.

Training, evaluation and generation read a curated source as they read any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from luthier.data.curation.chain import Curated, curate
from luthier.data.curation.chunks import Placed
from luthier.data.curation.stages import Settings
from luthier.data.ledger import Ledger
from luthier.data.reading.feeds import Feed, feed, keeping
from luthier.data.steps import STEPS
from luthier.errors import LuthierError
from luthier.recipe import Plugin
from luthier.recipe import Source as Entry
from luthier.types import Example


@dataclass(frozen=True)
class CuratedFeed:
    """One source, or one of several, after its steps."""

    feed: Feed
    curated: Curated
    number: int
    """Which of the curated sources it is."""

    @property
    def entry(self) -> Entry:
        """What the recipe says of it."""
        return self.feed.entry

    @property
    def name(self) -> str:
        """What the ledger calls it."""
        return self.feed.name

    @property
    def samples(self) -> int | None:
        """As of the source itself."""
        return self.feed.samples

    def key(self) -> list[Any]:
        """What decides its rows."""
        return ["curated", self.curated.key, self.number, repr(self.feed)]

    def examples(self, ledger: Ledger) -> Iterator[Example]:
        """Its rows. The first of the sources that were curated together tells the ledger of all of them."""
        if self.number == 0:
            ledger.absorb(Ledger.from_json(self.curated.ledger.to_json()))
        yield from self.curated.examples(self.number)


def opened(
    entries: Sequence[Entry],
    steps: Sequence[Plugin] = (),
    settings: Settings | None = None,
    key: str = "data",
    keep: Iterable[str] = (),
) -> list[Feed | CuratedFeed]:
    """What the entries name, gone through the steps of each and then those of all. `key`: where the recipe has them;
    `keep`: columns that rows keep as `meta`.

    Raises LuthierError for what is not there, cannot be read, or drops too much.
    """
    settings = settings or Settings()
    feeds = [keeping(feed(entry), keep) for entry in entries]
    own = [placed(entry.steps, f"{key}.{number}.steps") for number, entry in enumerate(entries)]
    if steps:
        made = curate(feeds, own, placed(steps, "steps"), settings)
        return [CuratedFeed(one, made, number) for number, one in enumerate(feeds)]
    return [
        CuratedFeed(one, curate([one], [mine], (), settings), 0) if mine else one
        for one, mine in zip(feeds, own, strict=True)
    ]


def placed(plugins: Sequence[Plugin], key: str) -> list[Placed]:
    """The steps that a recipe names. Raises LuthierError for unknown names and keys."""
    found = []
    for number, plugin in enumerate(plugins):
        try:
            found.append(Placed(f"{key}.{number}", plugin.name, STEPS.build(plugin.name, plugin.args)))
        except LuthierError as error:
            raise LuthierError(error.what, where=error.where or f"{key}.{number}", fix=error.fix) from error
    return found


__all__ = ["CuratedFeed", "opened", "placed"]
