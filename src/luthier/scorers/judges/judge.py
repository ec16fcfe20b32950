"""`judge`: a language model says how good a response is, by itself, beside the others, or beside the known one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from luthier.errors import LuthierError
from luthier.recipe.schema import Float, Int, Plugin, PluginField, Why
from luthier.scorers.judges import reading, wording
from luthier.scorers.judges.asking import Question, Said, Voice, far, opening, voice
from luthier.scorers.judges.constitution import SHIPPED, Constitution, Language, constitution
from luthier.scorers.metric import Metric, reference, text
from luthier.types import Example, Response, Sampling

LIKELIEST = 20
"""Tokens told at each place: as many as OpenAI's protocol allows."""
FIRST = 4
"""Tokens within which a judge that is to say a letter or a number alone has said it."""
SIDES = ("A", "B")
Meeting = tuple[Example, str, str]
"""Two answers to a prompt, to be compared."""
Orders = tuple[float | None, float | None]
"""What the answer shown first has of the win (1, 0, ½: neither is better): with the two as they came, and the other way
round. None: it could not be read."""


@dataclass(frozen=True)
class Judge(Metric):
    """A language model's opinion, between 0 and 1, by a rubric or by the principles of a constitution.

    Two answers are compared in both orders, and what comes of it is averaged. An answer of the judge's that cannot be
    read counts as none, and is counted. The model is any that Luthier loads, a run of yours included, or an endpoint's.
    """

    model: str | None = None
    """Who judges: a model's name or a run folder. An endpoint (`engine: {openai: …}`) needs none."""
    engine: PluginField = field(default=Plugin(name="local"), hash=False)
    """What it runs in, as `engine:` of a recipe: local, vllm, or {openai: {url: …, model: …}} with rate and budget."""
    against: Annotated[
        Literal["scale", "group", "answer"] | None, Why("a scale needs one question; principles compare")
    ] = None
    """What an answer is held against. scale: a score, by itself. group: the other answers to the prompt (the mean share
    of comparisons won). answer: the row's known answer (1 better, 0 worse, ½ alike). Default: scale; with a
    constitution, group."""
    rubric: str | None = None
    """What makes an answer good, in your words."""
    constitution: str | None = None
    """Compare by a principle instead, drawn by a hash of prompt and answers: en, zh (ours), or a YAML file."""
    principles: Annotated[Int, Field(gt=0)] = 1
    """So many are drawn for each comparison, and what they say is averaged."""
    opponents: Annotated[Int, Field(gt=0)] | None = None
    """Against the group: each answer meets the next so many, instead of all others."""
    reads: Annotated[Literal["text", "tokens"], Why("a judge that thinks first judges better")] = "text"
    """text: the judge thinks, then writes its verdict. tokens: it says a letter or a number alone, and the
    probabilities of those tokens become the score: the expected number, or P(A) / (P(A) + P(B))."""
    scale: Annotated[tuple[Int, Int], Why("the widest whose numbers are one token each")] = (1, 9)
    """The worst score and the best. The result is moved to between 0 and 1."""
    clamp: tuple[Float, Float] | None = None
    """Keep each comparison's result within these: [0.4, 0.6], as arXiv:2212.08073 does where a judge thinks first."""
    language: Language | None = None
    """In which it is asked: en, zh. Default: the constitution's, else en."""
    max_new_tokens: Annotated[Int, Field(gt=0)] = 512
    """The longest answer of a judge that thinks."""
    cache: bool = True
    """Keep its answers on disk, by its weights and the question. (An endpoint has a `cache` itself.)"""
    needs_reference: ClassVar[bool] = False

    def __post_init__(self) -> None:
        (low, high), alone = self.scale, self.held_against == "scale"
        object.__setattr__(self, "sees_group", self.held_against == "group")
        object.__setattr__(self, "compares", self.held_against == "group")
        object.__setattr__(self, "needs_reference", self.held_against == "answer")
        if low >= high:
            raise self._wrong("scale", f"ends at {high} and begins at {low}", "write the worst score, then the best")
        if alone and self.reads == "tokens" and not (low >= 0 and high <= 9):
            raise self._wrong("scale", "has numbers of more than one token", "set [1, 9], or reads: text")
        if self.clamp is not None and not 0 <= self.clamp[0] <= 0.5 <= self.clamp[1] <= 1:
            raise self._wrong("clamp", "lies not about ½", "write two numbers round it: [0.4, 0.6]")
        if self.constitution is not None and (alone or self.rubric is not None):
            key = "against: scale" if alone else "rubric"
            raise self._wrong("constitution", f"does not go with `{key}`: its principles compare", f"leave out `{key}`")
        for key, value, usual in (("opponents", self.opponents, None), ("clamp", self.clamp, None)):
            if value != usual and (alone or (key == "opponents" and self.held_against != "group")):
                raise self._wrong(key, "is for comparisons", "set against: group, or leave it out")
        if self.constitution is not None:
            if self.constitution not in SHIPPED:
                object.__setattr__(self, "constitution", str(Path(self.constitution).expanduser().resolve()))
            constitution(self.constitution)  # it is read before anything is asked

    @property
    def held_against(self) -> str:
        """What an answer is held against."""
        return self.against or ("scale" if self.constitution is None else "group")

    @property
    def waits(self) -> bool:
        return far(self.engine)

    def files(self) -> tuple[str, ...]:
        return () if self.constitution is None or self.constitution in SHIPPED else (self.constitution,)

    def check(self) -> None:
        """Raise LuthierError where the judge cannot be opened."""
        opening(self.model, self.engine)

    @property
    def voice(self) -> Voice:
        """The judge; its `tally` says how often it was asked, and could not be read."""
        return voice(self.model, self.engine, cache=self.cache)

    # asking
    def __call__(self, example: Example, response: Response) -> float | None:
        return self.many([(example, response)])[0]

    def many(self, pairs: Sequence[tuple[Example, Response]]) -> list[float | None]:
        """The score of each response; None where the judge could not be read, or there is nothing to compare with."""
        if self.held_against == "group":
            return [score for (example, response) in pairs for score in self.group(example, [response])]
        if self.held_against == "answer":
            known = [reference(example) for example, _ in pairs]
            met = [
                (replace(example, answer=None), text(response), answer)  # it is not told which of them is the known one
                for (example, response), answer in zip(pairs, known, strict=True)
                if answer is not None
            ]
            found = iter(self.compared(met))
            return [None if answer is None else next(found) for answer in known]
        return self._alone(pairs)

    def group(self, example: Example, responses: Sequence[Response]) -> list[float | None]:
        """For each response the mean share of comparisons won against the others; None where it has met none."""
        return self.groups([(example, responses)])[0]

    def groups(self, groups: Sequence[tuple[Example, Sequence[Response]]]) -> list[list[float | None]]:
        """`group` of many prompts, asked at once."""
        places = [list(meetings(len(responses), self.opponents)) for _, responses in groups]
        met = [
            (example, text(responses[one]), text(responses[other]))
            for (example, responses), some in zip(groups, places, strict=True)
            for one, other in some
        ]
        found = iter(self.compared(met))
        results: list[list[float | None]] = []
        for (_, responses), some in zip(groups, places, strict=True):
            won: list[list[float]] = [[] for _ in responses]
            for one, other in some:
                share = next(found)
                if share is not None:
                    won[one].append(share)
                    won[other].append(1.0 - share)
            results.append([sum(each) / len(each) if each else None for each in won])
        return results

    def met(self, pairs: Sequence[tuple[Example, Response, Response]]) -> list[float | None]:
        """How far the first of each two responses is better than the second, both orders averaged."""
        return self.compared([(example, text(one), text(other)) for example, one, other in pairs])

    def compared(self, met: Sequence[Meeting]) -> list[float | None]:
        """How far the first of each two answers is better than the second: 1 wholly, ½ alike, 0 worse. Each rule is
        asked about in both orders; one that cannot be read in both says nothing."""
        results: list[float | None] = []
        for (_, first, second), some in zip(met, self.orders(met), strict=True):
            shares = []
            for one, other in some:
                if one is not None and other is not None:
                    self._agreed(one, other)
                    shares.append((one + 1.0 - other) / 2)
            alike = 0.5 if first == second else None
            results.append(sum(shares) / len(shares) if shares else alike)
        return results

    def orders(self, met: Sequence[Meeting]) -> list[list[Orders]]:
        """For each two answers what is said by each rule in both orders. Two that are the same are not asked about."""
        asked = [[] if one == other else self._both_orders(example, one, other) for example, one, other in met]
        said = iter(self.voice.answers([question for some in asked for question in some]) if any(asked) else ())
        sides = [[self._first_wins(next(said)) for _ in some] for some in asked]
        return [list(zip(some[::2], some[1::2], strict=True)) for some in sides]

    def _alone(self, pairs: Sequence[tuple[Example, Response]]) -> list[float | None]:
        if not pairs:
            return []
        low, high = self.scale
        rule, shape = self.rubric or wording.WORDS[self._language].rubric, (low, high, self.reads == "text")
        questions = [
            Question(wording.alone(self._language, example, text(response), rule, shape), self._sampling)
            for example, response in pairs
        ]
        found: list[float | None] = []
        for said in self.voice.answers(questions):
            value = None
            if said is not None and self.reads == "text":
                value = self._read(said, reading.score(said.text, low, high), "a score")
            elif said is not None:
                value = self._read(said, reading.expectation(said.places, low, high), "a number of the scale")
            found.append(None if value is None else (value - low) / (high - low))
        return found

    def _both_orders(self, example: Example, one: str, other: str) -> list[Question]:
        thinks, asked = self.reads == "text", []
        for rule in self._rules(example, one, other):
            for first, second in ((one, other), (other, one)):
                words = wording.pair(self._language, example, first, second, rule, thinks=thinks)
                asked.append(Question(words, self._sampling))
        return asked

    def _first_wins(self, said: Said | None) -> float | None:
        if said is None:
            return None
        if self.reads == "text":
            value = self._read(said, reading.verdict(said.text), "a verdict")
        else:
            likely = reading.likelihoods(said.places, SIDES)
            value = self._read(said, None if likely is None else likely["A"], "A or B")
        if value is None or self.clamp is None:
            return value
        return min(max(value, self.clamp[0]), self.clamp[1])

    def _read(self, said: Said, value: float | None, wanted: str) -> float | None:
        if value is None:
            self.voice.unreadable(said, wanted)
        return value

    def _agreed(self, one: float, other: float) -> None:
        """Count whether both orders name the same answer: a judge that looks at the place alone never does."""
        self.voice.tally["compared"] += 1
        self.voice.tally["agreed"] += (one > 0.5) == (other < 0.5) and (one < 0.5) == (other > 0.5)

    # what it is asked
    @property
    def _rules_from(self) -> Constitution | None:
        return None if self.constitution is None else constitution(self.constitution)

    def _rules(self, example: Example, one: str, other: str) -> list[str]:
        written = self._rules_from
        if written is None:
            return [self.rubric or wording.WORDS[self._language].rubric]
        return [principle.compare for principle in written.drawn(example, (one, other), self.principles)]

    @property
    def _language(self) -> Language:
        written = self._rules_from
        return self.language or ("en" if written is None else written.language)

    @property
    def _sampling(self) -> Sampling:
        if self.reads == "text":
            return Sampling(max_new_tokens=self.max_new_tokens)
        return Sampling(max_new_tokens=FIRST, top_logprobs=LIKELIEST)

    def statistics_many(self, pairs: Sequence[tuple[Example, Response]]) -> list[tuple[float, ...] | None]:
        return [None if score is None else (score, 1.0) for score in self.many(pairs)]

    def _wrong(self, key: str, what: str, fix: str) -> LuthierError:
        return LuthierError(f"scorer 'judge': `{key}` {what}", where=key, fix=fix)


def meetings(count: int, opponents: int | None) -> Iterator[tuple[int, int]]:
    """Who meets whom, each two once: all of them, or in a ring each the next so many."""
    reach = count // 2 if opponents is None else min(opponents, count // 2)
    for step in range(1, reach + 1):
        for place in range(count):
            if 2 * step < count or place < step:  # half way round the ring each two would meet twice
                yield place, (place + step) % count
