"""What the server costs: tokens a second of answers streamed to clients, and of the engine alone on the same requests.

    python benchmarks/serve_cost.py [--rows 32] [--new 64] [--rounds 5] [--threads N]

Server and engine are two processes that take turns; clients are in this one. Counted are the tokens drawn while all
answers are under way. The bar is 2 % of the tokens a second; of processor time the server's own process is counted, and
not its clients.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import results
from environments import PEERS
from storm.alone import Moment, between
from storm.plans import SUBJECTS
from storm.server import Server, served
from storm.wire import Connection
from workload import model_folder

BAR = 0.02
END = {"0": -100.0, "2": -100.0}
"""Keeps the default model's answers from ending before their length."""


def asked(turn: int, given: argparse.Namespace) -> list[tuple[str, int, dict[str, float]]]:
    """The requests of a round; no two rounds begin alike."""
    prompts = (f"{turn} {row}: {SUBJECTS[row % len(SUBJECTS)]} and" for row in range(given.rows))
    return [(prompt, given.new, END) for prompt in prompts]


async def through(server: Server, requests: list[tuple[str, int, dict[str, float]]]) -> dict[str, float]:
    """A round through the server, one client for each answer. An event may have no token's text, or several tokens'; so
    the server itself is asked how many it has drawn."""
    begun, ended = asyncio.Event(), asyncio.Event()
    first: set[int] = set()
    talking: list[float] = []

    async def client(row: int) -> None:
        prompt, tokens, bias = requests[row]
        body = {"prompt": prompt, "max_tokens": tokens, "temperature": 0.0, "logit_bias": bias, "stream": True}
        connection = Connection(server.port)
        status, _ = await connection.ask("POST", "/v1/completions", body)
        if status != 200:
            raise RuntimeError(f"{status}: {(await connection.body())[:300]!r}")
        async for event in connection.events():
            first.add(row)
            if len(first) == len(requests):
                begun.set()
            if event == "[DONE]":
                ended.set()
        connection.drop()

    async def moment(when: asyncio.Event) -> Moment:
        connection = Connection(server.port)
        await when.wait()
        await connection.ask("GET", "/metrics")
        lines = (await connection.body()).decode().splitlines()
        drawn = next(line for line in lines if line.startswith("luthier_generated_tokens_total "))
        connection.drop()
        talking.append(server.loop_cpu)
        return time.perf_counter(), server.cpu, float(drawn.split()[1])

    moments = asyncio.gather(moment(begun), moment(ended))
    await asyncio.gather(*map(client, range(len(requests))))
    found = between(*await moments)
    return {**found, "talking_seconds": max(talking) - min(talking)}


def rounds(server: Server, engine: subprocess.Popen[str], given: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Server, engine, engine, server, …: each round's requests to both. The first is not counted."""
    assert engine.stdin is not None and engine.stdout is not None
    found: dict[str, list[dict[str, Any]]] = {"server": [], "engine": []}
    for turn in range(given.rounds + 1):
        requests = asked(turn, given)
        for who in ("server", "engine") if turn % 2 else ("engine", "server"):
            if who == "server":
                taken = asyncio.run(through(server, requests))
            else:
                engine.stdin.write(json.dumps(requests) + "\n")
                engine.stdin.flush()
                taken = json.loads(engine.stdout.readline())
            if turn:
                found[who].append(taken)
            print(f"  {who}: {taken['tokens'] / taken['seconds']:.0f} tokens/s", flush=True)
    return found


def figures(found: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """Medians; costs are medians of each round's own ratio."""
    pairs = list(zip(found["server"], found["engine"], strict=True))
    made = {}
    for unit in ("seconds", "cpu_seconds"):
        for who, taken in found.items():
            made[f"{who}_per_{unit}"] = median(one["tokens"] / one[unit] for one in taken)
        ratios = [(ours["tokens"] / ours[unit]) / (own["tokens"] / own[unit]) for ours, own in pairs]
        made[f"cost_of_{unit}"] = 1 - median(ratios)
    made["talking_share"] = median(one["talking_seconds"] / one["cpu_seconds"] for one in found["server"])
    made["talking_per_token"] = median(one["talking_seconds"] / one["tokens"] for one in found["server"])
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--new", type=int, default=64, help="tokens of each answer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of each process (default: the machine's)")
    parser.add_argument("--model", help="model folder (default: smollm2-135m-instruct, fetched)")
    parser.add_argument("--results", type=Path, default=results.FOLDER)
    given = parser.parse_args()
    work, model = PEERS / "work" / "serve", model_folder(given.model)
    work.mkdir(parents=True, exist_ok=True)
    env = {} if given.threads is None else {"OMP_NUM_THREADS": str(given.threads)}
    command = [sys.executable, str(Path(__file__).parent / "storm" / "alone.py"), model]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env={**os.environ, **env}, **pipes) as engine:
        try:
            if not engine.stdout or engine.stdout.readline() != "ready\n":
                sys.exit("the engine alone did not start")
            with served([model], work / "cost.txt", env) as server:
                found = rounds(server, engine, given)
        finally:
            engine.terminate()
    made = figures(found)
    text = (
        "| | server | engine alone | cost | bar |\n| --- | --- | --- | --- | --- |\n"
        f"| tokens a second | {made['server_per_seconds']:.0f} | {made['engine_per_seconds']:.0f} | "
        f"{made['cost_of_seconds']:.1%} | {BAR:.0%} |\n"
        f"| tokens a second of processor time | {made['server_per_cpu_seconds']:.0f} | "
        f"{made['engine_per_cpu_seconds']:.0f} | {made['cost_of_cpu_seconds']:.1%} | – |\n\n"
        f"{given.rows} answers of {given.new} tokens at a time, streamed token by token, {given.rounds} rounds. "
        f"The thread that talks to clients took {made['talking_per_token'] * 1e6:.0f} µs a token, "
        f"{made['talking_share']:.1%} of the server's processor time.\n"
    )
    kept = {name: getattr(given, name) for name in ("rows", "new", "rounds", "threads")}
    document = {"hardware": results.output_of("hardware.py"), **kept, "bar": BAR, "figures": made, "runs": found}
    results.write("serve-cost", document, text, given.results)


if __name__ == "__main__":
    main()
