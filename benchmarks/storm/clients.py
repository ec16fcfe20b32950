"""Clients that ask, come back when they are told to, and some of whom leave; and what was wrong with an answer."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from storm.plans import Mix, Plan
from storm.wire import Broken, Connection

TRIES = 500
"""So often a client that is told to come back does."""


@dataclass
class Heard:
    """An answer, as its client heard it."""

    plan: Plan
    text: str = ""
    finish: str | None = None
    tokens: list[tuple[str, float | None]] = field(default_factory=list)
    """With log-probabilities, where these were asked for; of the prompt, too, where it was told again."""
    usage: dict[str, Any] = field(default_factory=dict)
    first_asked: float = 0.0
    asked: float = 0.0
    """When the try that was answered began."""
    pieces: list[float] = field(default_factory=list)
    """When each event with a piece of the answer came."""
    done: float = 0.0


@dataclass
class Tally:
    """What has come of a storm."""

    answers: list[Heard] = field(default_factory=list)
    left: Counter[str] = field(default_factory=Counter)
    """Requests that their clients gave up, by when."""
    told_to_wait: int = 0
    wrong: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    seconds: float = 0.0


async def storm(port: int, mix: Mix, clients: int, requests: int) -> Tally:
    """All clients at once, each with one request after another."""
    tally = Tally()
    began = time.perf_counter()
    await asyncio.gather(*(_client(port, mix, number, requests, tally) for number in range(clients)))
    tally.seconds = time.perf_counter() - began
    return tally


async def _client(port: int, mix: Mix, client: int, requests: int, tally: Tally) -> None:
    connection = Connection(port)
    for number in range(requests):
        plan = mix.plan(client, number)
        try:
            await _asked(connection, plan, tally)
        except Broken as error:
            tally.lost.append(f"client {client}, request {number}: {error}")
    connection.drop()


async def _asked(connection: Connection, plan: Plan, tally: Tally) -> None:
    """One request, until it is answered or given up."""
    heard = Heard(plan, first_asked=time.perf_counter())
    for _ in range(TRIES):
        heard.asked = time.perf_counter()
        if plan.leaves is not None and (plan.leaves < 0.3 or not plan.body["stream"]):
            await _leave_unheard(connection, plan, tally)
            return
        status, headers = await connection.ask("POST", plan.path, plan.body)
        if status == 429:
            tally.told_to_wait += 1
            await connection.body()
            connection.drop()  # a server may close what is idle for so long
            await asyncio.sleep(float(headers["retry-after"]) * random.uniform(1, 1.2))
            continue
        if status != 200:
            tally.lost.append(f"{plan.path} of client {plan.client}: {status} {(await connection.body())[:200]!r}")
            return
        if plan.body["stream"]:
            if not await _stream(connection, heard, tally):
                return
        else:
            _whole(json.loads(await connection.body()), heard)
        heard.done = time.perf_counter()
        tally.answers.append(heard)
        tally.wrong += [f"client {plan.client}, request {plan.number}: {what}" for what in faults(heard)]
        return
    tally.lost.append(f"client {plan.client}, request {plan.number}: told to come back {TRIES} times")


async def _leave_unheard(connection: Connection, plan: Plan, tally: Tally) -> None:
    """Ask, and be gone before (or while) it is answered: at once, or after up to two seconds."""
    assert plan.leaves is not None
    asking = asyncio.create_task(connection.ask("POST", plan.path, plan.body))
    await asyncio.wait({asking}, timeout=0 if plan.leaves < 0.05 else 2 * plan.leaves)
    answered = asking.done() and asking.exception() is None
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    connection.drop()
    kind = "streamed" if plan.body["stream"] else "whole"
    tally.left[f"{kind}, {'answered or refused already' if answered else 'before the first token'}"] += 1


async def _stream(connection: Connection, heard: Heard, tally: Tally) -> bool:
    """Read the events; False where the client gave up."""
    plan = heard.plan
    enough = None if plan.leaves is None else max(1, round(plan.leaves * plan.body["max_tokens"]))
    ended = False
    async for data in connection.events():
        if data == "[DONE]":
            ended = True
            continue
        event = json.loads(data)
        if "error" in event:
            raise Broken(f"a fault in the stream: {event['error']}")
        _event(event, heard)
        if enough is not None and len(heard.pieces) >= enough:
            connection.drop()
            tally.left["streamed, in the middle"] += 1
            return False
    if not ended:
        raise Broken("a stream without an end")
    if enough is not None:
        tally.left["streamed, at the end"] += 1
        return False
    return True


def _event(event: dict[str, Any], heard: Heard) -> None:
    if event.get("usage"):
        heard.usage = event["usage"]
    for choice in event["choices"]:
        heard.pieces.append(time.perf_counter())
        heard.text += choice["delta"].get("content") or "" if heard.plan.chat else choice["text"]
        _choice(choice, heard)


def _whole(answer: dict[str, Any], heard: Heard) -> None:
    heard.usage, choice = answer["usage"], answer["choices"][0]
    heard.text = choice["message"]["content"] or "" if heard.plan.chat else choice["text"]
    _choice(choice, heard)


def _choice(choice: dict[str, Any], heard: Heard) -> None:
    heard.finish = choice["finish_reason"] or heard.finish
    told = choice["logprobs"]
    if told and heard.plan.chat:
        heard.tokens += [(one["token"], one["logprob"]) for one in told["content"]]
    elif told:
        heard.tokens += list(zip(told["tokens"], told["token_logprobs"], strict=True))


def faults(heard: Heard) -> list[str]:
    """What is wrong with an answer whatever the model says."""
    plan, found = heard.plan, []
    if heard.finish not in ("stop", "length"):
        found.append(f"ended by {heard.finish!r}")
    if not 0 < heard.usage.get("completion_tokens", 0) <= plan.body["max_tokens"]:
        found.append(f"{heard.usage} tokens where {plan.body['max_tokens']} were the most")
    if foreign := plan.foreign(heard.text):
        found.append(f"foreign numbers {sorted(foreign)}")
    if plan.body.get("echo") and not heard.text.startswith(plan.body["prompt"]):
        found.append(f"its own prompt is not told again: {heard.text[:80]!r}")
    return found
