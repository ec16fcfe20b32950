"""data.html: what rows are, what steps made of them, and why some are gone, on one page that needs nothing else."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from luthier.data.curation.chain import Curated
from luthier.data.reading.feeds import Feed
from luthier.errors import LuthierError
from luthier.evaluate.report import style
from luthier.evaluate.rows.content import HEARD, content
from luthier.run import write_atomically


def write_data_page(made: Curated, feeds: Sequence[Feed], path: Path, name: str) -> None:
    """Write the page. No script, font or picture comes from elsewhere, all text is escaped, and values that tell who
    somebody is are masked. Raises LuthierError for a place that cannot be written to."""
    from jinja2 import Environment, StrictUndefined

    folder = files("luthier.evaluate.rows")
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    source, own = (folder.joinpath(one).read_text(encoding="utf-8") for one in ("page.html.j2", "page.css"))
    told = content(made, feeds)
    written = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    text = page.from_string(source).render(style=f"{style()}{own}", name=name, written=written, heard=HEARD, **told)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode("utf-8", "replace").decode())
    except OSError as error:
        what = f"cannot write the page: {error.strerror}"
        raise LuthierError(what, where=str(path), fix="go to a folder you may write to") from error


__all__ = ["write_data_page"]
