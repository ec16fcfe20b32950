"""POST /v1/chat/completions and /v1/completions."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import numpy as np

from luthier.serve.api.exchange import Exchange, beside
from luthier.serve.house import House
from luthier.serve.words import jobs, shapes
from luthier.serve.words.answers import Answer
from luthier.serve.words.bodies import Chat, Completions, parse
from luthier.serve.words.jobs import Job
from luthier.serve.words.tokens import Told
from luthier.types import Encoded


async def chat(house: House, exchange: Exchange) -> None:
    """POST /v1/chat/completions."""
    await _answer(house, exchange, Chat)


async def completions(house: House, exchange: Exchange) -> None:
    """POST /v1/completions."""
    await _answer(house, exchange, Completions)


async def _answer(house: House, exchange: Exchange, kind: type[Chat] | type[Completions]) -> None:
    raw = await exchange.body()
    body: Chat | Completions = await beside(len(raw), parse, raw, kind)
    served = await house.served(body.model)
    understand = jobs.of_chat if isinstance(body, Chat) else jobs.of_completions
    job: Job = await beside(len(raw), understand, served, body, house.settings, house.context)
    if body.stream:
        await exchange.while_there(exchange.events(_events(house, job, exchange)))
    else:
        await exchange.json(await exchange.while_there(_whole(house, job, exchange)))


async def _gather(house: House, job: Job, exchange: Exchange) -> AsyncGenerator[list[Answer], None]:
    """The answers that have news, from time to time. What is not done when this is closed is cancelled."""
    answers: dict[tuple[int, int], Answer] = {}
    if not job.sampling.max_new_tokens:  # the prompt alone is told again
        for place in range(len(job.prompts)):
            for number in range(job.drawn):
                answers[place, number] = job.answer(place, number)
                answers[place, number].part.finish = "length"
        yield list(answers.values())
        return
    asked = house.worker.submit(job.requests(), whole=not job.body.stream)
    left = len(job.prompts) * job.drawn
    try:
        while left:
            news: dict[tuple[int, int], Answer] = {}
            for place, piece in await asked.outbox.take():
                key = place, piece.index
                if key not in answers:
                    answers[key] = job.answer(place, piece.index)
                answers[key].add(piece)
                news[key] = answers[key]
                left -= piece.completion is not None
            yield list(news.values())
    finally:
        house.worker.cancel(asked)
        tokens = sum(len(prompt.ids) for prompt in job.prompts)
        exchange.note = f"{job.served.name}: {tokens} tokens, {asked.drawn} answered"
        if house.settings.log_prompts:
            said = [answer.completion.text for answer in answers.values() if answer.completion]
            house.log(f"asked {[prompt.text for prompt in job.prompts]!r}, answered {said!r}")


async def _whole(house: House, job: Job, exchange: Exchange) -> dict[str, Any]:
    echoes = await _echoes(house, job)
    answers: dict[int, Answer] = {}
    async with aclosing(_gather(house, job, exchange)) as gathered:
        async for news in gathered:
            answers |= {id(answer): answer for answer in news}
    return shapes.whole(job, list(answers.values()), echoes)


async def _events(house: House, job: Job, exchange: Exchange) -> AsyncGenerator[dict[str, Any], None]:
    echoes = await _echoes(house, job)
    answers: dict[int, Answer] = {}
    async with aclosing(_gather(house, job, exchange)) as gathered:
        async for news in gathered:
            for answer in news:
                answers[id(answer)] = answer
                if not (answer.begun and answer.part.empty):
                    yield shapes.chunk(job, answer, echoes)
    last = shapes.last_chunk(job, list(answers.values()))
    if last is not None:
        yield last


async def _echoes(house: House, job: Job) -> list[list[Told]] | None:
    """Where the prompt is told again: its tokens, with their log-probabilities if these are asked for."""
    body = job.body
    if not isinstance(body, Completions) or not body.echo:
        return None
    for place, prompt in enumerate(job.prompts):
        house.check_prompt(prompt.ids, f"prompt {place + 1}", room=1 if job.sampling.max_new_tokens else 0)
    if body.logprobs is None:
        return [[] for _ in job.prompts]
    rows = [_all_scored(prompt.ids) for prompt in job.prompts]
    count, adapter = max(1, body.logprobs), job.served.adapter
    likely = await house.likely(rows, adapter, count)
    echoes = []
    for prompt, row in zip(job.prompts, likely, strict=True):
        found = zip(prompt.ids[1:], row.logp_S.tolist(), row.ids_SC.tolist(), row.top_SC.tolist(), strict=True)
        told = [Told(token, logp, tuple(zip(ids, top, strict=True))) for token, logp, ids, top in found]
        echoes.append([Told(prompt.ids[0], None), *told])
    return echoes


def _all_scored(ids: tuple[int, ...]) -> Encoded:
    weights = np.ones(len(ids), np.float32)
    weights[0] = 0  # nothing precedes it
    return Encoded((np.array(ids, np.int32),), (weights,))
