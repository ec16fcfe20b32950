"""A small server that speaks OpenAI's protocol over HTTP, with answers of the test's own."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import tiny
from tiny_tokenizers import words

from luthier.engines import ENGINES
from luthier.engines.openai import wire
from luthier.models import OnDisk
from luthier.types import Request, Sampling, Turn

STOP = 5
TURNS = (Turn("system", "be brief"), Turn("user", "hello"))

Answer = tuple[int, dict[str, str], Any]
"""Status, headers, and a body: JSON, or bytes as they stand."""


@dataclass
class Endpoint:
    """What it was asked, and what it answers."""

    url: str
    answer: Callable[[str, dict[str, Any]], Answer]
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    together: int = 0
    """The most calls that were under way at a time."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    now: int = 0


def said(text: str, *, finish: str = "stop", read: int = 10, written: int = 5, chat: bool = True) -> Answer:
    """A completion."""
    words = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
    return 200, {}, {"choices": [{"index": 0, **words, "finish_reason": finish}], "usage": usage}


def fault(status: int, message: str, **headers: str) -> Answer:
    """A refusal."""
    return status, {name.replace("_", "-"): value for name, value in headers.items()}, {"error": {"message": message}}


@contextmanager
def endpoint(answer: Callable[[str, dict[str, Any]], Answer]) -> Iterator[Endpoint]:
    """It listens while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with found.lock:
                found.asked.append((self.path, body))
                found.headers.append(dict(self.headers))
                found.now += 1
                found.together = max(found.together, found.now)
            status, headers, content = found.answer(self.path, body)
            with found.lock:
                found.now -= 1
            raw = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(raw)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            """A client that has left, as one that was not answered in time does."""

    server = Server(("127.0.0.1", 0), Handler)
    found = Endpoint(f"http://127.0.0.1:{server.server_address[1]}/v1", answer)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own, no key, and short waits; autouse where it is imported."""
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(wire, "FIRST_WAIT", 0.01)


def opened(url: str, **keys: Any) -> Any:
    """The engine that asks the endpoint."""
    made = ENGINES.build("openai", {"url": url, "model": "m", "retries": 2, **keys})
    return made.open(OnDisk(words(tiny.VOCABULARY + 1), Path("tiny")), {STOP})


def request(place: int = 0, n: int = 1, **sampling: Any) -> Request:
    """A conversation like others, but for its place."""
    settings = Sampling(**{"max_new_tokens": 20, **sampling})
    return Request((7, 8, 9, 10 + place), settings, n, id=place, turns=(*TURNS[:1], Turn("user", f"hello {place}")))
