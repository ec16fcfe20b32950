"""Requests that mean harm, or nothing: each is answered, and the server goes on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from serving import Served, byte_model, serving

ASKED: Any = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile") / "base"
    byte_model(folder, context=4096, endless=True)
    return folder


@pytest.fixture(scope="module")
def served(base: Path) -> Iterator[Served]:
    with serving([str(base)]) as made:
        yield made
        assert made.post("/v1/completions", {"prompt": "a", "max_tokens": 2}).status_code == 200
        assert made.get("/health").json()["status"] == "ok"


HARM: list[tuple[bytes, int]] = [
    (b"", 400),
    (b"\xff\xfe\x00", 400),
    (b"null", 400),
    (b'"text"', 400),
    (b"[" * 100_000, 400),
    (b'{"prompt":' * 10_000 + b"1" + b"}" * 10_000, 400),
    (b'{"prompt": "a", "n": 1000000000}', 400),
    (b'{"prompt": "a", "n": 1e400}', 400),
    (b'{"prompt": "a", "best_of": 1000000000}', 400),
    (b'{"prompt": "a", "temperature": NaN}', 400),
    (b'{"prompt": "a", "temperature": -Infinity}', 400),
    (b'{"prompt": "a", "top_p": 0}', 400),
    (b'{"prompt": "a", "seed": 1e30}', 400),
    (b'{"prompt": "\\ud800\\ud800", "max_tokens": 1}', 400),
    (b'{"prompt": "\\u0000\\u0001", "max_tokens": 1}', 200),
    (b'{"prompt": "a", "stop": ["' + b"x" * 5000 + b'"]}', 400),
    (b'{"prompt": "a", "stop": ["", "b"], "max_tokens": 1}', 200),
    (b'{"prompt": "a", "max_tokens": 99999999999999999999}', 200),
    (b'{"prompt": "a", "logit_bias": {"-1": 1}}', 400),
    (b'{"prompt": "a", "logit_bias": {"1": 1e308}}', 400),
    (b'{"prompt": [1e3]}', 400),
    (b'{"prompt": [true]}', 400),
    (b'{"prompt": {"a": 1}}', 400),
    (b'{"prompt": "a", "model": ["base"]}', 400),
    (b'{"prompt": "a", "model": "../../etc/passwd"}', 404),
    (b'{"prompt": "a", "model": "' + b"m" * 100_000 + b'"}', 404),
    (b'{"prompt": "a", "model": "base\\u0000"}', 404),
    (b'{"prompt": "a", "stream": "yes"}', 400),
    (b'{"prompt": "a", "prompt": "b", "max_tokens": 1}', 200),
    (b'{"prompt": "a", "__class__": "x"}', 400),
    (b'{"prompt": "a", "' + b"k" * 100_000 + b'": 1}', 400),
]


@pytest.mark.parametrize("body,status", HARM, ids=range(len(HARM)))
def test_bodies_that_mean_harm(served: Served, body: bytes, status: int) -> None:
    if b"99999999999999999999" in body:
        body = body.replace(b"}", b', "stop_token_ids": [0]}')
    answer = served.http.post(
        served.url + "/v1/completions", content=body, headers={"content-type": "application/json"}
    )
    assert answer.status_code == status, answer.text[:500]
    if status != 200:
        assert answer.json()["error"]["message"] and len(answer.text) < 2000


def test_a_body_of_a_hundred_megabytes(served: Served) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * 2**20

    answer = served.http.post(
        served.url + "/v1/completions", content=parts(), headers={"content-type": "application/json"}
    )
    assert answer.status_code == 413


def test_words_that_are_no_http(served: Served) -> None:
    for words in (b"\x16\x03\x01\x02\x00\x01", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"x" * 100_000):
        with socket.create_connection(("127.0.0.1", served.port)) as made:
            made.settimeout(5)
            made.sendall(words)
            made.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                assert made.recv(4096)[:10] in (b"HTTP/1.1 4", b"HTTP/1.1 2", b"")
    for path in ("/../../etc/passwd", "/v1/../page.html", "/v1/models/%2e%2e%2fetc", "//", "/v1/adapters/..%00"):
        assert served.get(path).status_code in (404, 405)


def test_nothing_of_a_prompt_is_in_the_log(base: Path, caplog: pytest.LogCaptureFixture) -> None:
    body = {"prompt": "my secret", "max_tokens": 2}
    for asked in (False, True):
        caplog.clear()
        with serving([str(base)], log_prompts=asked) as served, caplog.at_level("INFO", logger="luthier.serve"):
            served.post("/v1/completions", body)
            served.post("/v1/chat/completions", {"messages": [{"role": "my secret", "content": "my secret"}]})
            served.idle()
        assert "POST /v1/completions 200" in caplog.text and ("secret" in caplog.text) == asked


def test_a_line_of_the_log_is_one(base: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level("INFO", logger="luthier.serve"),
        serving([str(base)]) as served,
    ):  # it is written after the answer
        served.get("/v1/models/a%0a12:00:00%20forged")
    assert "forged" in caplog.text and "\n12:00:00" not in caplog.text


def test_told_to_stop_the_command_ends_well(base: Path) -> None:
    """`luthier serve` as a process of its own: SIGTERM lets what runs end, and the status is 0."""
    code = "from luthier.cli import main; main()"
    made = subprocess.Popen(
        [sys.executable, "-c", code, "serve", str(base), "--port", "0", "serve.seconds=30"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        assert made.stderr is not None
        line = next(line for line in made.stderr if "serving base at" in line)
        url = line.split(" at ")[1].split()[0]
        with (
            httpx.Client(timeout=30) as client,
            client.stream(
                "POST",
                url + "/v1/completions",
                json={"prompt": "a", "max_tokens": 60, "temperature": 0, "stream": True},
            ) as stream,
        ):
            lines = stream.iter_lines()
            next(lines)
            made.send_signal(signal.SIGTERM)
            events = [line for line in lines if line.startswith("data: ")]
        assert events[-1] == "data: [DONE]"
        assert json.loads(events[-2].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
        end = time.monotonic() + 10
        while made.poll() is None:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert made.returncode == 0
    finally:
        made.kill()
        made.wait()
