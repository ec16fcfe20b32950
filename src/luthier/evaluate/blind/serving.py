"""The page of a blind comparison, on this machine alone: Python's own server, nothing from anywhere else.

It never knows the key. Each verdict is on the disk before the page hears that it was taken.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from luthier.errors import LuthierError
from luthier.evaluate.blind.folder import Blind, verdict_of

PAGE = Path(__file__).with_name("page.html")
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'"
)
LONGEST = 10_000
"""Bytes of a verdict, and more than it can have."""
MOST = 1_000_000


def server(blind: Blind, port: int) -> ThreadingHTTPServer:
    """A server that is ready to run, at 127.0.0.1. Raises LuthierError where the port is taken."""
    assert blind.items  # what is wrong with the folder is told before the page opens
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), partial(Handler, blind))
    except OSError as error:
        raise LuthierError(
            f"the page cannot be served at port {port}: {error.strerror}", where="--port", fix="name another, or 0"
        ) from error


def state(blind: Blind, rater: str, at: int | None) -> dict[str, Any]:
    """What the page shows: the item at a place of the rater's order (None: the first that is not judged yet)."""
    order, said = blind.order(rater), blind.said().get(rater, {})
    if at is None:
        at = next((place for place, name in enumerate(order) if name not in said), len(order))
    at = max(0, min(at, len(order)))
    told: dict[str, Any] = {"at": at, "total": len(order), "done": len(said)}
    if at == len(order):
        return told
    name = order[at]
    item, left = blind.items[name], blind.left(rater, name)
    known = said.get(name)
    return {
        **told,
        "item": name,
        "prompt": [{"role": role, "text": text} for role, text in item.prompt],
        "left": item.x if left == "x" else item.y,
        "right": item.y if left == "x" else item.x,
        "said": known if known in (None, "tie") else "left" if known == left else "right",
    }


class Handler(BaseHTTPRequestHandler):
    """One request."""

    def __init__(self, blind: Blind, *args: Any, **keys: Any) -> None:
        self.blind = blind
        super().__init__(*args, **keys)

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        if not self._is_ours():
            return
        if address.path == "/":
            self._send(200, PAGE.read_bytes(), "text/html; charset=utf-8")
        elif address.path == "/item":
            asked = {key: values[0] for key, values in parse_qs(address.query).items()}
            rater, at = asked.get("rater", "").strip(), asked.get("at", "")
            if not rater or not (at == "" or at.isdigit()):
                self._tell(400, {"error": "name a rater, and a place by its number"})
                return
            self._answer(lambda: state(self.blind, rater, int(at) if at else None))
        else:
            self._tell(404, {"error": "there is nothing here"})

    def do_POST(self) -> None:
        told = self.headers.get("content-length", "")
        length = int(told) if told.isdigit() else 0
        given = self.rfile.read(min(length, MOST))  # read in any case: who is not heard out hears no answer
        if not self._is_ours():
            return
        if self.path != "/verdict":
            self._tell(404, {"error": "there is nothing here"})
            return
        # a form of another site cannot send this type without asking first
        if self.headers.get("content-type", "").partition(";")[0] != "application/json":
            self._tell(415, {"error": "a verdict is JSON"})
            return
        if length > LONGEST:
            self._tell(413, {"error": "that is no verdict"})
            return
        try:
            body = json.loads(given)
            rater, item, which = (str(body[key]) for key in ("rater", "item", "said"))
            if which not in ("left", "right", "tie") or item not in self.blind.items or not rater.strip():
                raise ValueError(which)
        except (ValueError, KeyError, TypeError, RecursionError):
            self._tell(400, {"error": "a verdict names rater, item, and left, right or tie"})
            return
        rater = rater.strip()
        self._answer(lambda: self._say(rater, item, which))

    def _say(self, rater: str, item: str, which: str) -> dict[str, Any]:
        self.blind.say(rater, item, verdict_of(self.blind.left(rater, item), which))
        return state(self.blind, rater, None)

    def _answer(self, made: Any) -> None:
        """What was asked for, or in words why not."""
        try:
            content = made()
        except (LuthierError, OSError) as error:
            self._tell(500, {"error": str(error)})
            return
        self._tell(200, content)

    def _is_ours(self) -> bool:
        """Is it asked for by this machine's name? Another site that has its name point here is not answered."""
        host = self.headers.get("host", "").rpartition(":")[0] or self.headers.get("host", "")
        if host in ("127.0.0.1", "localhost"):
            return True
        self._tell(421, {"error": "this page is for this machine alone"})
        return False

    def _tell(self, status: int, content: Mapping[str, Any]) -> None:
        self._send(status, json.dumps(content).encode(), "application/json")

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in (
            ("content-type", kind),
            ("content-length", str(len(body))),
            ("cache-control", "no-store"),
            ("content-security-policy", POLICY),
            ("x-content-type-options", "nosniff"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal is for people."""
