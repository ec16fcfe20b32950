"""What a server does not put up with: too much, too long, too many, without a key, and clients that leave."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from serving import Served, byte_model, serving

from luthier.errors import LuthierError
from luthier.serve import worker
from luthier.serve.api.guard import Guard, is_local, must_be_guarded
from luthier.serve.faults import ApiFault
from luthier.types import Request, Sampling

ASKED: Any = [{"role": "user", "content": "hello"}]
LONG: Any = {"messages": ASKED, "max_tokens": 7000, "temperature": 0}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("limits") / "base"
    byte_model(folder, context=8192, endless=True)
    return folder


@pytest.fixture(scope="module")
def served(base: Path) -> Iterator[Served]:
    with serving([str(base)], body=100_000, seconds=20.0, queue=30_000, patience=1.0, rows=4) as made:
        yield made


def raw(
    served: Served, body: Any, *, path: str = "/v1/chat/completions", length: int = 0, buffer: int = 0
) -> socket.socket:
    """A connection by hand, the request sent. `buffer`: bytes that the system keeps of what is not read."""
    content = json.dumps(body).encode()
    made = socket.socket()
    if buffer:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    made.connect(("127.0.0.1", served.port))
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    made.sendall(f"{head}content-length: {length or len(content)}\r\n\r\n".encode() + content)
    return made


def begins(made: socket.socket) -> None:
    """Wait for the first of a stream."""
    heard = b""
    while b"data: " not in heard:
        part = made.recv(65536)
        assert part, heard
        heard += part


@pytest.mark.parametrize("when", ["first token", "middle", "whole", "queued"])
def test_a_client_that_leaves_frees_its_rows(served: Served, when: str) -> None:
    served.idle()
    others = [raw(served, {**LONG, "seed": n}) for n in range(4)] if when == "queued" else []
    if others:
        served.until(lambda now: now["luthier_running"] == 4)
    before = served.gauges()
    made = raw(served, {**LONG, "stream": when != "whole", "n": 3 if when != "queued" else 1})
    if when == "middle":
        while b"data: " not in made.recv(4096):
            pass
    elif when != "first token":
        served.until(lambda now: now["luthier_prompt_tokens_total"] > before["luthier_prompt_tokens_total"])
    made.close()
    for other in others:
        other.close()
    after = served.idle()
    name = 'luthier_cancelled_total{reason="left"}'
    started = after["luthier_prompt_tokens_total"] > before["luthier_prompt_tokens_total"]
    assert after.get(name, 0) - before.get(name, 0) == started + len(others)
    assert after["luthier_generated_tokens_total"] - before["luthier_generated_tokens_total"] < 3 * 7000


def test_a_full_queue_is_told_with_when_to_come_back(served: Served) -> None:
    served.idle()
    many = [raw(served, {**LONG, "seed": n}) for n in range(4)]
    served.until(lambda now: now["luthier_running"] == 4)
    many += [raw(served, {**LONG, "seed": n}) for n in range(4)]  # these wait, with 28,000 tokens
    served.until(lambda now: now["luthier_queue_requests"] == 4)
    answer = served.post("/v1/chat/completions", LONG)
    assert answer.status_code == 429 and answer.json()["error"]["code"] == "queue_full"
    assert int(answer.headers["retry-after"]) >= 1
    with pytest.raises(openai.RateLimitError):
        served.client().chat.completions.create(model="base", **{k: LONG[k] for k in ("messages", "max_tokens")})
    for one in many:
        one.close()
    served.idle()
    assert served.post("/v1/chat/completions", {**LONG, "max_tokens": 3}).status_code == 200


def test_a_body_beyond_the_limit(served: Served) -> None:
    answer = served.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "x" * 1_000_000}]})
    assert answer.status_code == 413 and "100000 bytes" in answer.json()["error"]["message"]
    claims = raw(served, {}, length=100 * 2**20)  # and sends no more: the rest is not waited for
    assert b"408" in claims.recv(4096).split(b"\r\n")[0]
    claims.close()


def test_who_says_nothing_is_hung_up_on(served: Served) -> None:
    quiet = socket.create_connection(("127.0.0.1", served.port))
    slow = socket.create_connection(("127.0.0.1", served.port))
    slow.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: ")
    quiet.settimeout(5)
    slow.settimeout(5)
    assert quiet.recv(1) == b"" and slow.recv(1) == b""


def test_a_reader_that_does_not_read_is_given_up(base: Path) -> None:
    with serving([str(base)], patience=0.2, buffer=4096) as served:
        made = raw(served, {**LONG, "stream": True, "logprobs": True, "n": 4}, buffer=4096)
        served.until(lambda now: now.get('luthier_cancelled_total{reason="slow"}', 0) == 1, 20)
        served.idle()
        made.close()


def test_a_request_has_a_time_limit(base: Path) -> None:
    with serving([str(base)], seconds=0.3) as served:
        answer = served.post("/v1/chat/completions", {**LONG, "n": 8})
        assert answer.status_code == 504 and answer.json()["error"]["code"] == "timeout"
        served.idle()


def test_of_an_answer_told_as_a_whole_the_event_loop_hears_once(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, step = served.house.worker, served.house.worker.engine.step
    monkeypatch.setattr(
        worker.engine, "step", lambda *told: (time.sleep(0.01), step(*told))[1]
    )  # so that a stream is kept up with
    served.post("/v1/completions", {"prompt": "a", "max_tokens": 1})  # from now on the worker knows the loop
    asked = Request((65, 66, 67), Sampling(max_new_tokens=40), n=2)

    async def heard(*, whole: bool) -> list[list[tuple[int, int]]]:
        under_way, takes = worker.submit([asked], whole=whole), []
        while sum(len(take) for take in takes) < 2 * 40:
            takes.append([(piece.index, piece.token) for _, piece in await under_way.outbox.take()])
        return takes

    assert worker._loop is not None
    once, often = (
        asyncio.run_coroutine_threadsafe(heard(whole=whole), worker._loop).result(20) for whole in (True, False)
    )
    assert len(once) == 1 and len(often) > 1
    assert once[0] == [piece for take in often for piece in take]


def test_one_connection_too_many_is_told_so_and_disturbs_nobody(base: Path) -> None:
    big = {"messages": [{"role": "user", "content": "x" * 2_000_000}]}
    with serving([str(base)], connections=2) as served:
        assert served.get("/health").status_code == 200  # this client keeps its connection
        other = raw(served, {**LONG, "stream": True})
        begins(other)
        for body in ({**LONG, "max_tokens": 1}, big):
            late = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)
            with pytest.raises(openai.InternalServerError) as told:
                late.chat.completions.create(model="base", **body)
            assert told.value.status_code == 503 and int(told.value.response.headers["retry-after"]) >= 1
            assert told.value.code == "too_many_connections" and "2 connections" in told.value.message
            late.close()
        probe = socket.create_connection(("127.0.0.1", served.port))
        probe.sendall(b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        assert b" 200 OK" in probe.recv(4096)
        quiet = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(4)]  # beyond what is heard of them
        assert quiet[-1].recv(1) == b""
        assert served.post("/v1/completions", {"prompt": "a", "max_tokens": 1}).status_code == 200
        for one in (other, probe, *quiet):
            one.close()
        served.idle()
        again = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=20)
        assert again.models.list().data
        again.close()


def test_an_engine_that_fails_says_so_and_goes_on(base: Path) -> None:
    with serving([str(base)]) as served:
        engine, step = served.house.worker.engine, served.house.worker.engine.step
        fails = threading.Event()

        def failing(*told: Any) -> Any:
            if fails.is_set():
                raise RuntimeError("the disk has melted")
            return step(*told)

        engine.step = failing
        fails.set()
        with ThreadPoolExecutor() as pool:
            many = list(pool.map(lambda n: served.post("/v1/chat/completions", {**LONG, "seed": n}), range(4)))
        assert {one.status_code for one in many} == {500} and "melted" in many[0].json()["error"]["message"]
        health = served.get("/health")
        assert health.status_code == 503 and "melted" in health.json()["fault"]
        fails.clear()
        assert served.post("/v1/chat/completions", {**LONG, "max_tokens": 3}).status_code == 200
        assert served.get("/health").status_code == 200
        served.idle()


def test_memory_goes_back_once_after_work_and_not_again(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []
    monkeypatch.setattr(worker, "RESTS", 0.1)
    monkeypatch.setattr(worker, "give_back", lambda: given.append(time.monotonic()))
    with serving([str(base)]) as served:
        for count in (1, 2):
            assert served.post("/v1/chat/completions", {**LONG, "max_tokens": 3}).status_code == 200
            served.idle()
            end = time.monotonic() + 20
            while len(given) < count:
                assert time.monotonic() < end
                time.sleep(0.02)
            time.sleep(0.5)
            assert len(given) == count


def test_it_ends_when_what_runs_has_ended(base: Path) -> None:
    with serving([str(base)]) as served:
        with ThreadPoolExecutor() as pool:
            running = pool.submit(served.post, "/v1/chat/completions", {**LONG, "max_tokens": 2500})
            served.until(lambda now: now["luthier_running"] == 1)
            served.server.handle_exit(15, None)
            late = served.post("/v1/chat/completions", LONG)
            assert late.status_code == 503 and late.headers["retry-after"]
            assert served.get("/health").json()["status"] in ("draining", "ok")
            assert running.result(20).json()["usage"]["completion_tokens"] == 2500
        end = time.monotonic() + 5
        while served.house.worker.alive:
            assert time.monotonic() < end
            time.sleep(0.02)


def test_it_ends_after_a_while_in_any_case(base: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "luthier.serve")
    with serving([str(base)], drain=0.2) as served, ThreadPoolExecutor() as pool:
        stream = raw(served, {**LONG, "stream": True, "n": 2})
        begins(stream)
        running = pool.submit(served.post, "/v1/chat/completions", {**LONG, "n": 4})
        served.until(lambda now: now["luthier_running"] == 6)
        served.server.handle_exit(15, None)
        answer = running.result(20)
        assert answer.status_code == 503 and "stopped" in answer.json()["error"]["message"]
    stream.close()
    said = [line for line in caplog.messages if line.startswith("POST")]
    answered = [int(line.split(", ")[1].removesuffix(" answered")) for line in said]
    assert len(answered) == 2 and min(answered) > 0, said  # streamed or not, so far they had come


KEYS = ("first-key-123", "admin second-key-123")


def test_keys(base: Path) -> None:
    with serving([str(base)], keys=KEYS) as served:
        body = {**LONG, "max_tokens": 1}

        def status(key: str | None, path: str = "/v1/chat/completions") -> int:
            headers = {} if key is None else {"authorization": f"Bearer {key}"}
            return served.post(path, body, headers=headers).status_code

        assert [status(key) for key in (None, "wrong", "first-key-12", "admin second-key-123")] == [401] * 4
        assert [status(key) for key in ("first-key-123", "second-key-123")] == [200, 200]
        assert status("first-key-123", "/v1/adapters") == 403 and status("wrong", "/v1/adapters") == 401
        assert served.get("/metrics").status_code == 401 and served.get("/v1/none").status_code == 401
        assert served.get("/health").status_code == served.get("/").status_code == 200
        with pytest.raises(openai.AuthenticationError):
            served.client(api_key="not this one").models.list()
        assert served.client(api_key="first-key-123").models.list().data


def test_a_name_that_was_pointed_at_this_machine_is_not_its_own() -> None:
    guard = Guard()
    for host in ("127.0.0.1:8000", "localhost", "[::1]:8000", ""):
        guard.check({"host": host})
    for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "10.0.0.1"):
        with pytest.raises(ApiFault, match="its own machine"):
            guard.check({"host": host})
    Guard(("some-key-123",)).check({"host": "evil.example", "authorization": "Bearer some-key-123"})


def test_others_reach_no_server_without_keys() -> None:
    assert is_local("127.0.0.1") and is_local("::1") and not is_local("0.0.0.0")
    with pytest.raises(LuthierError, match="other machines could reach"):
        must_be_guarded("0.0.0.0", [])
    must_be_guarded("0.0.0.0", ["long-enough"])
    with pytest.raises(LuthierError, match="8 characters"):
        must_be_guarded("127.0.0.1", ["admin short"])


def test_what_is_wrong_with_the_command_is_told_before_a_model_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    from luthier.serve import listening

    for given, host, message in (
        (["no such model"], "0.0.0.0", "other machines could reach"),
        (["serve.qeue=1", "no such model"], "127.0.0.1", "did you mean serve.queue"),
        (["serve.queue=1"], "127.0.0.1", "what is to be served"),
    ):
        with pytest.raises(LuthierError, match=message):
            listening.serve(given, None, (host, 0), [], print)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(LuthierError, match=r"(?s)uvicorn.*pip install 'luthier\[serve\]'"):
        listening.serve(["no such model"], None, ("127.0.0.1", 0), [], print)


def test_a_port_that_is_taken(served: Served) -> None:
    from luthier.serve import listening

    with pytest.raises(LuthierError, match="cannot listen"):
        listening.listen("127.0.0.1", served.port)


def test_each_hears_its_own_answer(served: Served, base: Path) -> None:
    """A hundred at once, each with a prompt of its own, some streaming, some leaving: what they hear is what the engine
    says to each alone."""
    from luthier.data import Template
    from luthier.engines import LocalEngine
    from luthier.models import load
    from luthier.recipe import Model
    from luthier.types import RAW, Request, Sampling, Turn

    policy = load(Model(name=str(base)), train=False, device="cpu")
    template = Template(policy.tokenizer)
    engine = LocalEngine(policy.module, policy.tokenizer, template.stop_ids)
    prompts = [f"nonce {n * 7919 % 1000:03d} {'and on ' * (n % 4)}" for n in range(100)]
    asked = [
        Request(
            tuple(template.prompt_ids([Turn(RAW, prompt)])), Sampling(max_new_tokens=8, temperature=0.8, seed=n), id=n
        )
        for n, prompt in enumerate(prompts)
    ]
    wanted = {int(one.request): one.text for one in engine.run(asked)}
    served.idle()
    client = served.client(max_retries=20)

    def ask(n: int) -> str:
        body: Any = {
            "model": "base",
            "prompt": prompts[n],
            "max_tokens": 8,
            "temperature": 0.8,
            "seed": n,
            "echo": True,
        }
        if n % 3:
            return client.completions.create(**body).choices[0].text
        stream = client.completions.create(**body, stream=True)
        if n % 9 == 0:
            stream.close()
            return ""
        return "".join(chunk.choices[0].text for chunk in stream)

    with ThreadPoolExecutor(100) as pool:
        heard = list(pool.map(ask, range(100)))
    expected = ["" if n % 9 == 0 else prompts[n] + wanted[n] for n in range(100)]
    assert heard == expected
    served.idle()
