"""What is read without writing, beside answers under way: row after row, counted, and given up with its client."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reward_runs
from serving import Served, byte_model, lora, serving

from luthier.scorers.reward_model import RewardModel
from luthier.serve.readings import AT_ONCE, parts_of
from luthier.types import Encoded

ROWS = 8
TEXTS = [f"{n:02} " + "word " * 119 for n in range(ROWS)]  # a byte is a token: two rows are more than are read at once
KEYS = ("admin the-admin-key",)
ADMIN = {"authorization": "Bearer the-admin-key"}
ENDLESS: Any = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 6000, "temperature": 0}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readings")
    lora(folder / "adapters" / "first", byte_model(folder / "base", context=8192, endless=True), 1)
    made = reward_runs.policy(folder / "base")
    reward_runs.write_run(folder / "judge", made, folder / "base")
    return folder


@pytest.fixture(scope="module")
def served(places: Path) -> Iterator[Served]:
    given = [str(places / "base"), str(places / "judge")]
    with serving(given, places / "adapters", KEYS, queue=20_000) as made:
        yield made


ASKED: Any = {
    "embeddings": ("/v1/embeddings", {"model": "base", "input": TEXTS}),
    "by an adapter": ("/v1/embeddings", {"model": "first", "input": TEXTS}),
    "echo": ("/v1/completions", {"model": "base", "prompt": TEXTS, "echo": True, "max_tokens": 0, "logprobs": 1}),
    "score": ("/v1/score", {"model": "judge", "messages": ENDLESS["messages"], "responses": TEXTS}),
}


@contextmanager
def watched(served: Served, slow: float = 0.0) -> Iterator[list[tuple[str, float]]]:
    """What the engine's thread does, in order: `step`s, and each time that rows are read, `slow` seconds longer."""
    engine = served.house.worker.engine
    step, model, rewards = engine.step, engine.model, RewardModel.rewards
    seen: list[tuple[str, float]] = []

    def read() -> None:
        time.sleep(slow)
        seen.append(("read", served.house.worker.last_step))

    def stepped() -> Any:
        seen.append(("step", served.house.worker.last_step))
        return step()

    def opened(adapter: str | None = None) -> Any:
        read()
        return model(adapter)

    def judged(self: Any, rows: Any) -> Any:
        read()
        return rewards(self, rows)

    engine.step, engine.model, RewardModel.rewards = stepped, opened, judged
    try:
        yield seen
    finally:
        engine.step, engine.model, RewardModel.rewards = step, model, rewards


def raw(served: Served, path: str, body: Any) -> socket.socket:
    content = json.dumps(body).encode()
    made = socket.create_connection(("127.0.0.1", served.port))
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    head += f"authorization: {ADMIN['authorization']}\r\n"
    made.sendall(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
    return made


def until(holds: Any, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.mark.parametrize("what", ASKED)
def test_answers_go_on_between_the_rows(served: Served, what: str) -> None:
    path, body = ASKED[what]
    stream = raw(served, "/v1/chat/completions", {**ENDLESS, "model": "base", "stream": True})
    try:
        until(lambda: served.house.worker.engine.busy)
        with watched(served, 0.005) as seen:
            answer = served.post(path, body, ADMIN)
        assert answer.status_code == 200, answer.text
        reads = [number for number, (kind, _) in enumerate(seen) if kind == "read"]
        assert len(reads) == ROWS
        gaps = [seen[one + 1 : other] for one, other in pairwise(reads)]
        assert all(any(kind == "step" for kind, _ in gap) for gap in gaps)
    finally:
        stream.close()
    assert len(answer.json().get("data") or answer.json()["choices"]) == ROWS
    until(lambda: not served.house.worker.busy)


@pytest.mark.parametrize("what", ASKED)
def test_a_client_that_leaves_is_read_no_further(served: Served, what: str) -> None:
    path, body = ASKED[what]
    before = served.house.metrics.counted("cancelled", reason="left")
    with watched(served, 0.02) as seen:
        made = raw(served, path, body)
        until(lambda: len(seen) >= 2)
        made.close()
        until(lambda: not served.house.worker.busy)
        assert len(seen) < ROWS - 1, "the rest of its rows was never begun"
    assert served.house.worker.gauges()["queue_tokens"] == served.house.worker.gauges()["queue_requests"] == 0
    assert served.house.metrics.counted("cancelled", reason="left") == before + 1


def test_rows_count_as_their_tokens_until_they_are_read(served: Served) -> None:
    tokens = sum(map(len, TEXTS))
    with watched(served, 0.02) as seen, ThreadPoolExecutor() as pool:
        running = pool.submit(served.post, "/v1/embeddings", ASKED["embeddings"][1], ADMIN)
        until(lambda: len(seen) == 2)
        waiting = served.house.worker.gauges()["queue_tokens"]
        assert tokens // 2 < waiting < tokens
        full = served.post("/v1/embeddings", {"model": "base", "input": ["x" * 8000] * 3}, ADMIN)
        assert (full.status_code, full.json()["error"]["code"]) == (429, "queue_full")
        assert running.result(20).json()["usage"]["prompt_tokens"] == tokens
        stamps = [last for _, last in seen]
        assert stamps == sorted(set(stamps)), "each part that is done is a sign of life"
    assert served.house.worker.gauges()["queue_tokens"] == 0
    with watched(served, 0.02) as seen, ThreadPoolExecutor() as pool:  # rewards are counted by the judge's own tokens
        running = pool.submit(served.post, "/v1/score", ASKED["score"][1], ADMIN)
        until(lambda: len(seen) == 2)
        assert served.house.worker.gauges()["queue_tokens"] > tokens // 2
        assert running.result(20).status_code == 200


def test_two_clients_take_turns(served: Served) -> None:
    with watched(served, 0.02) as seen, ThreadPoolExecutor() as pool:
        long = pool.submit(served.post, "/v1/embeddings", ASKED["embeddings"][1], ADMIN)
        until(lambda: len(seen) >= 1)
        short = served.post("/v1/embeddings", {"model": "base", "input": "a"}, ADMIN)
        assert short.status_code == 200 and len(seen) < ROWS
        assert long.result(20).status_code == 200


def test_an_adapter_stays_until_it_was_read_by(served: Served) -> None:
    with watched(served, 0.02) as seen, ThreadPoolExecutor() as pool:
        running = pool.submit(served.post, "/v1/embeddings", ASKED["by an adapter"][1], ADMIN)
        until(lambda: len(seen) >= 2)
        assert served.http.delete(f"{served.url}/v1/adapters/first", headers=ADMIN).status_code == 200
        assert served.post("/v1/embeddings", ASKED["by an adapter"][1], ADMIN).status_code == 404
        assert running.result(20).status_code == 200
    until(lambda: not served.house.adapters.loaded)
    assert served.post("/v1/adapters", {"name": "first"}, ADMIN).status_code == 200


def test_a_server_that_ends_tells_who_waits_for_rows(places: Path) -> None:
    ends = serving([str(places / "base")], drain=0.1)
    with ends as served, watched(served, 0.1) as seen, ThreadPoolExecutor() as pool:
        running = pool.submit(served.post, "/v1/embeddings", ASKED["embeddings"][1])
        until(lambda: len(seen) >= 1)
        served.server.handle_exit(15, None)
        answer = running.result(20)
    assert answer.status_code == 503 and "stopped" in answer.json()["error"]["message"]


def test_a_part_has_a_row_or_as_many_as_are_read_at_once() -> None:
    def row(*ids: int) -> Encoded:
        return Encoded((np.array(ids, np.int32),), (np.zeros(len(ids), np.float32),))

    def sizes(rows: list[Encoded], *, shared: bool) -> list[tuple[int, int]]:
        parts = parts_of(rows, lambda some: [len(one.ids[0]) for one in some], shared=shared)
        return [(len(part.work()), part.cost) for part in parts]

    short, long = row(*range(200)), row(*range(AT_ONCE + 100))
    assert sizes([short] * 5, shared=False) == [(2, 400), (2, 400), (1, 200)]
    assert sizes([short] * 5, shared=True) == [(5, 1000)]  # what they begin with is read once
    assert sizes([long, short, long], shared=False) == [(1, 612), (1, 200), (1, 612)]
    assert sizes([long, long], shared=True) == [(2, 1224)]
    assert sizes([long, row(*range(300), *range(700))], shared=True) == [(1, 612), (1, 1000)]
    assert sizes([], shared=True) == []
