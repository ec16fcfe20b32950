"""HTML as a tree: decoded, without what no reader sees; and parts of it as text."""

from __future__ import annotations

import codecs
import re
from typing import Any

from luthier.data.reading.encodings import likely
from luthier.errors import missing_extra

CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_:-]+)", re.IGNORECASE)
DECLARED = re.compile(r"^\s*<\?xml[^>]*\?>")
LOOKED_AT = 4096
SPACED_END = re.compile(r"[^\S\n]*\n[^\S\n]*")
WIDER = {"gb2312": "gb18030", "gbk": "gb18030"}
"""Old names that pages give their encoding → what holds it, and what they hold beyond it."""
UNSEEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
BLOCKS = frozenset((
    "address", "article", "aside", "blockquote", "br", "dd", "details", "div", "dl", "dt", "figure", "footer",
    "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "nav", "ol", "p", "pre", "section",
    "summary", "table", "tr", "ul",
))  # fmt: skip
"""Elements that stand on lines of their own."""
SILENT = frozenset((
    "script", "style", "noscript", "template", "svg", "button", "input", "select", "textarea", "iframe",
))  # fmt: skip
"""Elements whose content is no text."""
CODE = "\1"
CODE_ENDS = "\2"
"""Round code, whose white space stays, while a text is put together."""


def decoded(content: bytes, charset: str | None = None) -> str:
    """The text of a page: by its byte order mark, what the server or the page says, UTF-8, or what reads best."""
    if content.startswith(codecs.BOM_UTF8):
        return content.decode("utf-8-sig", "replace")
    said = CHARSET.search(content[:LOOKED_AT])
    for name in (charset, said[1].decode("ascii") if said else None, "utf-8"):
        if name and (text := _in(name, content)) is not None:
            return text
    guess = likely(content[: 1 << 16])
    return (_in(guess, content) if guess else None) or content.decode("utf-8", "replace")


def _in(name: str, content: bytes) -> str | None:
    try:
        return content.decode(WIDER.get(name.lower(), name))
    except (LookupError, UnicodeDecodeError):
        return None


def tree(text: str) -> Any:
    """The page as lxml has it, None where there is none. Raises LuthierError without the extra `web`."""
    try:
        from lxml import etree, html
    except ImportError:
        raise missing_extra("lxml", "web", "reading web pages") from None
    parser = html.HTMLParser(collect_ids=False, default_doctype=False, remove_comments=True, remove_pis=True)
    try:
        found = html.document_fromstring(DECLARED.sub("", text).replace("\0", ""), parser=parser)
    except (etree.ParserError, ValueError):
        return None
    for element in found.xpath("//*[@hidden or contains(@style, 'none') or contains(@style, 'hidden')]"):
        unseen = element.get("hidden") is not None or UNSEEN.search(element.get("style") or "")
        if unseen and element.getparent() is not None and element.tag not in ("html", "body"):
            element.drop_tree()
    return found


def without_programs(page: Any) -> Any:
    """The page without what is no text at all, which takes long to copy."""
    from lxml import etree

    etree.strip_elements(page, "script", "style", "svg", with_tail=False)
    return page


def text_of(element: Any) -> str:
    """The text of an element, blocks on lines of their own, code as it stands."""
    parts: list[str] = []
    _gather(element, parts, verbatim=False)
    kept = re.split(f"({CODE}[^{CODE_ENDS}]*{CODE_ENDS})", "".join(parts))
    tidy = [part[1:-1] if part.startswith(CODE) else SPACED_END.sub("\n", part) for part in kept]
    return re.sub(r"\n{3,}", "\n\n", "".join(tidy)).strip()


def _gather(element: Any, parts: list[str], *, verbatim: bool) -> None:
    tag = element.tag
    if not isinstance(tag, str) or tag in SILENT:
        return
    block, code = tag in BLOCKS, tag == "pre" and not verbatim
    parts.append("\n" if block else "")
    parts.append(CODE if code else "- " if tag == "li" else "")
    parts.append(_spaced(element.text, verbatim or code))
    for child in element:
        _gather(child, parts, verbatim=verbatim or code)
        parts.append(_spaced(child.tail, verbatim or code))
    parts.append(CODE_ENDS if code else "")
    parts.append("\n" if block and tag != "br" else "")


def _spaced(text: str | None, verbatim: bool) -> str:
    bare = (text or "").replace(CODE, "").replace(CODE_ENDS, "")
    return bare if verbatim else re.sub(r"\s+", " ", bare)


def fragment_text(markup: str) -> str:
    """A text that may hold HTML, as JSON-LD's answers do."""
    if "<" not in markup and "&" not in markup:
        return markup.strip()
    found = tree(f"<html><body><div>{markup}</div></body></html>")
    return text_of(found) if found is not None else markup.strip()


__all__ = ["decoded", "fragment_text", "text_of", "tree", "without_programs"]
