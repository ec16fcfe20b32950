"""WARC and WET files: crawled pages as servers gave them, or as plain text. Read record by record."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesParser
from pathlib import Path
from typing import IO

from luthier.data.reading.unpacking import opened
from luthier.errors import LuthierError

BEGIN = b"WARC/"
LARGEST = 64 * 2**20
"""Bytes of a record that are read; a page is never so large."""


@dataclass(frozen=True)
class Crawled:
    """A page of an archive. `plain`: its text has been taken out already (WET)."""

    number: int
    address: str
    content: bytes
    charset: str | None
    plain: bool


def crawled(path: Path) -> Iterator[Crawled]:
    """The pages of an archive, each with the number of its record. Raises LuthierError for a broken one."""
    with opened(path) as file:
        number = 0
        while (headers := _headers(file, path, number)) is not None:
            number += 1
            length = headers.get("Content-Length", "")
            if not length.strip().isdigit():
                raise _broken(path, number, "has no length")
            body = file.read(min(int(length), LARGEST))
            left = int(length) - len(body)
            if left and (len(body) < LARGEST or len(file.read(left)) < left):
                raise _broken(path, number, "is cut short")
            kind = headers.get("WARC-Type", "").lower()
            address = headers.get("WARC-Target-URI", "")
            if kind == "conversion":
                yield Crawled(number, address, body, "utf-8", plain=True)
            elif kind == "response":
                page = _page(number, address, body)
                if page is not None:
                    yield page


def _headers(file: IO[bytes], path: Path, number: int) -> Message | None:
    """The headers of the next record, None at the end of the file."""
    line = file.readline()
    while line in (b"\r\n", b"\n"):
        line = file.readline()
    if not line:
        return None
    if not line.startswith(BEGIN):
        raise _broken(path, number + 1, "does not begin with WARC/")
    lines = []
    while (line := file.readline()) not in (b"\r\n", b"\n", b""):
        lines.append(line)
    return BytesParser().parsebytes(b"".join(lines), headersonly=True)


def _page(number: int, address: str, body: bytes) -> Crawled | None:
    """A server's answer that is a page; None for another kind, or an error."""
    head, gap, content = body.partition(b"\r\n\r\n")
    status, _, rest = head.partition(b"\r\n")
    if not gap or not status.startswith(b"HTTP/") or b" 200" not in status[:16]:
        return None
    headers = BytesParser().parsebytes(rest + b"\r\n\r\n", headersonly=True)
    kind = headers.get_content_type() if headers.get("Content-Type") else "text/html"
    if kind not in ("text/html", "application/xhtml+xml", "text/plain"):
        return None
    if "chunked" in headers.get("Transfer-Encoding", "").lower():
        content = _unchunked(content)
    try:
        if "gzip" in headers.get("Content-Encoding", "").lower() and content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        elif "deflate" in headers.get("Content-Encoding", "").lower():
            content = zlib.decompress(content, -15 if content[:1] != b"\x78" else 15)
    except (OSError, EOFError, zlib.error):
        return Crawled(number, address, b"", None, plain=False)  # told of as a page without text
    return Crawled(number, address, content, headers.get_content_charset(), plain=kind == "text/plain")


def _unchunked(content: bytes) -> bytes:
    """A body that was sent in pieces. Archives often hold it whole under that header: then it is left as it is."""
    parts, at = [], 0
    while at < len(content):
        end = content.find(b"\r\n", at)
        size = content[at:end].split(b";")[0].strip() if end > 0 else b""
        try:
            length = int(size, 16)
        except ValueError:
            return content
        if not length:
            break
        parts.append(content[end + 2 : end + 2 + length])
        at = end + 4 + length
    return b"".join(parts)


def _broken(path: Path, number: int, what: str) -> LuthierError:
    return LuthierError(
        f"the archive is broken: its record {number:,} {what}",
        where=f"{path}:{number}",
        fix="fetch the file again; a WARC or WET file may be packed as .gz, and as nothing else",
    )


__all__ = ["Crawled", "crawled"]
