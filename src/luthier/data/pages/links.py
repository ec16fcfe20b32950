"""Pages of the web by their addresses: asked for once, slowly, and only where the site's robots.txt allows it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar
from urllib.parse import urljoin, urlsplit
from urllib.robotparser import RobotFileParser

from pydantic import Field

from luthier import __version__, cache
from luthier.data.pages.pages import Pages
from luthier.data.reading.formats.shape import BadRow
from luthier.data.reading.materials import Material, PlacedRow, Tell
from luthier.data.reading.text_files import lines
from luthier.run import write_atomically
from luthier.types import Source

if TYPE_CHECKING:
    from luthier.data.reading.cutting.parts import Part

AGENT = "Luthier"
LARGEST = 16 * 2**20
"""Bytes of a page; larger ones are none."""
HOPS = 5
"""Redirections that are followed."""
SECONDS = 30
KINDS = ("text/html", "application/xhtml+xml", "text/plain")


@dataclass
class _Site:
    """What a site allows, and when it was last asked."""

    rules: RobotFileParser
    asked: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Links(Material):
    """A text file of addresses, one a line (# begins a remark). A `path:` may be an address itself."""

    wait: Annotated[float, Field(ge=0)] = 1.0
    """Seconds between two requests to one site; its robots.txt may ask for more."""

    endings: ClassVar = (".txt",)
    gives: ClassVar = "the pages at these addresses, as `pages` reads them; fetched once and kept in the cache"
    mixed: ClassVar = True
    _sites: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def read(self, files: Sequence[Path], tell: Tell) -> Iterator[PlacedRow]:
        for file in files:
            for number, line in lines(file):
                address = line.partition(" #")[0].strip()
                if address and not address.startswith("#"):
                    yield from self.rows_at(address, Source(str(file), number))

    def part_of(self, address: str) -> Part:
        """One address as a part of a feed."""
        from luthier.data.reading.cutting.parts import Part

        def read(tell: Tell) -> Iterator[PlacedRow]:
            return self.rows_at(address, Source(address, 1))

        return Part(address, partial(read, _silent), partial(self._fingerprint, address), telling=read, mixed=True)

    def rows_at(self, address: str, place: Source) -> Iterator[PlacedRow]:
        """The rows of the page at an address, or why there are none."""
        try:
            content, kind, charset = self._kept(address)
        except BadRow as fault:
            yield place, fault
            return
        if kind == "text/plain":
            text = content.decode(charset or "utf-8", "replace").strip()
            yield place, {"text": text} if text else BadRow("the page holds no text")
        else:
            yield from Pages().rows_of(content, place, charset)

    def _fingerprint(self, address: str) -> str:
        try:
            return hashlib.sha256(self._kept(address)[0]).hexdigest()
        except BadRow as fault:
            return f"{address}: {fault}"

    def _kept(self, address: str) -> tuple[bytes, str, str | None]:
        """Content, kind and charset of a page, out of the cache where it was fetched before. Raises BadRow."""
        folder = cache.root() / "pages"
        name = hashlib.blake2b(address.encode(), digest_size=16).hexdigest()
        body, about = folder / f"{name}.body", folder / f"{name}.json"
        if about.is_file() and body.is_file():
            held = json.loads(about.read_text(encoding="utf-8"))
            return body.read_bytes(), held["kind"], held["charset"]
        content, kind, charset = self._fetched(address)
        folder.mkdir(parents=True, exist_ok=True)
        partial_body = body.with_suffix(f".{time.monotonic_ns()}")
        partial_body.write_bytes(content)
        partial_body.replace(body)
        held = {"address": address, "kind": kind, "charset": charset, "fetched": time.time()}
        write_atomically(about, json.dumps(held) + "\n")
        return content, kind, charset

    def _fetched(self, address: str) -> tuple[bytes, str, str | None]:
        """A page of the web, through redirections, each asked about. Raises BadRow."""
        for _ in range(HOPS + 1):
            if urlsplit(address).scheme not in ("http", "https") or not urlsplit(address).netloc:
                raise BadRow("an address is no http or https address")
            self._ask_leave(address)
            status, headers, content = _get(address)
            if status in (301, 302, 303, 307, 308) and headers.get("Location"):
                address = urljoin(address, headers["Location"])
                continue
            if status != 200:
                raise BadRow(f"the server answered {status}")
            kind, _, more = headers.get("Content-Type", "text/html").partition(";")
            if kind.strip().lower() not in KINDS:
                raise BadRow(f"the address is no page, but {kind.strip()}", "download it and give its `path:`")
            charset = more.partition("charset=")[2].strip().strip("\"'") or None
            return content, kind.strip().lower(), charset
        raise BadRow(f"the address redirects more than {HOPS} times")

    def _ask_leave(self, address: str) -> None:
        """Wait until the site may be asked. Raises BadRow where its robots.txt forbids the page."""
        parts = urlsplit(address)
        root = f"{parts.scheme}://{parts.netloc}"
        if root not in self._sites:
            self._sites[root] = _Site(_rules(root))
        site: _Site = self._sites[root]
        if not site.rules.can_fetch(AGENT, address):
            raise BadRow("the site's robots.txt forbids this page")
        delay = max(self.wait, float(site.rules.crawl_delay(AGENT) or 0))
        time.sleep(max(0.0, site.asked + delay - time.monotonic()) if site.asked else 0.0)
        site.asked = time.monotonic()


def _rules(root: str) -> RobotFileParser:
    """What a site allows: everything where it has no robots.txt, nothing where it cannot say (RFC 9309)."""
    rules = RobotFileParser(root + "/robots.txt")
    status, _, content = _get(root + "/robots.txt", follow=True)
    if status >= 500 or status == 429:
        rules.parse(["User-agent: *", "Disallow: /"])
    else:
        rules.parse(content.decode("utf-8", "replace").splitlines() if status == 200 else [])
    return rules


def _get(address: str, *, follow: bool = False) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and content. Raises BadRow where no server answers, and for what is too large."""
    import requests

    agent = {"User-Agent": f"{AGENT}/{__version__}"}
    try:
        with requests.get(address, headers=agent, timeout=SECONDS, allow_redirects=follow, stream=True) as answer:
            content = b""
            for piece in answer.iter_content(1 << 16):
                content += piece
                if len(content) > LARGEST:
                    raise BadRow(f"the page is larger than {LARGEST // 2**20} MB")
            return answer.status_code, dict(answer.headers), content
    except requests.RequestException as error:
        reason = type(error).__name__
        raise BadRow(f"no server answered ({reason})", "check the address and the network") from error


def _silent(what: str, source: Source | None) -> None:
    """Fetching has nothing to say that its rows do not."""


__all__ = ["Links"]
