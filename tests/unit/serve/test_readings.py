"""What is read without writing, beside answers under way: row after row, counted, and given up with its client."""

from __future__ import annotations

import json
import socket
import threading
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


class Watched:
    """What the engine's thread does, in order; it stands still in the second reading of rows until it is let go."""

    def __init__(self, held: bool) -> None:
        self.seen: list[tuple[str, float]] = []
        """`step`, or by which adapter is read, and the time of the last sign of life."""
        self.go = threading.Event()
        if not held:
            self.go.set()

    @property
    def reads(self) -> list[str]:
        return [kind for kind, _ in self.seen if kind != "step"]

    def until_second(self) -> None:
        until(lambda: len(self.reads) == 2)


@contextmanager
def watched(served: Served, *, held: bool = False) -> Iterator[Watched]:
    worker = served.house.worker
    engine = worker.engine
    step, model, rewards = engine.step, engine.model, RewardModel.rewards
    made = Watched(held)

    def read(adapter: str | None) -> None:
        made.seen.append((adapter or "base", worker.last_step))
        if len(made.reads) == 2:
            assert made.go.wait(20)

    def stepped(*told: Any) -> Any:
        made.seen.append(("step", worker.last_step))
        return step(*told)

    def opened(adapter: str | None = None) -> Any:
        read(adapter)
        return model(adapter)

    def judged(self: Any, rows: Any) -> Any:
        read(None)
        return rewards(self, rows)

    engine.step, engine.model, RewardModel.rewards = stepped, opened, judged
    try:
        yield made
    finally:
        made.go.set()
        until(lambda: not worker.alive or not worker._read_by)
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
        with watched(served) as made:
            answer = served.post(path, body, ADMIN)
        assert answer.status_code == 200, answer.text
        reads = [number for number, (kind, _) in enumerate(made.seen) if kind != "step"]
        assert len(reads) == ROWS
        gaps = [made.seen[one + 1 : other] for one, other in pairwise(reads)]
        assert all(any(kind == "step" for kind, _ in gap) for gap in gaps)
    finally:
        stream.close()
    assert len(answer.json().get("data") or answer.json()["choices"]) == ROWS
    until(lambda: not served.house.worker.busy)


@pytest.mark.parametrize("what", ASKED)
def test_a_client_that_leaves_is_read_no_further(served: Served, what: str) -> None:
    path, body = ASKED[what]
    before = served.house.metrics.counted("cancelled", reason="left")
    with watched(served, held=True) as made:
        client = raw(served, path, body)
        made.until_second()
        client.close()
        until(lambda: served.house.metrics.counted("cancelled", reason="left") == before + 1)
        now = served.house.worker.gauges()
        assert now["queue_tokens"] == now["queue_requests"] == 0, "it holds no place while its last part ends"
        made.go.set()
        until(lambda: not served.house.worker.busy)
        served.post("/v1/completions", {"model": "base", "prompt": "a", "max_tokens": 1}, ADMIN)
    assert len(made.reads) == 2, "the rest of its rows was never begun"


def test_rows_count_as_their_tokens_until_they_are_read(served: Served) -> None:
    each = len(TEXTS[0])
    with watched(served, held=True) as made, ThreadPoolExecutor() as pool:
        running = pool.submit(served.post, "/v1/embeddings", ASKED["embeddings"][1], ADMIN)
        made.until_second()
        assert served.house.worker.gauges()["queue_tokens"] == (ROWS - 1) * each
        full = served.post("/v1/embeddings", {"model": "base", "input": ["x" * 8000] * 3}, ADMIN)
        assert (full.status_code, full.json()["error"]["code"]) == (429, "queue_full")
        made.go.set()
        assert running.result(20).json()["usage"]["prompt_tokens"] == ROWS * each
        stamps = [last for _, last in made.seen]
        assert stamps == sorted(set(stamps)), "each part that is done is a sign of life"
    assert served.house.worker.gauges()["queue_tokens"] == 0
    with watched(served, held=True) as made, ThreadPoolExecutor() as pool:  # rewards, by the judge's own tokens
        running = pool.submit(served.post, "/v1/score", ASKED["score"][1], ADMIN)
        made.until_second()
        assert served.house.worker.gauges()["queue_tokens"] > (ROWS - 1) * each
        made.go.set()
        assert running.result(20).status_code == 200


def test_two_clients_take_turns(served: Served) -> None:
    with watched(served, held=True) as made, ThreadPoolExecutor() as pool:
        long = pool.submit(served.post, "/v1/embeddings", ASKED["embeddings"][1], ADMIN)
        made.until_second()
        short = pool.submit(served.post, "/v1/embeddings", {"model": "first", "input": "a"}, ADMIN)
        until(lambda: served.house.worker.gauges()["queue_requests"] == 2)
        made.go.set()
        assert long.result(20).status_code == short.result(20).status_code == 200
    assert [kind == "base" for kind in made.reads] == [True, True, False] + [True] * (ROWS - 2)


def test_an_adapter_stays_until_it_was_read_by(served: Served) -> None:
    with watched(served, held=True) as made, ThreadPoolExecutor() as pool:
        running = pool.submit(served.post, "/v1/embeddings", ASKED["by an adapter"][1], ADMIN)
        made.until_second()
        assert served.http.delete(f"{served.url}/v1/adapters/first", headers=ADMIN).status_code == 200
        assert served.post("/v1/embeddings", ASKED["by an adapter"][1], ADMIN).status_code == 404
        made.go.set()
        assert running.result(20).status_code == 200
    until(lambda: not served.house.adapters.loaded)
    assert served.post("/v1/adapters", {"name": "first"}, ADMIN).status_code == 200


def test_a_server_that_ends_tells_who_waits_for_rows(places: Path) -> None:
    ends = serving([str(places / "base")], drain=0.1)
    with ends as served, watched(served, held=True) as made, ThreadPoolExecutor() as pool:
        running = pool.submit(served.post, "/v1/embeddings", ASKED["embeddings"][1])
        made.until_second()
        served.server.handle_exit(15, None)
        until(lambda: served.house.worker._stopping)
        made.go.set()
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
