"""A request for text that was understood: what the engine is asked, and how its answers are gathered."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from luthier.serve.faults import ApiFault
from luthier.serve.settings import Settings
from luthier.serve.words import prompts, tools
from luthier.serve.words.answers import Answer, Logprobs
from luthier.serve.words.bodies import Chat, Completions
from luthier.serve.words.calls import Plain
from luthier.serve.words.prompts import Prompt
from luthier.serve.words.sampling import sampling
from luthier.types import Request, Sampling

if TYPE_CHECKING:
    from luthier.serve.house import Served


@dataclass
class Job:
    """A request that was understood."""

    body: Chat | Completions
    served: Served
    prompts: list[Prompt]
    sampling: Sampling
    drawn: int
    """Answers drawn for each prompt, of which the best `n` are told."""
    form: tools.Form | None = None
    tools: tools.Tools = ()

    def __post_init__(self) -> None:
        kind = "chatcmpl" if isinstance(self.body, Chat) else "cmpl"
        self.id, self.created = f"{kind}-{secrets.token_hex(12)}", int(time.time())

    @property
    def chat(self) -> bool:
        """Is it a conversation?"""
        return isinstance(self.body, Chat)

    @property
    def logprobs(self) -> bool:
        """Are log-probabilities asked for?"""
        return self.body.logprobs if isinstance(self.body, Chat) else self.body.logprobs is not None

    def requests(self) -> list[Request]:
        """What the engine is asked."""
        return [
            Request(prompt.ids, self.sampling, self.drawn, self.served.adapter, place)
            for place, prompt in enumerate(self.prompts)
        ]

    def answer(self, place: int, number: int) -> Answer:
        """Where an answer to the prompt at this place is gathered."""
        tokenizer = self.served.template.tokenizer
        # who has the prompt told again counts on a token behind it (lm-evaluation-harness takes the last one off)
        echoes = isinstance(self.body, Completions) and self.body.echo and not self.sampling.stop
        all_drawn = self.body.return_token_ids or echoes
        told = Logprobs(tokenizer, asked=self.logprobs, stops=bool(self.sampling.stop), all_drawn=all_drawn)
        if not isinstance(self.body, Chat):
            return Answer((place, number), tokenizer, Plain(), logprobs=told)
        # an answer that is held to a form thinks about nothing first, whatever the prompt has opened
        asked = self.prompts[place].text if self.sampling.grammar is None else ""
        parser = tools.parser(self.form, self.served.template, self.tools, asked)
        one_call = not self.body.parallel_tool_calls
        return Answer((place, number), tokenizer, parser, logprobs=told, one_call=one_call)


def of_chat(served: Served, body: Chat, settings: Settings, context: int | None) -> Job:
    """A conversation that is to be gone on with. Raises ApiFault for what the template or the server cannot do."""
    given = prompts.tools_of(body.tools)
    must = tools.chosen(body.tool_choice, given)
    if must == ():
        given = ()
    if given and served.form is None:
        raise ApiFault(
            400,
            "the model's chat template has no place for tools, or writes calls in a form not known here",
            param="tools",
        )
    prompt = prompts.of_messages(served.template, body.messages, given, served.system)
    chosen = sampling(body, settings, served.more_stops, _room([prompt], context))
    if must and chosen.grammar is not None:
        raise ApiFault(400, "response_format and tool_choice both say what form the answer has", param="tool_choice")
    if must:
        held = tools.grammar(served.form, served.template, must, body.parallel_tool_calls)
        chosen = replace(chosen, grammar=held)
    job = Job(
        body, served, [prompt], chosen, body.n, served.form if given or served.form == "described" else None, given
    )
    _check(job, settings)
    return job


def of_completions(served: Served, body: Completions, settings: Settings, context: int | None) -> Job:
    """Texts that are to be gone on with. Raises ApiFault for what the server cannot do."""
    drawn = body.n if body.best_of is None else body.best_of
    if drawn < body.n:
        raise ApiFault(400, f"best_of ({drawn}) is less than n ({body.n})", param="best_of")
    if body.stream and drawn > body.n:
        raise ApiFault(400, "which answers are the best is known at the end: best_of does not stream", param="best_of")
    asked = prompts.of_texts(served.template, body.prompt)
    job = Job(body, served, asked, sampling(body, settings, served.more_stops, _room(asked, context)), drawn)
    _check(job, settings)
    return job


def _room(asked: list[Prompt], context: int | None) -> int | None:
    """How many tokens fit behind the longest prompt."""
    return None if context is None else context - max(len(prompt.ids) for prompt in asked)


def _check(job: Job, settings: Settings) -> None:
    count = len(job.prompts) * job.drawn
    if count > settings.answers:
        raise ApiFault(400, f"{count} answers, and one request may have {settings.answers}", param="n")
    if job.body.stream_options is not None and not job.body.stream:
        raise ApiFault(400, "stream_options goes with stream", param="stream_options")
