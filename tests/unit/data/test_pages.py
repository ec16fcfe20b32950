"""Saved pages, archives, addresses and documents: text, or questions with their answers."""

from __future__ import annotations

import gzip
import json
import os
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from luthier.data import Ledger, read
from luthier.data.pages.markup import decoded
from luthier.errors import LuthierError
from luthier.recipe import Source as Entry
from luthier.recipe import load, lock

SHARED = Path(os.environ.get("LUTHIER_SHARED", Path(__file__).parents[4] / "shared"))
ARTICLES = SHARED / "data" / "html-article-extraction"
STORY = "<p>" + "The violin maker chose a piece of spruce, tapped it, and listened for a long while. " * 4 + "</p>"
PAGE = f"""<html><head><title>Wood</title></head><body><nav><a href="/">Home</a> <a href="/shop">Shop</a></nav>
<article><h1>Wood</h1>{STORY}{STORY.replace("spruce", "maple")}
<p hidden>Nobody sees this sentence about hidden discounts.</p></article>
<footer>All rights reserved</footer></body></html>"""


def page(body: str) -> str:
    return f"<html><body><nav>Home</nav>{body}<footer>Imprint</footer></body></html>"


def rows(path: Path, ledger: Ledger | None = None, **keys: Any) -> list[tuple[str, str]]:
    """Prompt and response of each row; of a text the prompt is empty."""
    entry = Entry(path=str(path), format={"pages": keys}) if keys else Entry(path=str(path))
    return [(e.prompt[0].text if e.prompt else "", e.responses[0].turns[0].text) for e in read([entry], ledger)]


def test_the_text_of_a_page_is_without_menus_and_what_is_hidden(tmp_path: Path) -> None:
    path = tmp_path / "wood.html"
    path.write_text(PAGE, encoding="utf-8")
    ((prompt, text),) = rows(path)
    assert prompt == "" and "spruce" in text and "maple" in text
    assert not any(word in text for word in ("Shop", "rights reserved", "hidden discounts"))


LINKED = {
    "@context": "https://schema.org",
    "@graph": [
        {
            "@type": "FAQPage",
            "mainEntity": [
                {
                    "@type": "Question",
                    "name": "Which wood?",
                    "acceptedAnswer": {"text": "<p>Spruce,</p><p>a&amp;b</p>"},
                },
                {"@type": ["Question"], "name": "Empty?", "acceptedAnswer": {"text": " "}},
                {
                    "@type": "Question",
                    "name": "Glue?",
                    "suggestedAnswer": [{"text": "PVA", "upvoteCount": 2}, {"text": "Hide glue", "upvoteCount": "9"}],
                },
            ],
        }
    ],
}
MARKED = {
    "linked data": (
        f'<script type="application/ld+json">{json.dumps(LINKED)}</script>{STORY}',
        [("Which wood?", "Spruce,\n\na&b"), ("Glue?", "Hide glue")],
    ),
    "microdata": (
        '<div itemscope itemtype="https://schema.org/QAPage"><div itemprop="mainEntity" itemscope '
        'itemtype="https://schema.org/Question"><h1 itemprop="name">How thick?</h1><div itemprop="text">In mm.</div>'
        '<div itemprop="acceptedAnswer" itemscope itemtype="https://schema.org/Answer"><div itemprop="text">'
        "<p>3 mm:</p><pre>a\n  b</pre></div></div></div></div>",
        [("How thick?\n\nIn mm.", "3 mm:\n\na\n  b")],
    ),
    "terms": (
        "<dl><dt>Why spruce?</dt><dd>It is light.</dd><dd>And stiff.</dd><dt>Price</dt><dd>9</dd></dl>",
        [("Why spruce?", "It is light.\n\nAnd stiff.")],
    ),
    "fold-outs": (
        "<details><summary>为什么用云杉？</summary><p>轻。</p></details><details><summary>More</summary>menu</details>",
        [("为什么用云杉？", "轻。")],
    ),
}


@pytest.mark.parametrize("kind", MARKED)
def test_questions_that_a_page_marks_are_rows(kind: str, tmp_path: Path) -> None:
    body, wanted = MARKED[kind]
    path = tmp_path / "faq.html"
    path.write_text(page(body), encoding="utf-8")
    assert rows(path) == wanted
    assert rows(path, rows="questions") == wanted


def test_a_page_without_text_or_questions_is_dropped_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("<html><body></body></html>")
    (tmp_path / "b.htm").write_text(PAGE)
    (tmp_path / "c.html").write_text("")
    ledger = Ledger()
    assert len(rows(tmp_path, ledger)) == 1
    assert {what: reason.count for what, reason in ledger.reasons.items()} == {"the page holds no text": 2}
    ledger = Ledger()
    assert rows(tmp_path / "b.htm", ledger, rows="questions") == []
    assert list(ledger.reasons) == ["the page marks no questions with answers"]


def test_pages_beside_rows_are_left_out_and_said(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(PAGE)
    (tmp_path / "b.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    ledger = Ledger()
    assert rows(tmp_path, ledger) == [("a", "b")]
    assert any("left out a.html beside rows" in what for what in ledger.notes)


@pytest.mark.parametrize(
    ("content", "charset", "text"),
    [
        ("é".encode(), None, "é"),
        ("é".encode("latin-1"), "iso-8859-1", "é"),
        (b'<meta charset="gb2312">' + "木材㐂".encode("gb18030"), None, '<meta charset="gb2312">木材㐂'),
        (
            b'<meta charset="utf-8">' + "木材和提琴是什么".encode("gb18030"),
            None,
            '<meta charset="utf-8">木材和提琴是什么',
        ),
        ("\ufeffé".encode(), "latin-1", "é"),
        (b"plain", "no-such-code", "plain"),
    ],
)
def test_the_encoding_of_a_page(content: bytes, charset: str | None, text: str) -> None:
    assert decoded(content, charset) == text


def record(kind: str, body: bytes, **headers: str) -> bytes:
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"WARC/1.0\r\nWARC-Type: {kind}\r\n{more}Content-Length: {len(body)}\r\n\r\n".encode() + body + b"\r\n\r\n"


def answer(body: bytes, *headers: str, status: str = "200 OK", kind: str = "text/html; charset=utf-8") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", f"Content-Type: {kind}", *headers, "", ""]).encode() + body


def test_archives_hold_pages_plain_texts_and_other_records(tmp_path: Path) -> None:
    small = page("<details><summary>Why?</summary>Because.</details>").encode()
    chunked = f"{len(small):x}\r\n".encode() + small + b"\r\n0\r\n\r\n"
    records = [
        record("warcinfo", b"software: x"),
        record("response", answer(PAGE.encode()), WARC_Target_URI="http://a/"),
        record("response", answer(chunked, "Transfer-Encoding: chunked")),
        record("response", answer(gzip.compress(small), "Content-Encoding: gzip")),
        record("response", answer(small, status="404 Not Found")),
        record("response", answer(b"x", kind="image/png")),
        record("conversion", "Plain text, 已经取出".encode()),
    ]
    plain, packed = tmp_path / "a.warc", tmp_path / "b.warc.gz"
    plain.write_bytes(b"".join(records))
    packed.write_bytes(b"".join(map(gzip.compress, records)))  # a member for each record, as archives have it
    for path in (plain, packed):
        found = list(read(str(path)))
        assert [e.source.row for e in found if e.source] == [2, 3, 4, 7]
        assert rows(path)[1:] == [("Why?", "Because."), ("Why?", "Because."), ("", "Plain text, 已经取出")]
    plain.write_bytes(records[1][:-300])
    with pytest.raises(LuthierError, match=r"a.warc:1: .*cut short"):
        rows(plain)


class Site(BaseHTTPRequestHandler):
    """A small site with a robots.txt."""

    asked: list[str]

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers["User-Agent"]))  # type: ignore[attr-defined]
        kind, body, status = "text/html", PAGE.encode(), 200
        if self.path == "/robots.txt":
            kind, body = "text/plain", b"User-agent: *\nDisallow: /private\n"
        elif self.path == "/moved":
            status = 301
        elif self.path == "/gone":
            status = 404
        elif self.path == "/picture":
            kind = "image/png"
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if status == 301:
            self.send_header("Location", "/private/page")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing to the screen."""


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.asked = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", server.asked  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()
    thread.join()


def test_addresses_are_fetched_once_and_only_where_robots_allow_it(
    site: tuple[str, list[tuple[str, str]]], tmp_path: Path
) -> None:
    root, asked = site
    links = tmp_path / "links.txt"
    paths = ("/story", "/private/page", "/moved", "/gone", "/picture")
    links.write_text("# my reading\n" + "\n".join(root + path for path in paths) + "\nftp://x/y\n")
    for _ in range(2):
        ledger = Ledger()
        entry = Entry(path=str(links), format={"links": {"wait": 0}})
        (one,) = read([entry], ledger)
        assert "spruce" in one.responses[0].turns[0].text and str(one.source) == f"{links}:2"
        assert {what: reason.count for what, reason in ledger.reasons.items()} == {
            "the site's robots.txt forbids this page": 2,  # one of them by way of a redirection
            "the server answered 404": 1,
            "the address is no page, but image/png": 1,
            "an address is no http or https address": 1,
        }
    fetched = [path for path, _ in asked]
    assert fetched.count("/story") == 1 and "/private/page" not in fetched
    assert all(agent.startswith("Luthier/") for _, agent in asked)


def test_an_address_is_a_source_of_its_own(site: tuple[str, list[tuple[str, str]]]) -> None:
    root, asked = site
    (one,) = read([Entry(path=f"{root}/story")])
    assert "maple" in one.responses[0].turns[0].text and [path for path, _ in asked] == ["/robots.txt", "/story"]


def test_a_run_keeps_an_address_as_it_is_and_a_format_with_its_keys(tmp_path: Path) -> None:
    data = [{"path": "https://example.org/faq.html"}, {"path": "chat.txt", "format": {"whatsapp": {"me": "Lena"}}}]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({"model": "smollm2-135m-instruct", "data": data, "output": "x"}))
    stored = tmp_path / "recipe.lock.yaml"
    stored.write_text(lock(load(str(recipe), []).recipe))
    address, chat = load(str(stored), []).recipe.data
    assert address.path == "https://example.org/faq.html"
    assert chat.format is not None and chat.format.args == {"me": "Lena"} and Path(str(chat.path)).is_absolute()


def test_pdf_and_docx_give_their_text(tmp_path: Path) -> None:
    docx, pypdf = pytest.importorskip("docx"), pytest.importorskip("pypdf")
    made = docx.Document()
    made.add_heading("Wood", 1)
    made.add_paragraph("Spruce is light.")
    table = made.add_table(rows=1, cols=2)
    table.cell(0, 0).text, table.cell(0, 1).text = "mm", "3"
    made.save(str(tmp_path / "a.docx"))
    assert rows(tmp_path / "a.docx") == [("", "Wood\n\nSpruce is light.\n\nmm\t3")]
    stream = b"BT /F1 12 Tf 50 700 Td (Spruce is light.) Tj ET"
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 600 800]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>",
        b"<</Length %d>>stream\n%s\nendstream" % (len(stream), stream),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    body = b"%PDF-1.4\n" + b"".join(b"%d 0 obj%s endobj\n" % (i, one) for i, one in enumerate(objects, 1))
    (tmp_path / "b.pdf").write_bytes(body + b"trailer<</Root 1 0 R/Size 6>>\nstartxref\n0\n%%EOF")
    assert rows(tmp_path / "b.pdf") == [("", "Spruce is light.")]
    writer = pypdf.PdfWriter()
    writer.add_blank_page(100, 100)
    writer.write(tmp_path / "c.pdf")
    ledger = Ledger()
    assert rows(tmp_path / "c.pdf", ledger) == [] and list(ledger.reasons) == ["the document holds no text"]
    for name in ("d.pdf", "d.docx"):
        (tmp_path / name).write_bytes(b"no such thing")
        with pytest.raises(LuthierError, match=f"{name}: the .* file cannot be read"):
            rows(tmp_path / name)


def test_without_the_extra_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trafilatura", None)
    (tmp_path / "a.html").write_text(PAGE)
    with pytest.raises(LuthierError, match=r"luthier\[web\]"):
        rows(tmp_path / "a.html")


@pytest.mark.skipif(not ARTICLES.is_dir(), reason="no shared data")
def test_real_articles_are_found_as_people_marked_them() -> None:
    sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks/curating"))
    try:
        from pages import measured
    finally:
        sys.path.pop(0)
    assert measured(ARTICLES)["f1"] >= 0.95
