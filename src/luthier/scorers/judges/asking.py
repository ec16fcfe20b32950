"""Who judges, opened once however many scorers ask: questions in, what was said out, nothing asked twice."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.engines import ENGINES
from luthier.engines.openai.kept import Kept
from luthier.engines.opening import Opening
from luthier.errors import LuthierError
from luthier.recipe.schema import Model, Plugin
from luthier.types import Completion, Engine, Request, Sampling, Turn

if TYPE_CHECKING:
    from luthier.data import Template

LOG = logging.getLogger(__name__)
Places = tuple[tuple[tuple[str, float], ...], ...]
"""For each token that was written the likeliest ones, as text, with their log-probabilities."""


@dataclass(frozen=True)
class Question:
    """One message to the judge, and how its answer is drawn."""

    text: str
    sampling: Sampling
    before: tuple[tuple[str, str], ...] = ()
    """Role and text of what was said earlier."""


@dataclass(frozen=True)
class Said:
    """What the judge answered."""

    text: str
    places: Places = ()
    whole: bool = True
    """Did it end by itself?"""


@dataclass
class Voice:
    """A judge that can be asked."""

    engine: Engine
    name: str
    template: Template | None = None
    """None: an endpoint that renders messages itself."""
    kept: Kept | None = None
    """Where answers lie that need not be asked for again."""
    tally: Counter[str] = field(default_factory=Counter)
    """So many questions were asked, found (answered before), too long for the judge, and answered unreadably."""

    def answers(self, questions: Sequence[Question]) -> list[Said | None]:
        """What is said to each question, in order; None where it is longer than the judge can read.

        Equal questions are asked once. Raises LuthierError as the engine does.
        """
        known: dict[Question, Said | None] = {}
        new: list[tuple[Question, Request]] = []
        for question in dict.fromkeys(questions):
            found = self._found(question)
            request = None if found is not None else self._request(question, len(new))
            if request is None:
                known[question] = found
            else:
                new.append((question, request))
        self.tally["asked"] += len(new)
        for completion in self.engine.run([request for _, request in new]) if new else ():
            question = new[int(completion.request)][0]
            known[question] = said = Said(completion.text, self._places(completion), completion.finish == "stop")
            if self.kept is not None:
                self.kept.keep(self._key(question), asdict(said))
        return [known[question] for question in questions]

    def unreadable(self, said: Said, wanted: str) -> None:
        """Count an answer in which `wanted` was not found; the first is shown."""
        if not self.tally["unreadable"]:
            LOG.warning(
                "the judge %s gave an answer without %s, which counts as none: %r", self.name, wanted, said.text[:200]
            )
        self.tally["unreadable"] += 1

    def _request(self, question: Question, place: int) -> Request | None:
        turns = (*(Turn(*earlier) for earlier in question.before), Turn("user", question.text))
        prompt = () if self.template is None else tuple(self.template.prompt_ids(turns))
        context = self.engine.context
        if context is not None and len(prompt) + question.sampling.max_new_tokens > context:
            if not self.tally["long"]:
                LOG.warning(
                    "a question has %s tokens, and with its answer that is more than the judge %s reads (%s): it stays "
                    "without a score, and so do others like it",
                    len(prompt), self.name, context,
                )  # fmt: skip
            self.tally["long"] += 1
            return None
        return Request(prompt, question.sampling, id=place, turns=turns)

    def _found(self, question: Question) -> Said | None:
        found = None if self.kept is None else self.kept.find(self._key(question))
        if found is None:
            return None
        self.tally["found"] += 1
        places = tuple(tuple((str(token), float(logp)) for token, logp in place) for place in found["places"])
        return Said(str(found["text"]), places, bool(found["whole"]))

    def _key(self, question: Question) -> str:
        assert self.kept is not None
        return self.kept.name("judge", asdict(question))

    def _places(self, completion: Completion) -> Places:
        if completion.top_texts or self.template is None:
            return completion.top_texts
        read = self.template.tokenizer.decode
        return tuple(
            tuple((str(read([token])), logp) for token, logp in place if math.isfinite(logp))
            for place in completion.top
        )


def voice(model: str | None, engine: Plugin, *, cache: bool = True) -> Voice:
    """The judge. Raises LuthierError where the model or the endpoint is not there, or does not converse."""
    return _opened(model, engine.name, json.dumps(engine.args, sort_keys=True, default=str), cache)


def far(engine: Plugin) -> bool:
    """Does a judge of this engine work elsewhere?"""
    return bool(ENGINES.get(engine.name).elsewhere)


def forget() -> None:
    """Let go of the judges that are open, and of their weights."""
    _opened.cache_clear()


def opening(model: str | None, engine: Plugin) -> Opening:
    """How the judge is opened. Raises LuthierError where its keys are wrong, or it cannot be opened."""
    made: Opening = ENGINES.build(engine.name, engine.args)
    if model is None and not (made.elsewhere and engine.name == "openai"):
        raise LuthierError(
            f"nothing says which model judges: `engine: {engine.name}` needs one",
            where="model",
            fix="name it (model: qwen2.5-7b-instruct, or a run folder), or take {engine: {openai: {url: …, model: …}}}",
        )
    made.ready(base=False)
    return made


@lru_cache(maxsize=4)
def _opened(model: str | None, engine: str, args: str, cache: bool) -> Voice:
    """`model` and the engine's keys, as text: what hashes."""
    from luthier.models import OnDisk

    plugin = Plugin(name=engine, args=json.loads(args))
    made = opening(model, plugin)
    if model is None:
        return Voice(made.open(OnDisk(None, Path()), ()), str(plugin.args.get("model", engine)))
    template, known, digest = _known(made, model)
    identity = json.dumps([digest, engine, made.identity()], sort_keys=True, default=str)
    kept = Kept(identity) if cache and not (made.elsewhere and engine == "openai") else None  # it has a cache itself
    return Voice(made.open(known, template.stop_ids), model, template, kept)


def _known(made: Opening, model: str) -> tuple[Template, Any, str]:
    """Template, and the model as the engine wants it, with what it is by content."""
    from luthier.data import Template
    from luthier.models import embeddings, load
    from luthier.models.loading import on_disk

    known: Any
    if made.elsewhere:
        known = on_disk.of_model(Model(name=model))
        template = Template(known.tokenizer)
    else:
        known = load(Model(name=model), train=False)
        template = Template(known.tokenizer, embeddings(known.module))
    if not template.exists:
        raise LuthierError(
            "the judge has no chat template: it goes on with a text, but answers no questions",
            where=model,
            fix="take an instruct model",
        )
    return template, known, known.digest
