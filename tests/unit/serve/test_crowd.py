"""A crowd: hundreds of clients, a hundred adapters, some streaming, some leaving; nobody hears another's answer."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psutil
import pytest
from serving import Served, byte_model, lora, serving

from luthier.data import Template
from luthier.engines import LocalEngine
from luthier.models import load
from luthier.recipe import Model
from luthier.types import RAW, Request, Sampling, Turn

CLIENTS, EACH, ADAPTERS, TOKENS = 500, 20, 100, 24
LEAVE = 0.2


def question(client: int, number: int) -> tuple[str, str]:
    """What a client asks, and whom; its nonce stands in it."""
    draw = random.Random(client * 1000 + number)
    name = "base" if draw.random() < 0.2 else f"a{min(int(draw.paretovariate(0.8)) - 1, ADAPTERS - 1)}"
    return f"[{client}-{number}-{draw.randrange(10**6)}] " + "say on " * draw.randrange(5), name


async def one(http: httpx.AsyncClient, served: Served, client: int, number: int) -> tuple[str, str] | None:
    """The answer and what it should be an answer to; None where the client left."""
    draw = random.Random(client * 7919 + number)
    prompt, name = question(client, number)
    body: Any = {"model": name, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "echo": True}
    streams, leaves = draw.random() < 0.5, draw.random() < LEAVE
    url = f"{served.url}/v1/completions"
    while True:
        if streams:
            async with http.stream("POST", url, json={**body, "stream": True}) as answer:
                if answer.status_code == 200:
                    text, count, stop = "", 0, draw.randrange(3)
                    async for line in answer.aiter_lines():
                        if line.startswith("data: {"):
                            text += json.loads(line[6:])["choices"][0]["text"]
                            count += 1
                        if leaves and count > stop:
                            return None
                    return prompt, text
        else:
            try:
                answer = await http.post(url, json=body, timeout=draw.random() * 0.2 if leaves else 300)
            except httpx.TimeoutException:
                return None
            if answer.status_code == 200:
                return prompt, answer.json()["choices"][0]["text"]
        assert answer.status_code == 429
        await asyncio.sleep(draw.random() * float(answer.headers["retry-after"]))


@pytest.mark.slow
def test_a_crowd(tmp_path: Path) -> None:
    module = byte_model(tmp_path / "base", context=256)
    for number in range(ADAPTERS):
        lora(tmp_path / "adapters" / f"a{number}", module, number)
    with serving([str(tmp_path / "base")], tmp_path / "adapters", queue=20_000, connections=2000) as served:

        async def client(http: httpx.AsyncClient, number: int) -> list[tuple[str, str] | None]:
            return [await one(http, served, number, each) for each in range(EACH)]

        async def crowd(clients: int) -> list[tuple[str, str] | None]:
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
            async with httpx.AsyncClient(timeout=300, limits=limits) as http:
                return [a for each in await asyncio.gather(*(client(http, n) for n in range(clients))) for a in each]

        asyncio.run(crowd(20))  # warms: memory settles
        served.idle()
        before = psutil.Process().memory_info().rss
        heard = asyncio.run(crowd(CLIENTS))
        after = served.idle()
        grown = psutil.Process().memory_info().rss - before
        assert served.get("/health").status_code == 200
    answers = dict(answer for answer in heard if answer is not None)
    policy = load(Model(name=str(tmp_path / "base")), train=False, device="cpu")
    template = Template(policy.tokenizer)
    engine = LocalEngine(policy.module, policy.tokenizer, template.stop_ids)
    for number in range(ADAPTERS):
        engine.load_adapter(f"a{number}", str(tmp_path / "adapters" / f"a{number}"))
    asked = [question(n, each) for n in range(CLIENTS) for each in range(EACH)]
    requests = [
        Request(
            tuple(template.prompt_ids([Turn(RAW, prompt)])),
            Sampling(max_new_tokens=TOKENS),
            adapter=None if name == "base" else name,
            id=prompt,
        )
        for prompt, name in asked
        if prompt in answers
    ]
    wanted = {str(done.request): str(done.request) + done.text for done in engine.run(requests)}
    wrong = [(prompt, text, wanted[prompt]) for prompt, text in answers.items() if text != wanted[prompt]]
    assert not wrong, (len(wrong), wrong[:3])
    assert len(answers) > CLIENTS * EACH * (1 - 2 * LEAVE), "none is lost but those that left"
    assert len(heard) == CLIENTS * EACH and after["luthier_kv_pages_held"] == 0
    assert grown < 100 * 2**20, f"{grown / 2**20:.0f} MiB"
    print(f"\n{len(answers)} answers, {grown / 2**20:.0f} MiB grown", {k: v for k, v in after.items() if "cancel" in k})
