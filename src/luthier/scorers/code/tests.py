"""A row's tests made ready: parsed here, where they can be trusted, and run elsewhere.

Which names are the program's is decided by the row alone, never by the program: a name that a test uses, that neither
it nor the row's own beginning defines, and that is neither built in nor a module of the standard library that a test
takes something from. So a program gains nothing by a `sorted` or a `math` of its own.
"""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import CodeType
from typing import Any

from luthier.errors import LuthierError
from luthier.types import Example

BUILTINS = frozenset(dir(builtins))
PLAIN = frozenset(name for kind in (str, bytes, int, float, complex, list, tuple, dict, set) for name in dir(kind))
"""What plain values have for attributes."""


@dataclass(frozen=True)
class Pair:
    """What a program is told on its standard input, and what it is to print."""

    input: str
    output: str


@dataclass(frozen=True)
class Tests:
    """The tests of a row: pairs of input and output, or code."""

    pairs: tuple[Pair, ...] = ()
    blocks: tuple[tuple[int | None, CodeType], ...] = ()
    """Each with its number; None where its asserts are numbered instead, because their share is asked for."""
    count: int = 0
    """How many there are to pass."""
    names: tuple[str, ...] = ()
    """What the program is to define."""
    classes: tuple[str, ...] = ()
    """The classes among them: `Made` objects come from these."""
    setup: CodeType | None = None
    begins: str = ""
    """How the row begins the program."""
    before: CodeType | None = None
    """That beginning, for the tests: what it defines is the row's own."""
    entry: str = ""
    random: bool = False
    """Do the tests draw random numbers?"""


def tests_of(example: Example, share: bool) -> Tests | None:
    """The tests of a row: those of `meta["tests"]`, else its answer, if that is code that tests something.

    None where there are none. Raises LuthierError for tests that are no Python.
    """
    given = example.meta.get("tests")
    try:
        if given is None:
            return None if example.answer is None else _of_answer(example.answer, share)
        return _of_meta(given, example.meta, share)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise LuthierError(
            f"the row's tests are no Python: {error}",
            where=str(example.source) if example.source else None,
            fix="mend them, or leave the row out",
        ) from error


def _of_answer(answer: str, share: bool) -> Tests | None:
    """An answer that holds tests: it must parse, assert something, and use a name that it does not define."""
    try:
        tree = ast.parse(answer)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    if not any(isinstance(node, ast.Assert) for node in ast.walk(tree)):
        return None
    found = _of_code([answer], {}, share)
    return found if found.names else None


def _of_meta(given: Any, meta: Mapping[str, Any], share: bool) -> Tests:
    blocks: list[Any] = [given] if isinstance(given, str) else list(given)
    if blocks and isinstance(blocks[0], Mapping):
        pairs = tuple(Pair(str(pair["input"]), str(pair["output"])) for pair in blocks)
        return Tests(pairs=pairs, count=len(pairs))
    return _of_code(blocks, meta, share)


def _of_code(blocks: Sequence[str], meta: Mapping[str, Any], share: bool) -> Tests:
    begins, entry = str(meta.get("begins") or ""), str(meta.get("entry_point") or "")
    setup = str(meta.get("setup") or "").replace("\r\n", "\n")
    before, setting = _parsed(begins), _parsed(setup)
    trees = [ast.parse(block.replace("\r\n", "\n")) for block in blocks]
    for tree in trees:
        _call(tree, entry)
    known = _Used()
    if before:
        known.visit(before)
    around = [setting] if setting else []
    names = _names(trees, around, frozenset(known.stored - {entry}), str(meta.get("solution") or ""))
    used = _Used()
    for tree in (*trees, *around):
        used.visit(tree)
    setting = _with_imports(setting, sorted(used.modules() - set(names) - known.stored))
    count, numbered = 0, list[tuple[int | None, ast.Module]]()
    for tree in trees:
        if share and any(isinstance(node, ast.Assert) for node in ast.walk(tree)):
            counted = _Counted(count)
            numbered.append((None, counted.visit(tree)))
            count = counted.count
        else:
            numbered.append((count, tree))
            count += 1
    return Tests(
        blocks=tuple((number, _compiled(tree)) for number, tree in numbered),
        count=count,
        names=tuple(names),
        classes=_classes(names, used, str(meta.get("solution") or "")),
        setup=_compiled(setting) if setting else None,
        begins=begins,
        before=_compiled(before) if before else None,
        entry=entry,
        random="random" in setup + "".join(blocks),
    )


def _with_imports(setup: ast.Module | None, modules: Sequence[str]) -> ast.Module | None:
    """The setup, and before it the modules that tests take something from without importing them."""
    imports = ast.parse("\n".join(f"import {name}" for name in modules)).body
    body = [*imports, *(setup.body if setup else [])]
    return ast.Module(body, []) if body else None


def _parsed(text: str) -> ast.Module | None:
    return ast.parse(text) if text.strip() else None


def _compiled(tree: ast.Module) -> CodeType:
    return compile(ast.fix_missing_locations(tree), "tests.py", "exec")


def _call(tree: ast.Module, entry: str) -> None:
    """What only defines tests is called, too: `check(the function)` as in HumanEval, and functions `test_…()`."""
    for node in list(tree.body):
        if not isinstance(node, ast.FunctionDef):
            continue
        if entry and node.name == "check" and len(node.args.args) == 1:
            tree.body += ast.parse(f"check({entry})").body
        elif node.name.startswith("test_") and not node.args.args:
            tree.body += ast.parse(f"{node.name}()").body


class _Counted(ast.NodeTransformer):
    """Each assert with a number, noted as right or wrong; those behind one that fails still run."""

    def __init__(self, count: int) -> None:
        self.count = count

    def visit_Assert(self, node: ast.Assert) -> ast.Try:
        number, self.count = self.count, self.count + 1
        frame = ast.parse(
            f"try:\n    __right__({number})\nexcept Exception as __fault__:\n    __wrong__({number}, __fault__)"
        ).body[0]
        assert isinstance(frame, ast.Try)
        frame.body.insert(0, node)
        return ast.copy_location(frame, node)


def _names(
    trees: Sequence[ast.Module], around: Sequence[ast.Module], known: frozenset[str], solution: str
) -> list[str]:
    """What the tests use of the program: see the head of this file."""
    used = _Used()
    for tree in (*trees, *around):
        used.visit(tree)
    free = used.loaded - used.stored - known
    own = (free - BUILTINS - used.modules()) | (free & _defined(ast.parse(solution) if solution.strip() else None))
    if not own:  # tests of a `sum` or a `filter` of the program's: else they would test nothing of it
        own = free & used.called
    return sorted(own)


def _classes(names: Sequence[str], used: _Used, solution: str) -> tuple[str, ...]:
    """Which of the names are classes: those of the solution; where there is none, those that look like one (`Stack`)
    and whose objects a test takes something from that no plain value has. A mere `Find_Max(x) == 3` never is."""
    if solution.strip():
        return tuple(sorted(set(names) & _defined(ast.parse(solution), (ast.ClassDef,))))
    return tuple(name for name in names if name[:1].isupper() and used.taken(name) - PLAIN)


def _defined(
    tree: ast.Module | None, kinds: tuple[type, ...] = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
) -> frozenset[str]:
    """Names that a module gives to functions and classes."""
    return frozenset(getattr(node, "name", "") for node in (tree.body if tree else ()) if isinstance(node, kinds))


class _Used(ast.NodeVisitor):
    """Which names are read, set, called, and read only to take something from."""

    def __init__(self) -> None:
        self.loaded: set[str] = set()
        self.stored: set[str] = set()
        self.called: set[str] = set()
        self._whole: set[str] = set()
        self._made: dict[str, set[str]] = {}
        self._taken: dict[str, set[str]] = {}

    def taken(self, function: str) -> set[str]:
        """What is taken from what a function gives, at once or from a name that it is given."""
        places = (function + "()", *(name for name, by in self._made.items() if function in by))
        return set().union(*(self._taken.get(place, ()) for place in places))

    def visit_Assign(self, node: ast.Assign) -> None:
        if isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Name):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    self._made.setdefault(target.id, set()).add(node.value.func.id)
        self.generic_visit(node)

    def modules(self) -> set[str]:
        """Names of the standard library's modules that nothing is done with but to take something from them."""
        return (self.loaded - self.stored - self._whole) & sys.stdlib_module_names

    def visit_Name(self, node: ast.Name) -> None:
        (self.loaded if isinstance(node.ctx, ast.Load) else self.stored).add(node.id)
        self._whole.add(node.id)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.value, ast.Name):
            self.loaded.add(node.value.id)
            self._taken.setdefault(node.value.id, set()).add(node.attr)
            return
        if isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Name):
            self._taken.setdefault(node.value.func.id + "()", set()).add(node.attr)
        self.visit(node.value)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name):
            self.called.add(node.func.id)
        self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> None:
        self.stored.add(node.arg)
        self.generic_visit(node)

    def visit_alias(self, node: ast.alias) -> None:
        self.stored.add((node.asname or node.name).split(".")[0])

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        self.stored.update([node.name] if node.name else [])
        self.generic_visit(node)

    def _definition(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
        self.stored.add(node.name)
        self.generic_visit(node)

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = _definition
