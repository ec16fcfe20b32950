"""Critique and revision (arXiv:2212.08073): answers criticised and written anew by the principles of a constitution.

    python -m luthier.scorers.judges.revising prompts.jsonl revised.jsonl --model qwen2.5-7b-instruct

Rows that have a response are revised from there on, others are answered first. What comes out trains as it stands:
`messages` end with the last revision, `revisions` keep how it came about and are read by nobody.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from luthier.engines.choice import WORD
from luthier.errors import LuthierError
from luthier.recipe.schema import PluginField
from luthier.run import write_atomically
from luthier.scorers.judges import wording
from luthier.scorers.judges.asking import Question, Said, Voice, voice
from luthier.scorers.judges.constitution import Constitution, constitution
from luthier.scorers.metric import text
from luthier.types import Example, Sampling, Turn


@dataclass(frozen=True)
class Revision:
    """One round."""

    principle: str
    critique: str
    revision: str


@dataclass(frozen=True)
class Revised:
    """A row, its first answer, and what became of it."""

    example: Example
    first: str
    revisions: tuple[Revision, ...]

    def row(self) -> dict[str, Any]:
        """As a row that trains on the last revision; what was criticised does not stand in it."""
        said = self.revisions[-1].revision
        asked = [{"role": turn.role, "content": turn.text} for turn in self.example.prompt]
        chain = {"first": self.first, "revisions": [asdict(one) for one in self.revisions]}
        return {"messages": [*asked, {"role": "assistant", "content": said}], **chain}


@dataclass(frozen=True)
class Lost:
    """Why there is no revision of a row."""

    at: str
    """`first answer`, or `critique` or `revision` and the number of the round."""
    why: str

    def __str__(self) -> str:
        return f"{self.at} {self.why}"


def revised(
    examples: Sequence[Example], by: Voice, written: Constitution, rounds: int = 2, sampling: Sampling | None = None
) -> list[Revised | Lost]:
    """Each example after so many rounds, in each another principle, drawn by a hash of its prompt.

    `Lost` where the model said nothing, or did not come to an end. Raises LuthierError for more rounds than principles.
    """
    must_have(written, rounds)
    asking = _Asking(by, sampling or Sampling(max_new_tokens=512))
    now = firsts = _first_answers(examples, asking)
    chains: dict[int, list[Revision]] = {place: [] for place in firsts}

    def examine(place: int, said: str, rule: str, critique: str | None = None) -> str:
        return wording.examine(written.language, examples[place], said, rule, critique)

    for number in range(rounds):
        rules = {place: written.drawn(examples[place], (), rounds)[number] for place in now}
        weak = {place: examine(place, now[place], rules[place].critique) for place in now}
        critiques = asking.said(f"critique {number + 1}", weak)
        anew = {place: examine(place, now[place], rules[place].revise, critiques[place]) for place in critiques}
        now = asking.said(f"revision {number + 1}", anew)
        for place, said in now.items():
            chains[place].append(Revision(rules[place].name, critiques[place], said))
    return [
        Revised(example, firsts[place], tuple(chains[place])) if place in now else asking.lost[place]
        for place, example in enumerate(examples)
    ]


def must_have(written: Constitution, rounds: int) -> None:
    """Raises LuthierError where there are more rounds than principles."""
    if not 1 <= rounds <= len(written.principles):
        raise LuthierError(
            f"{rounds} rounds, and the constitution has {len(written.principles)} principles, one for each",
            where="rounds",
            fix=f"take 1 to {len(written.principles)}",
        )


def _first_answers(examples: Sequence[Example], asking: _Asking) -> dict[int, str]:
    """The answer of each row, or the model's own to its prompt, by their places."""
    for example in examples:
        if not example.prompt or example.prompt[-1].role != "user":
            raise LuthierError(
                "the row does not end in a question that could be answered",
                where=str(example.source) if example.source else None,
                fix="give it a `prompt`, or messages of which the last is the user's or an answer to it",
            )
    given = {place: text(example.responses[0]) for place, example in enumerate(examples) if example.responses}
    asked = {place: example.prompt for place, example in enumerate(examples) if not given.get(place)}
    told = asking.said("first answer", {place: turns[-1].text for place, turns in asked.items()}, asked)
    return {**{place: said for place, said in given.items() if said}, **told}


@dataclass
class _Asking:
    """Asks the model, and keeps why what was heard of some places is of no use."""

    by: Voice
    sampling: Sampling
    lost: dict[int, Lost] = field(default_factory=dict)

    def said(
        self, at: str, asked: Mapping[int, str], turns: Mapping[int, Sequence[Turn]] | None = None
    ) -> dict[int, str]:
        """What is said to each question, by their places, without those that are lost. `turns`: what each question is
        the end of."""
        before = {place: tuple((turn.role, turn.text) for turn in some[:-1]) for place, some in (turns or {}).items()}
        questions = [Question(one, _drawn(self.sampling, one), before.get(place, ())) for place, one in asked.items()]
        found = {}
        for place, said in zip(asked, self.by.answers(questions) if questions else (), strict=True):
            if said is not None and said.whole and said.text.strip():
                found[place] = said.text.strip()
            else:
                self.lost[place] = Lost(at, _fault(said))
        return found


def _fault(said: Said | None) -> str:
    if said is None:
        return "too long to be asked for"
    return "empty" if said.whole else "cut off"


def _drawn(sampling: Sampling, question: str) -> Sampling:
    """Where there is chance each question has a seed of its own, wherever it stands."""
    if not sampling.temperature:
        return sampling
    mixed = hashlib.blake2b(question.encode(errors="surrogatepass"), digest_size=4).digest()
    return replace(sampling, seed=sampling.seed + int.from_bytes(mixed) * WORD)


def write(source: str, target: Path, by: Voice, written: Constitution, rounds: int) -> tuple[int, int, int]:
    """Write the rows; so many were written, so many were left out, so many could not be read. Raises LuthierError as
    `revised` does."""
    from luthier.data import Ledger, read

    ledger = Ledger()
    examples = list(read(source, ledger))
    rows = [one for one in revised(examples, by, written, rounds) if isinstance(one, Revised)]
    write_atomically(target, "".join(json.dumps(one.row(), ensure_ascii=False) + "\n" for one in rows))
    return len(rows), len(examples) - len(rows), ledger.rows_dropped


def main(given: Sequence[str]) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m luthier.scorers.judges.revising")
    parser.add_argument("prompts")
    parser.add_argument("revised", type=Path)
    parser.add_argument("--model", help="a model's name or a run folder; an endpoint needs none")
    parser.add_argument("--engine", default="local", help="local, or '{openai: {url: …, model: …}}'")
    parser.add_argument("--constitution", default="en", help="en, zh, or a YAML file")
    parser.add_argument("--rounds", type=int, default=2)
    keys = parser.parse_args(given)
    try:
        engine = TypeAdapter(PluginField).validate_python(yaml.safe_load(keys.engine))
        by, written = voice(keys.model, engine), constitution(keys.constitution)
        made, left, lost = write(keys.prompts, keys.revised, by, written, keys.rounds)
    except (LuthierError, ValidationError, yaml.YAMLError) as error:
        sys.exit(str(error))
    print(f"{made} rows in {keys.revised}; {left} left out, where the model came to no end, {lost} not readable")


if __name__ == "__main__":
    main(sys.argv[1:])
