"""Near-duplicates and decontamination: rows a processor second of one core, memory, and what is found of the planted.

    python benchmarks/curating/near.py [--rows 1000000] [--peer PYTHON]

`--peer`: the interpreter of an environment with Data-Juicer (pip install py-data-juicer aiohttp), which then takes
10,000 of the same rows. Each measurement is a process of its own.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import synthetic

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from workload import ALPACA, shared

from luthier.data.duplicates import contamination, keeping, minhash, near, shingles
from luthier.data.duplicates.shingles import Text

BAR, LEAK_BAR, MEMORY_BAR = 20_000, 15_000, 500
THRESHOLD = 0.8
READ = 5_000
"""Rows that are read at a time."""
PEER_ROWS = 10_000
PEER = Path(__file__).resolve().parent.parent / "peers" / "datajuicer_minhash.py"


class Lines:
    """A file of rows that are read a few at a time, and again by number."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._starts = np.cumsum(np.fromiter((len(line) for line in self._file), np.int64))
        self.count = len(self._starts)
        self._file.seek(0)

    def batches(self) -> Iterator[list[Text]]:
        for first in range(0, self.count, READ):
            yield [_text(self._file.readline()) for _ in range(first, min(first + READ, self.count))]

    def again(self, rows: keeping.Rows) -> list[Text]:
        found = []
        for row in rows.tolist():
            self._file.seek(int(self._starts[row - 1]) if row else 0)
            found.append(_text(self._file.readline()))
        return found


def _text(line: bytes) -> Text:
    row = json.loads(line)
    return Text(row["prompt"], (row["answer"],))


def deduplicate(path: Path) -> dict[str, Any]:
    """All of it on a file of rows, and what it took."""
    minhash.band_keys([Text("a", ("b",))])  # tables are made once
    lines = Lines(path)
    with tempfile.NamedTemporaryFile(dir=path.parent) as file:
        keys = np.memmap(file, np.uint64, "w+", shape=(lines.count, minhash.LAYOUTS[0].bands + 1))
        lengths = np.zeros(lines.count, np.uint32)
        at, measuring = 0, 0.0
        for texts in lines.batches():
            begun = time.process_time()
            keys[at : at + len(texts)] = minhash.band_keys(texts)
            lengths[at : at + len(texts)] = [text.size for text in texts]
            measuring += time.process_time() - begun
            at += len(texts)
        begun, wall = time.process_time(), time.perf_counter()
        decision = near.decide(keys, lines.again, THRESHOLD, keeping.highest(lengths))
        deciding, wall = time.process_time() - begun, time.perf_counter() - wall
        begun = time.process_time()
        near.decide(keys, lines.again, 0.9, keeping.highest(lengths))
        again = time.process_time() - begun
    dropped = np.flatnonzero(~decision.kept)
    return {
        "rows": lines.count,
        "measuring": measuring,
        "deciding": deciding,
        "deciding_wall": wall,
        "deciding_again": again,
        "rate": lines.count / (measuring + deciding),
        "peak_mib": _peak_mib(),
        "dropped": dropped.tolist(),
        "witness": decision.witness[dropped].tolist(),
    }


def _peak_mib() -> float:
    """Of this process alone; `ru_maxrss` would count what the one that started it held."""
    told = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    return int(told.group(1)) / 1024 if told else float("nan")


def found(path: Path, planted: synthetic.Planted, taken: dict[str, Any]) -> dict[str, Any]:
    """How many of the planted were dropped, with the truth counted in plain Python. Which of two stays is a rule's."""
    lines = Lines(path)
    dropped = dict(zip(taken["dropped"], taken["witness"], strict=True))
    close = [pair for pair in planted.near if _alike(*lines.again(np.array(pair))) >= THRESHOLD]
    one = {name: sum(a in dropped or b in dropped for a, b in pairs) for name, pairs in _named(close, planted)}
    count = {name: len(pairs) for name, pairs in _named(close, planted)}
    for a, b in planted.numbers:  # either may be dropped as a copy of a third row, never of the other
        one["numbers"] -= dropped.get(a) != b and dropped.get(b) != a and (a in dropped or b in dropped)
    return {name: f"{one[name]:,} of {count[name]:,}" for name in count}


def _named(close: list[tuple[int, int]], planted: synthetic.Planted) -> list[tuple[str, list[tuple[int, int]]]]:
    return [("near", close), ("exact", planted.exact), ("numbers", planted.numbers)]


def _alike(a: Text, b: Text) -> float:
    sets = [[_shingled(text) for text in (one.prompt, one.answers[0])] for one in (a, b)]
    shared_ = [len(sets[0][i] & sets[1][i]) for i in (0, 1)]
    whole = [len(sets[0][i] | sets[1][i]) for i in (0, 1)]
    return min(sum(shared_) / sum(whole), shared_[1] / whole[1])


def _shingled(text: str) -> set[tuple[str, ...]]:
    units = re.findall(r"[^\W_]+|[+<=$%&@/\\^]", text.casefold())
    return {tuple(units[i : i + shingles.SPAN]) for i in range(max(len(units) - shingles.SPAN + 1, 1))}


def search(path: Path) -> dict[str, Any]:
    """Rows searched for the questions of MMLU and GSM8K."""
    items = []
    for file in sorted((shared() / "data/mmlu/test").glob("*.csv")):
        with file.open(encoding="utf-8") as lines:
            items += [contamination.Item(file.stem, "\n".join(row[:5]), row[5]) for row in csv.reader(lines)]
    for line in (shared() / "data/gsm8k/test.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        items.append(contamination.Item("gsm8k", row["question"], row["answer"].split("####")[-1]))
    index = contamination.Index(items)
    index.search([Text("a", ("b",))])
    spent, rows, hits = 0.0, 0, 0
    for texts in Lines(path).batches():
        begun = time.process_time()
        hits += len({hit.row for hit in index.search(texts)})
        spent += time.process_time() - begun
        rows += len(texts)
    return {"rows": rows, "items": len(items), "rate": rows / spent, "hit": hits}


def alone(what: str, path: Path) -> dict[str, Any]:
    """A part of this file in a process of its own."""
    command = [sys.executable, __file__, "--only", what, "--file", str(path)]
    done = subprocess.run(command, check=True, capture_output=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def peer(python: str, path: Path) -> dict[str, Any]:
    """Data-Juicer on the first rows of a file."""
    few = path.with_name("few.jsonl")
    few.write_text("\n".join(path.read_text(encoding="utf-8").splitlines()[:PEER_ROWS]) + "\n", encoding="utf-8")
    done = subprocess.run([python, str(PEER), str(few)], check=True, capture_output=True)
    theirs = dict(json.loads(done.stdout.splitlines()[-1]))
    return {"theirs": theirs, "ours": {**alone("near", few), "dropped": None, "witness": None}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the set made of varied copies; 0: none")
    parser.add_argument("--peer", help="the interpreter of an environment with Data-Juicer")
    parser.add_argument("--only", choices=("near", "search"), help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        print(json.dumps({"near": deduplicate, "search": search}[given.only](given.file)))
        return
    rows = json.loads((shared() / "data" / ALPACA).read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        real, made = Path(folder) / "alpaca.jsonl", Path(folder) / "made.jsonl"
        with real.open("w", encoding="utf-8") as out:
            for row in rows:
                prompt = f"{row['instruction']}\n{row['input']}".strip()
                out.write(json.dumps({"prompt": prompt, "answer": row["output"]}, ensure_ascii=False) + "\n")
        _told("Alpaca", alone("near", real))
        leaks = alone("search", real)
        rate = f"{leaks['rate']:,.0f} rows/s (bar {LEAK_BAR:,})"
        print(f"decontaminate: {rate}, {leaks['items']:,} items, {leaks['hit']} rows hold one")
        if given.peer:
            both = peer(given.peer, real)
            theirs = both["theirs"]
            _told(f"{PEER_ROWS:,} rows", both["ours"])
            rate, dropped = theirs["rows"] / theirs["cpu_seconds"], theirs["rows"] - theirs["kept"]
            print(f"Data-Juicer: {rate:,.0f} rows/s, {dropped} dropped, {theirs['peak_mib']:,.0f} MiB")
        if given.rows:
            planted = synthetic.write(rows, given.rows, made)
            taken = alone("near", made)
            _told("varied copies", taken)
            print("of the planted, dropped: " + ", ".join(f"{a} {b}" for a, b in found(made, planted, taken).items()))


def _told(name: str, taken: dict[str, Any]) -> None:
    dropped = "" if taken["dropped"] is None else f"{len(taken['dropped']):,} dropped, "
    print(
        f"{name}: {taken['rows']:,} rows, {taken['rate']:,.0f} rows/s (bar {BAR:,}; keys {taken['measuring']:.1f} s, "
        f"decision {taken['deciding']:.1f} s, another threshold {taken['deciding_again']:.1f} s), {dropped}"
        f"{taken['peak_mib']:,.0f} MiB (bar {MEMORY_BAR})",
        flush=True,
    )


if __name__ == "__main__":
    main()
