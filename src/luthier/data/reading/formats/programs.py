"""Tasks whose answers are programs: what tests them stands in `meta`, for the scorer `code`.

`meta["tests"]` holds asserts or pairs of input and output; `setup` what is run before them; `begins` the code that the
program goes on from; `entry_point` the function they call; `solution` the code that is known to be right.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from luthier.data.reading.formats.plain import prompt_turns
from luthier.data.reading.formats.shape import BadRow, Row, Shape, filled, kind, listed, optional_text, parsed
from luthier.data.reading.formats.turns import tools, with_system
from luthier.types import Example, Response, Turn


@dataclass(frozen=True)
class Mbpp(Shape):
    """MBPP (arXiv:2108.07732): what a function is to do, its code, and asserts. The first assert is shown to the model,
    because only it says what the function is called; the others are not, so that no answer can be copied from them."""

    needs: ClassVar = (("text", "prompt"), ("test_list",))
    optional: ClassVar = ("code", "test_setup_code", "test_imports", "system")
    gives: ClassVar = "user: text and the first test; assistant: the code, fenced; all tests for `code`"

    def read(self, row: Row) -> Example:
        tests = _asserts(listed(row, "test_list"), "test_list")
        imports = [str(line) for line in parsed(row.get("test_imports") or [], "test_imports")]
        setup = "\n".join([*imports, optional_text(row, "test_setup_code")])
        _python(setup, "test_setup_code")
        asked = f"{filled(row, 'text', 'prompt').strip()}\nYour code should pass this test:\n{tests[0].strip()}"
        code = optional_text(row, "code")
        return _example(row, (Turn("user", asked),), code, {"tests": tests, "setup": setup, "solution": code})


@dataclass(frozen=True)
class HumanEval(Shape):
    """HumanEval (arXiv:2107.03374): the head of a function, to be gone on with, and a `check` that tests it."""

    needs: ClassVar = (("prompt",), ("entry_point",), ("test",))
    optional: ClassVar = ("canonical_solution", "system")
    gives: ClassVar = "user: prompt; assistant: the whole function, fenced; the test for `code`"

    def read(self, row: Row) -> Example:
        begins, test = filled(row, "prompt"), filled(row, "test")
        _python(test, "test")
        meta = {"tests": test, "begins": begins, "entry_point": filled(row, "entry_point").strip()}
        solution = optional_text(row, "canonical_solution")
        return _example(row, (Turn("user", begins),), begins + solution if solution else "", meta)


@dataclass(frozen=True)
class Tested(Shape):
    """A prompt and the tests of the program that answers it: asserts, or pairs of what it reads and is to print."""

    needs: ClassVar = (("prompt", "question"), ("tests",))
    optional: ClassVar = ("solution", "setup", "entry_point", "system", "tools")
    gives: ClassVar = "user: prompt; assistant: the solution, fenced; the tests for `code`"

    def read(self, row: Row) -> Example:
        given = row.get("tests")
        given = given if isinstance(given, str) and not given.lstrip().startswith("[") else parsed(given, "tests")
        if isinstance(given, str):
            _python(given, "tests")
        elif isinstance(given, Mapping) or (isinstance(given, Sequence) and given and isinstance(given[0], Mapping)):
            given = _pairs(given)
        else:
            given = _asserts(listed({"tests": given}, "tests"), "tests")
        setup, solution = optional_text(row, "setup"), optional_text(row, "solution")
        _python(setup, "setup")
        meta = {"tests": given, "setup": setup, "entry_point": optional_text(row, "entry_point"), "solution": solution}
        return _example(row, prompt_turns(row, "prompt", "question"), solution, meta)


def _example(row: Row, prompt: tuple[Turn, ...], code: str, meta: Mapping[str, Any]) -> Example:
    code = code.replace("\r\n", "\n").rstrip()
    said = (Response((Turn("assistant", f"```python\n{code}\n```"),)),) if code.strip() else ()
    return Example(with_system(row, prompt), said, None, tools(row), meta=meta)


def _asserts(given: Sequence[Any], name: str) -> tuple[str, ...]:
    if not all(isinstance(test, str) and test.strip() for test in given):
        raise BadRow(
            f"{name!r} holds {kind(next(t for t in given if not (isinstance(t, str) and t.strip())))}, not text"
        )
    for test in given:
        _python(test, name)
    return tuple(given)


def _pairs(given: Any) -> tuple[Mapping[str, str], ...]:
    """Pairs as a list of objects, or as an object with two lists (APPS, TACO)."""
    inputs = ("input", "inputs"), ("output", "outputs")
    if isinstance(given, Mapping):
        ins, outs = (given.get(one, given.get(many)) for one, many in inputs)
        if not isinstance(ins, list | tuple) or not isinstance(outs, list | tuple) or len(ins) != len(outs):
            raise BadRow("'tests' is an object without `inputs` and `outputs` of one length")
        given = [{"input": one, "output": other} for one, other in zip(ins, outs, strict=True)]
    for pair in given:
        if not isinstance(pair, Mapping) or not all(isinstance(pair.get(key), str) for key in ("input", "output")):
            raise BadRow("'tests' holds a pair without the texts `input` and `output`")
    if not given:
        raise BadRow("'tests' is empty")
    return tuple({"input": pair["input"], "output": pair["output"]} for pair in given)


def _python(text: str, name: str) -> None:
    try:
        ast.parse(text.replace("\r\n", "\n"))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise BadRow(f"{name!r} is no Python", "mend the tests, or leave the row out") from None


__all__ = ["HumanEval", "Mbpp", "Tested"]
