"""Saved pages to text: F1 against what people marked as the article, and pages per second of one core.

    python benchmarks/curating/pages.py [FOLDER]          FOLDER: scrapinghub's article-extraction-benchmark

F1 as that benchmark counts it: runs of four words that the two texts share, as shares of a page, summed over pages.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import sys
import time
from collections import Counter
from pathlib import Path

from luthier.data.pages.markup import decoded, tree
from luthier.data.pages.pages import main_text

SHARED = Path(os.environ.get("LUTHIER_SHARED", Path(__file__).parents[3] / "shared"))
WORDS = re.compile(r"\w+")


def runs(text: str, length: int = 4) -> Counter[tuple[str, ...]]:
    """Runs of words, with how often each stands there."""
    words = WORDS.findall(text)
    return Counter(tuple(words[i : i + length]) for i in range(max(1, len(words) - length + 1)))


def shares(meant: str, found: str) -> tuple[float, float, float]:
    """Of the runs of a page: both have, only the found text has, only the meant one."""
    ours, theirs = runs(found), runs(meant)
    both, more, less = (ours & theirs).total(), (ours - theirs).total(), (theirs - ours).total()
    return both / (both + more + less), more / (both + more + less), less / (both + more + less)


def measured(folder: Path) -> dict[str, float]:
    """F1, precision and recall over the folder's pages, and how many of them a second of processor time reads."""
    meant = json.loads((folder / "ground-truth.json").read_text(encoding="utf-8"))
    contents = [gzip.decompress((folder / "html" / f"{name}.html.gz").read_bytes()) for name in meant]
    main_text(tree("<html><body><p>what is loaded at first use is not measured</p></body></html>"))
    begun = time.process_time()
    found = [main_text(tree(decoded(content))) for content in contents]
    spent = time.process_time() - begun
    all_shares = [shares(one["articleBody"], text) for one, text in zip(meant.values(), found, strict=True)]
    both, more, less = (sum(column) for column in zip(*all_shares, strict=True))
    alone = sorted(2 * b / (2 * b + m + missed) for b, m, missed in all_shares)
    return {
        "pages": len(meant),
        "f1": 2 * both / (2 * both + more + less),
        "precision": both / (both + more),
        "recall": both / (both + less),
        "f1 of the worst tenth": sum(alone[: len(alone) // 10]) / max(len(alone) // 10, 1),
        "pages a CPU second": len(meant) / spent,
    }


if __name__ == "__main__":
    place = Path(sys.argv[1]) if len(sys.argv) > 1 else SHARED / "data" / "html-article-extraction"
    for what, value in measured(place).items():
        print(f"{what:24} {value:.3f}" if isinstance(value, float) else f"{what:24} {value}")
