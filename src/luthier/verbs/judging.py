"""Verbs by which answers are judged: by models, in an arena, and by people who do not know whose they are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.errors import LuthierError
from luthier.recipe import Plugin
from luthier.run import Run, write_atomically
from luthier.types import Example, Sampling
from luthier.verbs.opening import recipe_of
from luthier.workflow.screen import console, say

if TYPE_CHECKING:
    from luthier.evaluate.blind import Opened
    from luthier.evaluate.judging.arena import Board
    from luthier.evaluate.judging.human import Held

DRAWN = Sampling(max_new_tokens=512)
LOCAL = Plugin(name="local")


def arena(
    models: Sequence[str],
    prompts: str | None,
    judge: str,
    folder: Path,
    *,
    limit: int | None = None,
    rounds: int | None = None,
    sampling: Sampling = DRAWN,
    engine: Plugin = LOCAL,
) -> Board:
    """Have runs, their `base`, models and files of answers meet over the same prompts, and rate them.

    `judge`: who decides, as `--judge` says. `rounds`: Swiss instead of each two. What was answered and judged before is
    found. Raises LuthierError for whoever is not there, and where the judge cannot be opened.
    """
    from luthier.evaluate.judging import arena as held
    from luthier.evaluate.judging import named
    from luthier.evaluate.judging.contestants import contestants

    entrants, by = contestants(models, engine), named.judge(judge)
    rows = _rows(models, prompts, limit)
    board = held.arena(entrants, rows, by, folder, held.Terms(sampling, rounds, sampling.seed), say)
    console().print(board.table())
    _print([*board.lines(), f"everything   {folder}"])
    return board


def judge(models: Sequence[str], prompts: str | None, judge: str, folder: Path, *, limit: int | None = None) -> Board:
    """Two models' answers put to a judge in both orders: the win rate, raw and at equal lengths, and its bias."""
    if len(models) != 2:
        raise LuthierError(
            f"{len(models)} models are named",
            where="luthier judge",
            fix="name two, or take luthier arena for any number",
        )
    board = arena(models, prompts, judge, folder, limit=limit)
    for rate in board.pairs.values():
        _print(rate.lines())
    return board


def agrees(pairs: str, judge: str, *, limit: int | None = None) -> Held:
    """A judge held against rows in which people chose one of two answers."""
    from luthier.evaluate.judging import named
    from luthier.evaluate.judging.human import against_people

    found = against_people(named.judge(judge), named.prompts(pairs, limit, say))
    _print(found.lines())
    return found


def blind(
    models: Sequence[str],
    prompts: str | None,
    folder: Path,
    *,
    rows: int = 50,
    sheets: int = 0,
    seed: int = 0,
    engine: Plugin = LOCAL,
) -> Path:
    """Deal the answers of two models or more for people to judge who do not know whose they are; `sheets`: so many CSV
    files besides the page. Without models the folder must hold what was dealt before. Returns the folder."""
    from luthier.evaluate.blind import Blind, deal
    from luthier.evaluate.blind import sheets as paper
    from luthier.evaluate.judging.contestants import contestants

    if models:
        if len(models) < 2:
            raise LuthierError("one model cannot be compared", fix="name two, for instance: runs/a base")
        entrants, examples = contestants(models, engine), _rows(models, prompts, None)
        said = {
            one.name: [answer.text for answer in one.answers(examples, Sampling(512, seed=seed), say)]
            for one in entrants
        }
        dealt, same = deal(folder, examples, said, rows, seed)
        if same:
            say(f"{same} prompts to which both say the same are left out")
        if len(dealt.items) < rows:
            say(f"{len(dealt.items)} items: the prompts give no more")
    dealt = Blind(folder)
    say(f"{len(dealt.items)} items in {folder}; the key is sealed until luthier judge --open {folder}")
    for path in paper.write(dealt, sheets):
        say(f"sheet        {path}")
    return folder


def page(folder: Path, port: int = 0) -> None:
    """Serve the page of a blind comparison until it is told to stop."""
    from luthier.evaluate.blind import Blind
    from luthier.evaluate.blind.serving import server

    with server(Blind(folder), port) as serving:
        say(
            f"judge at     http://127.0.0.1:{serving.server_address[1]}/  (Ctrl-C ends; verdicts are kept as they come)"
        )
        try:
            serving.serve_forever()
        except KeyboardInterrupt:
            say(f"stopped; go on with: luthier judge --blind --folder {folder}")


def unseal(folder: Path) -> Opened:
    """Open a blind comparison: who won, how sure that is, how far the raters agree."""
    from luthier.evaluate.blind import Blind, opened

    found = opened(Blind(folder))
    write_atomically(folder / "opened.json", json.dumps(found.as_json(), indent=2, ensure_ascii=False) + "\n")
    _print(found.lines())
    return found


def _rows(models: Sequence[str], prompts: str | None, limit: int | None) -> list[Example]:
    """The prompts of a file, or those of the first run's own tasks."""
    from luthier.evaluate.judging import named

    if prompts is None:
        runs = [run for name in models if (run := Run(Path(name))).recipe_path.exists()]
        places = [
            source.path for run in runs for task in recipe_of(run).evaluate for source in task.data if source.path
        ]
        if not places:
            raise LuthierError("nothing says which prompts", where="--prompts", fix="name a file: --prompts p.jsonl")
        prompts = places[0]
        say(f"prompts      {prompts}: those that the run is scored on")
    return named.prompts(prompts, limit, say)


def _print(lines: Sequence[str]) -> None:
    for line in lines:
        console().print(line, markup=False, highlight=False)
