"""`python`: the user's own function, in every way that it may be written, and what it may do wrong."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import pytest

from luthier.errors import LuthierError
from luthier.scorers import SCORERS, patience
from luthier.types import Example, Response, Source, Turn

FILE = """
import asyncio
import beside

def long(response):
    return len(response)

def right(answer, response):
    return response == answer

def all_of_it(**given):
    return float(len(given))

def told(prompt, response, answer, meta, messages, row, extra=2):
    assert messages == [{"role": "system", "content": "s"}, {"role": "user", "content": prompt}]
    return meta["worth"] * extra if row == "rows.jsonl:3" else None

def whole(response, answer):
    assert isinstance(response, list) and isinstance(answer, list)
    return [None if one == "" else beside.worth(one) for one in response]

under_way = most = 0

async def slow(response):
    global under_way, most
    under_way += 1
    most = max(most, under_way)
    await asyncio.sleep(0.02 / (1 + len(response)))  # the later ones end first
    under_way -= 1
    return len(response)

async def slow_whole(response):
    await asyncio.sleep(0)
    return [len(one) for one in response]

def wrong(response):
    return {"nan": float("nan"), "inf": float("inf"), "word": "good", "list": [1.0]}[response]

def fails(response):
    if response == "bad":
        raise ValueError("no such word")
    return 1.0

async def fails_slowly(response):
    await asyncio.sleep(0)
    return fails(response)

def few(response):
    return [1.0]

def unknown(respnse):
    return 1.0

not_a_function = 5
"""
ROW = Example(
    (Turn("system", "s"), Turn("user", "how long?")), answer="abc", meta={"worth": 3}, source=Source("rows.jsonl", 3)
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    (folder / "beside.py").write_text("def worth(text):\n    return float(len(text))\n", encoding="utf-8")
    (folder / "rewards.py").write_text(FILE, encoding="utf-8")
    return folder / "rewards.py"


def scores(file: Path, name: str, *said: str, **keys: object) -> list[float | None]:
    scorer = SCORERS.build("python", {"": f"{file}:{name}", **keys})
    return scorer.many([(ROW, Response((Turn("assistant", one),))) for one in said])


def test_a_function_names_what_it_wants(file):
    assert scores(file, "long", "a", "", "abc") == [1.0, 0.0, 3.0]
    assert scores(file, "right", "abc", "ab") == [1.0, 0.0]
    assert scores(file, "told", "x") == [6.0]
    assert scores(file, "all_of_it", "x") == [6.0]


def test_whole_batches_and_none(file):
    assert scores(file, "whole", "ab", "", "abc", batch=True) == [2.0, None, 3.0]
    assert scores(file, "whole", batch=True) == []
    assert scores(file, "slow_whole", "ab", "", batch=True) == [2.0, 0.0]


def test_async_functions_wait_together_and_keep_their_order(file):
    said = ["a" * count for count in range(40)]
    assert scores(file, "slow", *said, concurrency=7) == [float(count) for count in range(40)]
    module = SCORERS.build("python", {"": f"{file}:slow"})
    from luthier.scorers.own import _function

    assert _function(module.function).__globals__["most"] == 7

    async def within_a_loop() -> list[float | None]:
        return scores(file, "slow", "abc", "a")

    assert asyncio.run(within_a_loop()) == [3.0, 1.0]


@pytest.mark.parametrize(
    ("said", "told"),
    [("nan", "gave nan"), ("inf", "gave inf"), ("word", "gave str 'good'"), ("list", r"gave list \[1.0\]")],
)
def test_what_is_no_number_is_an_error_that_names_line_and_row(file, said, told):
    line = FILE.splitlines().index("def wrong(response):") + 1
    with pytest.raises(LuthierError, match=rf"rewards\.py:{line}: wrong {told} for the response to rows\.jsonl:3"):
        scores(file, "wrong", said)


@pytest.mark.parametrize("name", ["fails", "fails_slowly"])
def test_a_failure_names_line_and_row(file, name):
    line = FILE.splitlines().index('        raise ValueError("no such word")') + 1
    told = rf"rewards\.py:{line}: {name} failed with ValueError: no such word for the response to rows\.jsonl:3"
    with pytest.raises(LuthierError, match=told):
        scores(file, name, "good", "bad")


def test_numpys_truths_are_numbers_and_who_leaves_the_program_fails(tmp_path):
    path = tmp_path / "rewards.py"
    path.write_text("import sys\nimport numpy as np\ndef longer(response): return np.bool_(len(response) > 3)\n"
                    "def leaves(response): sys.exit(3)\n")  # fmt: skip
    assert scores(path, "longer", "good", "bad") == [1.0, 0.0]
    with pytest.raises(LuthierError, match=r"leaves failed with SystemExit: 3 for the response to"):
        scores(path, "leaves", "good")


def test_a_call_that_does_not_come_back_is_given_up_and_says_nothing(tmp_path, monkeypatch, caplog):
    path = tmp_path / "slow.py"
    path.write_text(
        "import asyncio, time\n"
        "def some(response):\n    time.sleep(5 if response == 'hang' else 0)\n    return 1.0\n"
        "def whole(response):\n    time.sleep(5 if 'hang' in response else 0)\n    return [1.0] * len(response)\n"
        "async def late(response):\n    await asyncio.sleep(5 if response == 'hang' else 0)\n    return 1.0\n"
        "async def own(response):\n    raise TimeoutError('mine')\n"
    )
    for name in ("some", "late"):
        assert scores(path, name, "a", "hang", "b", seconds=0.3) == [1.0, None, 1.0], name
    assert scores(path, "whole", "a", "hang", batch=True, seconds=0.3) == [None, None]
    assert scores(path, "whole", "a", "b", batch=True, seconds=30) == [1.0, 1.0]
    with pytest.raises(LuthierError, match="own failed with TimeoutError: mine"):
        scores(path, "own", "a", seconds=30)
    monkeypatch.setattr(patience, "EVERY", 0.1)
    assert scores(path, "some", "hang", seconds=0.5) == [None]
    assert "some has not come back for" in caplog.text and "rows.jsonl:3" in caplog.text


def test_one_that_says_what_is_right_lies_between_0_and_1(file):
    assert SCORERS.build("python", {"": f"{file}:long"}).range == (-math.inf, math.inf)
    assert SCORERS.build("python", {"": f"{file}:long", "right": True}).range == (0.0, 1.0)
    assert scores(file, "right", "abc", "ab", right=True) == [1.0, 0.0]
    with pytest.raises(LuthierError, match=r"long gave 3, and `right: true` says .* for the response to rows.jsonl:3"):
        scores(file, "long", "a", "abc", right=True)


def test_lists_come_in_batches_under_the_same_names(tmp_path):
    path = tmp_path / "rewards.py"
    path.write_text("def theirs(completions, **more): return [0.0] * len(completions)\n")
    with pytest.raises(LuthierError, match=r"(?s)wants 'completions'.*lists come with `batch: true`"):
        scores(path, "theirs", "a")


def test_a_batch_of_another_length_is_an_error(file):
    with pytest.raises(LuthierError, match="few gave 1 scores for 2 responses"):
        scores(file, "few", "a", "b", batch=True)
    with pytest.raises(LuthierError, match=r"long gave 2 for 2 responses"):
        scores(file, "long", "a", "b", batch=True)


@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("{}:unknown", r"(?s)unknown wants 'respnse', which it is not given.*did you mean 'response'"),
        ("{}:lnog", r"(?s)there is no function 'lnog'.*did you mean 'long'"),
        ("{}:not_a_function", "'not_a_function' is no function"),
        ("{}", "names no function in a file"),
        ("nowhere.py:long", r"nowhere\.py: the file of the scorer 'python' cannot be read: No such file"),
    ],
)
def test_a_function_that_cannot_be_had_is_told_before_anything_is_asked(file, function, told):
    with pytest.raises(LuthierError, match=told):
        SCORERS.build("python", {"": function.format(file)})


def test_a_file_that_fails_names_its_line_and_a_changed_one_is_read_again(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("x = 1\nimport no_such_package\n", encoding="utf-8")
    with pytest.raises(LuthierError, match=r"mine\.py:2: the file fails when it is run: ModuleNotFoundError"):
        SCORERS.build("python", {"": f"{path}:f"})
    path.write_text("def f(response:\n    return 1\n", encoding="utf-8")
    with pytest.raises(LuthierError, match=r"mine\.py:1: the file fails when it is run: SyntaxError"):
        SCORERS.build("python", {"": f"{path}:f"})
    path.write_text("def f(response):\n    return 1\n", encoding="utf-8")
    assert scores(path, "f", "a") == [1.0]
    path.write_text("def f(response):\n    return 22\n", encoding="utf-8")
    assert scores(path, "f", "a") == [22.0]


def test_a_file_that_leaves_the_program_as_it_is_read_is_told(tmp_path):
    path = tmp_path / "rewards.py"
    path.write_text("import sys\n\nsys.exit('no key')\n")
    with pytest.raises(LuthierError, match=r"rewards.py:3: the file fails when it is run: SystemExit: no key"):
        SCORERS.build("python", {"function": f"{path}:polite"})
