"""Any number of models over the same prompts, each two judged, and one table of strengths (Bradley and Terry)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.errors import LuthierError
from luthier.evaluate.judging.answers import Answer, Contestant, question
from luthier.evaluate.judging.bouts import Bout
from luthier.evaluate.judging.contest import Meeting, held, placed
from luthier.evaluate.judging.win_rate import WinRate, summed
from luthier.evaluate.ratings import Bias, Games, Rating, bias, rated
from luthier.run import json_line, write_atomically
from luthier.scorers.metric import Metric
from luthier.types import Example, Sampling

if TYPE_CHECKING:
    from rich.table import Table

Tell = Callable[[str], None]
Pair = tuple[str, str]


@dataclass(frozen=True)
class Board:
    """What came of an arena."""

    ratings: Mapping[str, Rating]
    """The strongest first; `anchor` is 0."""
    anchor: str
    pairs: Mapping[Pair, WinRate]
    bias: Bias
    """The judge's, over all comparisons."""
    cut: Mapping[str, int]
    """Answers of each model that came to no end."""
    prompts: int
    cost: str
    """What the judge was asked, in words."""

    def table(self) -> Table:
        """For the terminal."""
        from rich.table import Table

        table = Table(title=f"{len(self.ratings)} models, {self.prompts} prompts: Elo beside {self.anchor} = 0")
        for heading in ("model", "Elo", "95 %", "won", "games"):
            table.add_column(heading, justify="left" if heading == "model" else "right")
        for name, rating in self.ratings.items():
            elo = rating.elo
            between = "–" if elo.low is None or elo.high is None else f"{elo.low:+.0f} to {elo.high:+.0f}"
            if rating.open_end is not None and name != self.anchor:
                between = "no upper end" if rating.open_end == "above" else "no lower end"
            table.add_row(name, f"{elo.value:+.0f}", between, f"{rating.share:.1%}", f"{rating.games:g}")
        return table

    def lines(self) -> list[str]:
        """What stands under the table."""
        found = []
        if self.bias.unusable:
            found.append(f"the order above is not to be trusted: {self.bias.unusable}")
        found += [f"{rate.text()}; {rate.verdict}" for rate in self.pairs.values()]
        found += [f"{name}: {cut} answers were cut off at their longest" for name, cut in self.cut.items() if cut]
        return [*found, self.cost]

    def as_json(self) -> dict[str, Any]:
        """All of it, as JSON knows it."""
        return {
            "anchor": self.anchor,
            "prompts": self.prompts,
            "ratings": {name: asdict(rating) for name, rating in self.ratings.items()},
            "pairs": [rate.as_json() for rate in self.pairs.values()],
            "judge": {**asdict(self.bias), "unusable": self.bias.unusable},
            "cut": dict(self.cut),
            "cost": self.cost,
        }


@dataclass(frozen=True)
class Terms:
    """How an arena is held."""

    sampling: Sampling
    rounds: int | None = None
    """Swiss: so many rounds, in each of which neighbours in the table meet. None: each two meet."""
    seed: int = 0


def arena(
    entrants: Sequence[Contestant], rows: Sequence[Example], by: Metric, folder: Path, terms: Terms, tell: Tell
) -> Board:
    """Ask all, judge each two, rate; `folder` gets the answers, the comparisons and the table. Whatever was answered or
    judged before is found, so the same again goes on where it was stopped. Raises LuthierError for fewer than two."""
    if len(entrants) < 2:
        raise LuthierError("an arena takes two models or more", fix="name another: a run, `base`, a model, a file")
    by.check()
    said = {one.name: one.answers(rows, terms.sampling, tell) for one in entrants}
    for name, own in said.items():
        _keep(folder / "answers" / f"{_file(name)}.jsonl", _answer_rows(name, rows, own))
    bouts: dict[Pair, list[Bout]] = {}
    for pair in meetings(list(said), terms.rounds, bouts):
        tell(f"{pair[0]} meets {pair[1]}")
        bouts[pair] = held(by, _met(pair, rows, said))
        _keep(folder / "bouts.jsonl", (bout.row() for some in bouts.values() for bout in some))
    games = Games()
    for bout in (bout for some in bouts.values() for bout in some):
        if bout.won is not None:
            games.add(bout.one, bout.other, bout.won, bout.question)
    anchor = "base" if "base" in said else entrants[0].name
    every = [bout for some in bouts.values() for bout in some if not bout.same]
    board = Board(
        ratings=rated(games, anchor, terms.seed),
        anchor=anchor,
        pairs={pair: summed(some, placed=placed(by), seed=terms.seed) for pair, some in bouts.items()},
        bias=bias([bout.orders for bout in every], [bout.longer for bout in every], placed=placed(by)),
        cut={name: sum(answer.cut for answer in own) for name, own in said.items()},
        prompts=len(rows),
        cost=cost(by),
    )
    write_atomically(folder / "arena.json", json.dumps(board.as_json(), indent=2, ensure_ascii=False) + "\n")
    return board


def meetings(names: Sequence[str], rounds: int | None, held: Mapping[Pair, Sequence[Bout]]) -> Iterator[Pair]:
    """Who meets whom: each two; or in each round those beside one another in the table that have not met yet. `held`:
    what has come of those that met, which is looked at before each round."""
    if rounds is None:
        yield from combinations(names, 2)
        return
    for _ in range(rounds):
        points = dict.fromkeys(names, 0.0)
        for bout in (bout for some in held.values() for bout in some):
            points[bout.one] += bout.won or 0.0
            points[bout.other] += 0.0 if bout.won is None else 1 - bout.won
        order, met = sorted(names, key=lambda name: -points[name]), set(map(frozenset, held))
        pairs, free = [], list(order)
        while len(free) > 1:
            one = free.pop(0)
            other = next((name for name in free if frozenset((one, name)) not in met), None)
            if other is not None:
                free.remove(other)
                pairs.append((one, other))
        if not pairs:
            return
        yield from pairs


def _met(pair: Pair, rows: Sequence[Example], said: Mapping[str, Sequence[Answer]]) -> list[Meeting]:
    one, other = pair
    return [
        Meeting(question(row), shown(row), (one, mine.text), (other, theirs.text))
        for row, mine, theirs in zip(rows, said[one], said[other], strict=True)
    ]


def shown(row: Example) -> Example:
    """What the judge is shown of a row: its prompt, and the answer that is known to be right where one is given as
    `answer`."""
    return Example(row.prompt, answer=row.answer, source=row.source)


def cost(by: Metric) -> str:
    """What the judge was asked so far, and what it took."""
    from luthier.engines.openai.engine import RemoteEngine
    from luthier.scorers.judges.judge import Judge

    if not isinstance(by, Judge):
        return "the judge gives scores: nothing was asked"
    voice = by.voice
    told = f"the judge was asked {voice.tally['asked']:,} questions, {voice.tally['found']:,} were answered before"
    if voice.tally["long"]:
        told += f", {voice.tally['long']:,} were too long for it"
    if isinstance(voice.engine, RemoteEngine):
        told += f"; {voice.engine.budget.spent}"
    return told


def _answer_rows(name: str, rows: Sequence[Example], own: Sequence[Answer]) -> Iterator[dict[str, Any]]:
    """As a file of answers that can itself take part."""
    for row, answer in zip(rows, own, strict=True):
        messages = [{"role": turn.role, "content": turn.text} for turn in row.prompt]
        yield {"messages": [*messages, {"role": "assistant", "content": answer.text}], "by": name, "cut": answer.cut}


def _keep(path: Path, lines: Iterator[dict[str, Any]]) -> None:
    write_atomically(path, "".join(map(json_line, lines)))


def _file(name: str) -> str:
    return "".join(sign if sign.isalnum() or sign in "-._" else "-" for sign in name).strip("-.") or "model"
