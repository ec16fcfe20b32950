# ruff: noqa: E501 (programs)
"""The scorer `code`: which program is meant, what its tests are, and verdicts worked out by hand."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from luthier.data import read
from luthier.errors import LuthierError
from luthier.scorers import SCORERS
from luthier.scorers.code import Code
from luthier.scorers.code import tests as rows_tests
from luthier.scorers.code.line import Line
from luthier.scorers.code.program import completed, program
from luthier.scorers.code.values import Unsayable, decode, encode
from luthier.types import Example, Response, Source, Turn

DATA = Path(os.environ.get("LUTHIER_SHARED", Path(__file__).parents[4] / "shared")) / "data"
ADD = "def add(a, b):\n    return a + b"


def row(tests: Any, answer: str | None = None, **meta: Any) -> Example:
    known = {"tests": tests, **meta} if tests is not None else {}
    return Example((Turn("user", "?"),), answer=answer, meta=known, source=Source("rows.jsonl", 3))


def said(text: str) -> Response:
    return Response((Turn("assistant", text),))


def score(tests: Any, source: str, **keys: Any) -> float | None:
    meta = {key: keys.pop(key) for key in ("setup", "begins", "entry_point", "solution") if key in keys}
    return Code(**{"seconds": 1.0, **keys})(row(tests, **meta), said(source))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("x = 1", "x = 1"),
        ("Here:\n```python\nx = 1\n```\nDone.", "x = 1\n"),
        ("```python\nx = 1\n```\nbetter:\n```python\nx = 2\n```", "x = 2\n"),
        ("```python\nx = 1\n```\nit prints\n```\n1\n```", "x = 1\n"),
        ("```\nx = 1\n```", "x = 1\n"),
        ("```py\nx = 1\n```\nrun it:\n```bash\npython x.py\n```", "x = 1\n"),
        ("```python\nx = 1", "x = 1"),
        ("  ```Python title=a\n  x = 1\n  ```", "  x = 1\n"),
        ("```bash\nls\n```", None),
        (" \n", None),
        ("x" * 200_001, None),
        ("```python\r\nx = 1\r\n```", "x = 1\n"),
    ],
)
def test_the_program_is_the_last_block_of_python(text: str, found: str | None) -> None:
    assert program(text) == found


def test_a_program_that_the_row_begins() -> None:
    begins = "import math\n\ndef f(x):\n"
    assert completed(begins, "def f(x):\n    return 1", "f") == (begins + "\ndef f(x):\n    return 1",)
    assert completed(begins, "def ff(x): pass", "f")[0] == begins + "def ff(x): pass"
    assert begins + "    return 1" in completed(begins, "return 1", "f")
    assert completed(begins, "    return 1\n\nThat is all.", "f")[-1] == begins + "    return 1\n"


@pytest.mark.parametrize(
    "value",
    [
        None, True, False, 0, -1, 1 << 9000, -(1 << 70), 0.1, -0.0, float("inf"), 1e-320, 3 - 4j, "", "a:b\n漢\ud800",
        b"\x00\xff", bytearray(b"x"), [], (), [1, [2, (3,)]], {1: [2], "k": None}, {1, 2}, frozenset({(1, 2)}), range(1, 9, 2),
        int, dict,
    ],
)  # fmt: skip
def test_plain_values_come_back_as_they_were(value: Any) -> None:
    back = decode(encode(value, lambda _: None), lambda tag, number: None)
    assert back == value and type(back) is type(value) and str(back)[:50] == str(value)[:50]


@pytest.mark.parametrize(
    "forged",
    [b"", b"q1:x", b"i1:z", b"l9:", b"l-1:", b"s5:abc", b"NN", b"S1:l0:", b"d1:N", b"o1:x", b"m9:os system x", b"n4:eval",
     b"m25:builtins eval __import__('", b"i" + b"1" * 30 + b":", b"l1:" * 5000, b"s1:\xff"],
)  # fmt: skip
def test_what_is_no_value_is_refused(forged: bytes) -> None:
    with pytest.raises(Unsayable):
        decode(forged, lambda tag, number: [][number])


def test_a_subclass_goes_over_as_what_it_derives_from() -> None:
    class Sly(int):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = int.__hash__

    back = decode(encode([Sly(3)], lambda _: None), lambda tag, number: None)
    assert type(back[0]) is int and back == [3] != [4]
    with pytest.raises(Unsayable):
        encode(object(), lambda _: None)


def test_a_message_that_is_too_long_is_refused_before_it_is_read() -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, b"\xff\xff\xff\xff")
    with pytest.raises(Exception, match="too long"):
        Line(read_end, write_end, lambda _: None, lambda tag, number: None).receive()
    os.close(read_end)
    os.close(write_end)


RIGHT: dict[str, tuple[Any, str]] = {
    "asserts": (["assert add(1, 2) == 3", "assert add('a', b='b') == 'ab'"], ADD),
    "what it changes in its arguments": ("l = [3, 1, {2}]\nl.pop()\nsort(l)\nassert l == [1, 3]", "def sort(l):\n    l.sort()"),
    "a generator": ("assert list(up(3)) == [0, 1, 2]\nassert next(up(9)) == 0", "def up(n):\n    yield from range(n)"),
    "an exception": (
        "try:\n    half(3)\n    assert False\nexcept ValueError as e:\n    assert 'odd' in str(e)",
        "class Odd(ValueError): pass\ndef half(n):\n    raise Odd('odd')",
    ),
    "a function of the tests'": (
        "assert twice(lambda x: x + 1, 3) == 5\nassert twice(len, ['ab']) == 1 if False else True",
        "def twice(f, x):\n    return f(f(x))",
    ),
    "an iterator of the tests'": ("assert total(x for x in [1, 2]) == 3", "def total(xs):\n    return sum(xs)"),
    "a type": ("assert only([1, 'a'], int) == [1]", "def only(xs, t):\n    return [x for x in xs if isinstance(x, t)]"),
    "a function returned": ("assert adder(2)(3) == 5", "def adder(a):\n    return lambda b: a + b"),
    "a class": (
        "s = Stack()\ns.push(1)\ns.push(2)\nassert len(s) == 2 and s.pop() == 2 and s.items == [1]\nassert isinstance(s, Stack)"
        "\nassert 1 in s and s and Stack() == Stack() and not Stack() == 5",
        "class Stack:\n    def __init__(self): self.items = []\n    def push(self, x): self.items.append(x)\n"
        "    def pop(self): return self.items.pop()\n    def __len__(self): return len(self.items)\n"
        "    def __contains__(self, x): return x in self.items\n"
        "    def __eq__(self, o): return isinstance(o, Stack) and self.items == o.items",
    ),
    "sums with a class": (
        "assert V(1).x == 1 and (V(1) + V(2)).x == 3 and V(1) < V(2) and V(5)[0] == 5 and str(V(1)) == 'V1'",
        "class V:\n    def __init__(self, x): self.x = x\n    def __add__(self, o): return V(self.x + o.x)\n"
        "    def __lt__(self, o): return self.x < o.x\n    def __getitem__(self, i): return self.x\n"
        "    def __str__(self): return f'V{self.x}'",
    ),
    "decimals and counters": (
        "from decimal import Decimal\nassert d() == Decimal('0.1')\nassert c('aab') == {'a': 2, 'b': 1}",
        "from decimal import Decimal\nfrom collections import Counter\ndef d(): return Decimal('0.1')\n"
        "def c(s): return Counter(s)",
    ),
    "a module nobody imports": ("assert abs(area(1) - math.pi) < 1e-9", "import math\ndef area(r): return math.pi * r * r"),
    "a function named like a built-in": ("assert sum(10, 15) == 6", "def sum(a, b): return 6"),
    "functions named test_": ("def test_a():\n    assert add(1, 1) == 2", ADD),
    "dataclasses": (
        "assert p(3).y == 3",
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    y: int\ndef p(n): return P(n)",
    ),
    "a constant": ("assert ANSWER == 42", "ANSWER = 42"),
    "prints and files": ("assert f() == 'x'", "def f():\n    print('hi' * 99999)\n    open('a', 'w').write('x')\n    return open('a').read()"),
    "threads": (
        "assert f() == 4",
        "from concurrent.futures import ThreadPoolExecutor\ndef f():\n    with ThreadPoolExecutor(2) as p:\n"
        "        return sum(p.map(lambda x: x + x, [1, 1]))",
    ),
}  # fmt: skip


def test_programs_that_are_right() -> None:
    pairs = [(row(tests), said(source)) for tests, source in RIGHT.values()]
    found = Code(seconds=2.0).verdicts(pairs)
    assert {name: one for name, one in zip(RIGHT, found, strict=True) if one.share != 1.0} == {}


WRONG: dict[str, tuple[Any, str]] = {
    "one test fails": (["assert add(1, 2) == 3", "assert add(1, 2) == 4"], ADD),
    "no such function": ("assert plus(1, 2) == 3", ADD),
    "no Python": ("assert add(1, 2) == 3", "add a and b"),
    "an error while it is read": ("assert add(1, 2) == 3", ADD + "\n1 / 0"),
    "a sorted of its own": (
        "assert sorted(f([2, 1])) == [1, 2]",
        "def sorted(x): return [1, 2]\ndef f(x): return None",
    ),
    "a math of its own": (
        "assert math.fabs(f(2)) == 2",
        "class math:\n    def fabs(x): return 2\ndef f(x): return None",
    ),
    "sums by its word": (
        "assert abs(f(2) - 4) < 1e-6",
        "class E:\n    def __sub__(s, o): return 0.0\ndef f(x): return E()",
    ),
    "a length by its word": ("assert len(f(2)) == 2", "class E:\n    def __len__(s): return 2\ndef f(x): return E()"),
    "an order by its word": ("assert f(2) < 4", "class E:\n    def __lt__(s, o): return True\ndef f(x): return E()"),
    "items by its word": ("assert f(2)[0] == 4", "class E:\n    def __getitem__(s, i): return 4\ndef f(x): return E()"),
    "what the test compares with": (
        "xs = [2, 1]\nassert f(xs) == sorted(xs)",
        "def f(xs):\n    xs.clear()\n    return []",
    ),
    "a function that looks like a class": (
        "assert Find_Max([1, 2]) == 2",
        "class Find_Max:\n    def __init__(s, x): pass\n    def __eq__(s, o): return True",
    ),
    "eval handed back": ("assert f(2)('1 + 1') == 2", "def f(x): return 2"),
}


def test_programs_that_are_wrong() -> None:
    pairs = [(row(tests), said(source)) for tests, source in WRONG.values()]
    found = Code(seconds=2.0).verdicts(pairs)
    assert {name: one for name, one in zip(WRONG, found, strict=True) if one.share != 0.0} == {}
    assert all(one.why for one in found)


def test_the_share_counts_each_assert() -> None:
    tests = ["assert add(1, 2) == 3\nassert add(1, 2) == 4\nassert add(0, 0) == 0", "add(1, 1)"]
    assert score(tests, ADD, share=True) == 0.75 and score(tests, ADD) == 0.0
    loop = "for i in range(3):\n    assert f(i) < 2\nassert f(0) == 0"
    assert score(loop, "def f(i): return i", share=True) == 0.5, "an assert that fails once has failed"
    assert score(tests, "def add(a, b): return 1 / 0", share=True) == 0.0
    slow = "def add(a, b):\n    while b == 2: pass\n    return a + b"
    assert score(["assert add(1, 1) == 2", "assert add(1, 2) == 3"], slow, share=True) == 0.5


def test_an_answer_may_be_the_tests() -> None:
    scorer = Code()
    assert scorer(row(None, answer="assert add(1, 2) == 3"), said(ADD)) == 1.0
    assert scorer(row(None, answer="assert add(1, 2) == 4"), said(ADD)) == 0.0
    for none in (None, "72", '{"a": 1}', "assert it, he said", "x = 1", "assert 1 == 1"):
        assert scorer(row(None, answer=none), said(ADD)) is None
    assert scorer(row([]), said(ADD)) is None


def test_pairs_of_input_and_output() -> None:
    tests = [{"input": "1 2\n", "output": "3\n"}, {"input": "5 5", "output": "10"}]
    right = "a, b = map(int, input().split())\nif __name__ == '__main__':\n    print(a + b, ' ')"
    assert score(tests, right) == 1.0 and score(tests, "print(3)") == 0.0
    assert score(tests, "print(3)", share=True) == 0.5
    assert score(tests, "import os\nprint(3, flush=True)\nos._exit(1)", share=True) == 0.0
    assert score(tests, "import sys, os\nos.write(1, b'3\\n')\nsys.exit(0)", share=True) == 0.5
    assert score(tests, "while True: print('3' * 9999)") == 0.0
    assert score(tests, "print(open('/proc/1/cmdline').read())") == 0.0


def test_a_function_that_the_row_begins() -> None:
    row = {
        "begins": "def helper(x):\n    return x * 2\n\ndef f(x: int) -> int:\n    '''Doubles.'''\n",
        "entry_point": "f",
        "tests": "def check(candidate):\n    assert candidate(2) == 4\n    assert helper(candidate(3)) == 12\n",
    }
    for right in (
        "    return helper(x)",
        "return 2 * x",
        "def f(x):\n    return 2 * x",
        "    return 2 * x\n\nSo it is.",
    ):
        assert score(row["tests"], right, begins=row["begins"], entry_point="f") == 1.0, right
    cheat = "def helper(x):\n    return 12\ndef f(x):\n    return 4"
    assert score(row["tests"], cheat, begins=row["begins"], entry_point="f") == 0.0, (
        "the row's helper judges, not its own"
    )


def test_what_a_test_uses_of_the_program_is_decided_by_the_row() -> None:
    found = rows_tests.tests_of(row("assert sorted(f(x)) == math.floor(g.y)", setup="x = 1"), share=False)
    assert found is not None and found.names == ("f", "g")
    assert rows_tests.tests_of(row("assert sum(1, 2) == 3", solution="def sum(a, b): return 3"), False).names == (
        "sum",
    )
    assert rows_tests.tests_of(
        row("assert set(sum(1, 2)) == {3}", solution="def sum(a, b): return 3"), False
    ).names == ("sum",)


def test_a_class_is_one_by_the_solution_or_by_how_tests_use_it() -> None:
    def classes(tests: str, **meta: str) -> tuple[str, ...]:
        return rows_tests.tests_of(row(tests, **meta), False).classes

    assert classes("n = Node(1)\nn.left = 2\nassert f(n)") == ("Node",) == classes("assert Node(1).left is None")
    assert classes("n = Node(1)\nassert f(n)") == () == classes("assert Find_Max([1]) == 1")
    assert classes("assert Reverse('ab').upper() == 'BA'") == (), "any text has that"
    assert classes("n = Node(1)\nassert f(n)", solution="class Node: pass") == ("Node",)
    assert classes("n = Node(1)\nassert n.left == 2", solution="def Node(x): return x") == ()


def test_tests_that_are_no_python_name_their_row() -> None:
    with pytest.raises(LuthierError, match=r"rows\.jsonl:3: the row's tests are no Python"):
        Code()(row(["assert ("]), said(ADD))


def test_a_sandbox_that_fails_says_nothing_about_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = Code(seconds=1.0)
    scorer.check()  # the walls are known before anything breaks
    monkeypatch.setattr("luthier.scorers.sandbox.walls.python", lambda: "/bin/false")
    assert scorer(row(["assert add(1, 2) == 3"]), said(ADD)) is None
    assert scorer(row([{"input": "", "output": ""}]), said("x = 1")) is None


def test_random_numbers_and_sets_are_the_same_every_time() -> None:
    source = "import random\ndef f(): return random.random(), list({'a', 'b', 'c', 'd'}), hash('x')"
    assert score("import random\nassert f()[0] == 0.8444218515250481", source) == 1.0
    assert len({score("assert f()[1] == ['a', 'b', 'c', 'd']", source) for _ in range(3)}) == 1


def test_packages_are_there_only_when_asked_for() -> None:
    source = "import numpy as np\ndef f(): return np.arange(3), np.float64(0.5), np.int64(2)"
    tests = "assert f() == ([0, 1, 2], 0.5, 2)"
    assert score(tests, source) == 0.0 and score(tests, source, packages=True, memory_mb=2048, seconds=10.0) == 1.0


def test_its_keys_are_checked() -> None:
    for keys in ({"seconds": 0}, {"memory_mb": 1}, {"walls": "none"}, {"sahre": True}):
        with pytest.raises(LuthierError):
            SCORERS.build("code", keys)


def rows_of(name: str) -> list[Example]:
    path = DATA / name
    if not path.exists():
        pytest.skip("the shared data is absent")
    return list(read([str(path)]))


@pytest.mark.parametrize("name", ["mbpp/mbpp.jsonl", "human-eval/HumanEval.jsonl.gz"])
@pytest.mark.parametrize("step", [79, pytest.param(1, marks=pytest.mark.slow)])
def test_reference_solutions_score_1_and_broken_ones_0(name: str, step: int) -> None:
    rows = rows_of(name)
    assert len(rows) == (974 if "mbpp" in name else 164)
    rows = rows[::step]
    right = Code(seconds=20.0).verdicts([(one, one.responses[0]) for one in rows])
    assert [(str(one.source), found) for one, found in zip(rows, right, strict=True) if found.share != 1.0] == []
    broken = [said(one.responses[0].turns[0].text.replace("\n```", "") + silenced(one)) for one in rows]
    wrong = Code(seconds=20.0).verdicts(list(zip(rows, broken, strict=True)))
    assert [(str(one.source), found) for one, found in zip(rows, wrong, strict=True) if found.share != 0.0] == []


def silenced(one: Example) -> str:
    """The end of a program whose functions all give an object that is equal to everything."""
    return (
        "\nclass _E:\n    def __eq__(s, o): return True\n    def __hash__(s): return 0\n    def __bool__(s): return True\n"
        "for _n, _v in list(globals().items()):\n    if callable(_v) and _n not in ('_E', '_v') and _n[:2] != '__' and not isinstance(_v, type):\n"
        "        globals()[_n] = lambda *a, **k: _E()\n```"
    )


def test_a_program_sees_no_argument_of_ours() -> None:
    assert score([{"input": "", "output": "['-c']"}], "import sys\nprint(sys.argv)") == 1.0
