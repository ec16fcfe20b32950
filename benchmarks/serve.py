"""Serving under load: many clients, many adapters, some who leave. Is anything lost, wrong or kept, and how fast is it?

    python benchmarks/serve.py [--clients 500] [--requests 20] [--adapters 100] [--sample 400]

Starts `luthier serve` on the default model with random adapters beside it, sends the clients, and holds a sample of
what they heard to what the engine says by itself. Results of fewer clients or requests go to .peers/trials.
`benchmarks/serve_cost.py` says what the server costs.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import results
from environments import PEERS
from storm import adapters
from storm.clients import Heard, Tally, storm
from storm.plans import Mix
from storm.server import Server, served
from workload import model_folder

CLIENTS, REQUESTS = 500, 20
WARM = 3
"""Requests of each client before memory is first looked at: by then all pages and most adapters have been in use."""
QUIET = ("queue_requests", "queue_tokens", "running", "waiting", "kv_pages_held", "adapters_in_use")
"""What is nothing while nobody asks."""
RSS_GROWTH = 0.03
"""Of the memory before, allowed after, pages and adapters apart: these have bounds of their own."""


def state(server: Server) -> dict[str, float]:
    """What the server holds, once it has nothing to do."""
    until = time.monotonic() + 30
    while True:
        now = server.metrics()
        if not any(now[name] for name in QUIET) or time.monotonic() > until:
            break
        time.sleep(0.2)
    names = (*QUIET, "kv_pages_made", "kv_bytes", "kv_evicted", "kv_preempted", "adapter_bytes", "engine_faults_total")
    rest = server.rss - now["kv_bytes"] - now["adapter_bytes"]
    return {"rss": float(server.rss), "rss_beside": rest, **{name: now[name] for name in names}}


def load_on(server: Server, mix: Mix, given: argparse.Namespace) -> dict[str, Any]:
    """The storm, with what the server held before and after it."""
    warm = Mix(mix.base, mix.adapters, mix.leaves, seed=mix.seed + 1)
    asyncio.run(storm(server.port, warm, given.clients, min(WARM, given.requests)))
    before, spent = state(server), server.cpu
    busy = psutil.cpu_times()
    tally = asyncio.run(storm(server.port, mix, given.clients, given.requests))
    spent, now = server.cpu - spent, psutil.cpu_times()
    return {
        "tally": tally,
        "before": before,
        "after": state(server),
        "cpu_seconds": spent,
        "machine_busy_seconds": (now.user + now.nice + now.system) - (busy.user + busy.nice + busy.system),
        "health": server.health(),
    }


def faults(found: dict[str, Any], wanted: int, differences: Sequence[str]) -> list[str]:
    """Everything that is not as it must be."""
    tally, before, after = found["tally"], found["before"], found["after"]
    bad = [f"lost: {line}" for line in tally.lost] + [f"wrong: {line}" for line in tally.wrong]
    bad += [f"not the engine's: {line}" for line in differences]
    counted = len(tally.answers) + tally.left.total() + len(tally.lost)
    if counted != wanted:
        bad.append(f"{counted} requests are accounted for, and {wanted} were made")
    bad += [f"{name} is {after[name]:g} afterwards" for name in QUIET if after[name]]
    if after["engine_faults_total"]:
        bad.append(f"{after['engine_faults_total']:g} steps of the engine failed")
    if after["rss_beside"] - before["rss_beside"] > RSS_GROWTH * before["rss"]:
        grown = (after["rss_beside"] - before["rss_beside"]) / 2**20
        bad.append(f"{grown:,.0f} MiB more are resident beside pages and adapters, {before['rss'] / 2**20:,.0f} before")
    return bad


def figures(tally: Tally) -> dict[str, float]:
    """Rates and times, as the clients saw them. Answers that were given up count neither as requests nor tokens."""
    streamed = [heard for heard in tally.answers if heard.plan.body["stream"]]
    gaps = [later - one for heard in streamed for one, later in zip(heard.pieces, heard.pieces[1:], strict=False)]
    found = {
        "requests_per_s": len(tally.answers) / tally.seconds,
        "tokens_per_s": sum(heard.usage["completion_tokens"] for heard in tally.answers) / tally.seconds,
    }
    timed = {
        "to_first_token": [heard.pieces[0] - heard.asked for heard in streamed],
        "to_first_token_with_waits": [heard.pieces[0] - heard.first_asked for heard in streamed],
        "between_tokens": gaps,
        "whole_request": [heard.done - heard.asked for heard in tally.answers],
    }
    for name, times in timed.items():
        found |= {f"{name}_p{share}": float(np.percentile(times, share)) for share in (50, 95)}
    return found


def table(document: dict[str, Any]) -> str:
    """In words."""
    rates, before, after = document["figures"], document["before"], document["after"]
    lines = [
        "| what | p50 | p95 |",
        "| --- | --- | --- |",
        *(
            f"| {words} | {rates[f'{name}_p50']:.3f} s | {rates[f'{name}_p95']:.3f} s |"
            for name, words in (
                ("to_first_token", "time to first token, from the try that was taken"),
                ("to_first_token_with_waits", "the same from the first try, with the waits of 429"),
                ("between_tokens", "between two pieces of a stream"),
                ("whole_request", "whole request"),
            )
        ),
        "",
        f"{rates['requests_per_s']:.1f} requests and {rates['tokens_per_s']:.0f} tokens a second; "
        f"{document['clients']} clients × {document['requests']} requests, {document['adapters']} adapters by Zipf's "
        f"law, {document['seconds']:.0f} s.",
        f"Answered {document['answered']}, given up by their clients {sum(document['left'].values())} "
        f"({'; '.join(f'{name}: {count}' for name, count in sorted(document['left'].items()))}), "
        f"told to come back {document['told_to_wait']} times.",
        f"Held to the engine: {document['compared']} answers, {document['different']} differ. "
        f"Lost {document['lost']}, wrong {document['wrong']}.",
        f"Resident {before['rss'] / 2**20:,.0f} MiB before and {after['rss'] / 2**20:,.0f} MiB after; "
        f"pages with memory {before['kv_pages_made']:.0f} and {after['kv_pages_made']:.0f}; adapters in memory "
        f"{before['adapter_bytes'] / 2**20:,.0f} and {after['adapter_bytes'] / 2**20:,.0f} MiB; held by answers: "
        f"{after['kv_pages_held']:.0f} pages.",
        f"The server took {document['cpu_seconds']:.0f} s of processor time, the whole machine "
        f"{document['machine_busy_seconds']:.0f} s.",
    ]
    return "\n".join(lines) + "\n"


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--requests", type=int, default=REQUESTS, help="of each client")
    parser.add_argument("--adapters", type=int, default=100)
    parser.add_argument("--room", default="512m", help="memory for adapters (serve.adapters)")
    parser.add_argument("--queue", default="12k", help="tokens that may wait (serve.queue)")
    parser.add_argument("--tokens", default="12k", help="tokens of pages (serve.tokens)")
    parser.add_argument("--sample", type=int, default=400, help="answers held to the engine's own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", help="model folder (default: smollm2-135m-instruct, fetched)")
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    whole = (given.clients, given.requests) == (CLIENTS, REQUESTS)
    given.results = given.results or (results.FOLDER if whole else PEERS / "trials")
    return given


def main() -> None:
    given = options()
    work, model = PEERS / "work" / "serve", model_folder(given.model)
    folder = work / "adapters"
    names = adapters.make(folder, model, given.adapters)
    shown = work / "shown"  # the server takes all that lie in its folder
    shutil.rmtree(shown, ignore_errors=True)
    shown.mkdir()
    for name in names:
        shutil.copytree(folder / name, shown / name, copy_function=lambda a, b: Path(b).hardlink_to(a))
    words = [model, "--adapters", str(shown), f"serve.queue={given.queue}", f"serve.tokens={given.tokens}"]
    with served([*words, f"serve.adapters={given.room}"], work / "log.txt") as server:
        mix = Mix(Path(model).name, names, seed=given.seed)
        found = load_on(server, mix, given)
    tally: Tally = found.pop("tally")
    from storm.truth import Truth, sample

    compared: list[Heard] = sample(tally.answers, given.sample)
    differences = Truth(model, {name: folder / name for name in names}).differences(compared)
    bad = faults({"tally": tally, **found}, given.clients * given.requests, differences)
    document = {
        "hardware": results.output_of("hardware.py"),
        **{
            name: getattr(given, name)
            for name in ("clients", "requests", "adapters", "room", "queue", "tokens", "seed")
        },
        "answered": len(tally.answers),
        "left": dict(tally.left),
        "told_to_wait": tally.told_to_wait,
        "lost": len(tally.lost),
        "wrong": len(tally.wrong),
        "seconds": tally.seconds,
        "compared": len(compared),
        "different": len(differences),
        "faults": bad,
        "figures": figures(tally),
        **found,
    }
    results.write("serve", document, table(document), given.results)
    if bad:
        sys.exit("\n".join(["not as it must be:", *bad[:20]]))


if __name__ == "__main__":
    main()
