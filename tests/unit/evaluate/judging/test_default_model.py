"""The default model as a judge, over a real server: it says A whatever the order, and must be found out."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from luthier.errors import LuthierError
from luthier.evaluate.judging import Meeting, held, summed
from luthier.scorers import SCORERS
from luthier.scorers.judges import asking
from luthier.types import Example, Turn

MODEL = "smollm2-135m-instruct"
KNOWN = Path.home() / ".cache/luthier/models" / MODEL
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not KNOWN.is_dir(), reason="the default model is not cached")]
PAIRS = (
    ("What is the capital of France?", "The capital of France is Paris.", "Bananas are yellow and grow in the sun."),
    ("How much is 2 + 2?", "2 + 2 is 4.", "2 + 2 is 17, as everybody knows, and sometimes 18."),
    ("Name a primary colour.", "Red.", "I cannot say. Colours are a matter of taste."),
    ("Say hello in French.", "Bonjour!", "Guten Tag!"),
    ("Which is larger, the sun or the moon?", "The sun is larger.", "The moon, because it is nearer to us."),
    ("What do bees make?", "Bees make honey.", "Bees make steel."),
    ("Who wrote Hamlet?", "William Shakespeare wrote Hamlet.", "It was written by a committee in 1999."),
    ("How many days has a week?", "Seven.", "A week has twelve days and a half."),
)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "luthier", "serve", MODEL, "--port", str(port)]
    told = tmp_path_factory.mktemp("served") / "told"
    with told.open("wb") as file:  # a pipe that nobody reads would fill up
        server = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=file)
    try:
        for _ in range(600):
            assert server.poll() is None, told.read_text()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5):
                    break
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(30)


def meetings() -> list[Meeting]:
    """The right answer is told first in half of them, which makes no difference: both orders are asked."""
    return [
        Meeting(str(number), Example((Turn("user", asked),)), ("right", right), ("wrong", wrong))
        for number, (asked, right, wrong) in enumerate(PAIRS)
    ]


def test_forced_to_a_letter_it_says_the_same_one_in_either_order(url: str):
    asking.forget()
    engine = {"openai": {"url": url, "model": MODEL, "timeout": 300, "cache": False}}
    found = summed(held(SCORERS.build("judge", {"engine": engine, "reads": "tokens"}), meetings()))
    asking.forget()
    print(found.text(), *found.lines(), sep="\n")
    assert found.bias.consistent is not None and found.bias.consistent.value < 0.6
    assert found.bias.first is not None and not 0.25 < found.bias.first.value < 0.75
    assert found.winner is None and found.verdict.startswith("no winner is named")


def test_left_to_its_words_it_comes_to_no_verdict_that_could_be_read(url: str):
    asking.forget()
    engine = {"openai": {"url": url, "model": MODEL, "timeout": 300, "cache": False}}
    by = SCORERS.build("judge", {"engine": engine, "max_new_tokens": 48})
    bouts = held(by, meetings()[:4])
    asking.forget()
    read = sum(share is not None for bout in bouts for share in bout.orders)
    print(f"{read} of 8 verdicts could be read")
    try:
        found = summed(bouts)
    except LuthierError as told:
        assert "could be read" in told.what
    else:
        assert found.winner is None and found.bias.unusable is not None
