"""The harness itself: what it reads, what it counts, what it divides by what."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[3] / "benchmarks"))

import measure
import report
import table
import workload


def row(number: int, text: str = "") -> dict[str, str]:
    return {"instruction": f"do {number}", "input": text, "output": f"done {number}"}


def test_workload_takes_rows_after_a_seeded_shuffle_and_holds_out_later_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(workload, "PEERS", tmp_path)
    data = tmp_path / "alpaca.json"
    data.write_text(json.dumps([row(number) for number in range(300)]))
    work = workload.prepare(32, 8, "some/model", str(data))
    train = Path(work.train).read_text().splitlines()
    held_out = Path(work.held_out).read_text().splitlines()
    assert (len(train), len(held_out)) == (32, 8)
    assert not set(train) & set(held_out)
    assert train[0] != json.dumps(workload.messages(row(0)))  # shuffled
    assert workload.prepare(32, 8, "some/model", str(data)) == work
    assert Path(work.train).read_text().splitlines() == train


def test_messages_put_the_input_on_a_line_of_its_own():
    assert workload.messages(row(1, "with this"))["messages"][0] == {"role": "user", "content": "do 1\nwith this"}
    assert workload.messages(row(1))["messages"][0]["content"] == "do 1"


def test_peak_memory_counts_the_children_of_the_process(tmp_path):
    """A parent that does nothing but wait for two children of 150 MB each.

    Measured from a process of its own: the kernel counts a new process's memory from that of the one that starts it,
    and pytest has grown large by now.
    """
    child = "import time; block = bytearray(150_000_000); time.sleep(1)"
    parent = f"import subprocess, sys; ps = [subprocess.Popen([sys.executable, '-c', {child!r}]) for _ in range(2)]; "
    parent += "[p.wait() for p in ps]; sys.exit(3)"
    script = (
        "import dataclasses, json, os, pathlib, sys; sys.path.insert(0, sys.argv[1]); from measure import measured; "
    )
    script += "folder = pathlib.Path(sys.argv[2]); "
    script += "taken = measured([sys.executable, '-c', sys.argv[3]], folder / 'log', os.environ, folder); "
    script += "print(json.dumps(dataclasses.asdict(taken)))"
    benchmarks = Path(measure.__file__).parent
    command = [sys.executable, "-c", script, str(benchmarks), str(tmp_path), parent]
    taken = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert taken["status"] == 3
    assert 300e6 < taken["peak_bytes"] < 500e6
    assert 1 <= taken["seconds"] < 30


def test_the_result_line_is_found_among_a_tools_output(tmp_path):
    log = tmp_path / "log"
    log.write_text('loading\n 50%|##  | 1/2 {"tool": "x", "seconds": 1.5}\nsaved\n')
    assert report.of_peer(log) == {"tool": "x", "seconds": 1.5}
    log.write_text("Traceback\n")
    with pytest.raises(ValueError, match="no result line"):
        report.of_peer(log)


def run(seconds: float, peak: float) -> dict[str, object]:
    return {
        "seconds": seconds,
        "peak_gib": peak,
        "tokens_per_s": 100 / seconds,
        "to_first_step": 5.0,
        "held_out_loss": 1.5,
        "losses": [2.0, 1.0],
        "fed": 120,
        "scored": 60,
        "settings": "{}",
        "busy_before": 1.0,
        "versions": {"torch": "2"},
    }


def test_ratios_are_against_the_best_peer_and_never_against_ourselves():
    results = {
        "luthier": [run(10, 2), run(30, 2), run(20, 2)],
        "peer-defaults": [run(100, 3)],
        "peer-best": [run(60, 4)],
    }
    document = {
        "results": results,
        "repeat": 3,
        "train": {"tokens": 100, "scored": 50},
        "held_out_rows": 8,
        "base_loss": 2.0,
        "hardware": {"bf16_gflops": 900},
        "bf16_gflops_after": 800,
    }
    lines = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in table.markdown(document).splitlines()}
    assert lines["luthier"][1:6] == ["20.0", "3.00", "5", "2.00", "1.50"]  # median 20 s against 60 s, 2 against 3 GiB
    assert lines["peer-best"][1:6] == ["60.0", "1.00", "2", "4.00", "0.75"]
