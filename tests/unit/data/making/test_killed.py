"""`luthier curate` with an endpoint behind a real wire, killed in the middle: what was answered is not asked again."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import endpoints
import yaml
from scripted import Scripted

from luthier.types import Request, Sampling, Turn

CALLS = 4
"""Under way at a time."""


def test_killed_in_the_middle_nothing_but_calls_in_flight_is_asked_again(tmp_path: Path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"Question {n}?", "completion": "So."}) + "\n" for n in range(12)))
    model, asked, lock = Scripted(), Counter[str](), threading.Lock()

    def answer(_: str, body: dict[str, Any]) -> endpoints.Answer:
        with lock:
            asked[json.dumps(body, sort_keys=True)] += 1
        time.sleep(0.02)
        turns = tuple(Turn(one["role"], one["content"]) for one in body["messages"])
        (told,) = model.run([Request((), Sampling(seed=body.get("seed", 0)), turns=turns)])
        return endpoints.said(told.text)

    with endpoints.endpoint(answer) as found:
        engine = {"openai": {"url": found.url, "model": "m", "concurrency": CALLS}}
        step = {"evolve": {"engine": engine, "compare": False, "rounds": 2, "until": 18, "budget": {"calls": 200}}}
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(yaml.safe_dump({"data": {"path": str(rows)}, "steps": [step]}))
        process = _curate(recipe, tmp_path / "first.jsonl")
        while sum(asked.values()) < 20:
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        time.sleep(0.1)
        before = Counter(asked)
        again = _curate(recipe, tmp_path / "again.jsonl")
        told = again.communicate(timeout=300)
        assert again.returncode == 0, told
        repeated = [key for key, count in asked.items() if count > 1]
        assert len(repeated) <= CALLS and all(asked[key] == 2 and before[key] == 1 for key in repeated)
        assert 1 < found.together <= CALLS
    made = (tmp_path / "again.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(made) == 12 + 18
    histories = [json.loads(one)["made"] for one in made if '"made"' in one]
    assert len(histories) == 18 and {one["model"] for one in histories} == {"m"}


def _curate(recipe: Path, out: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "LUTHIER_CACHE": str(recipe.parent / "cache"), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "luthier", "curate", str(recipe), "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
