"""Every error that a user is meant to read says what to do about it."""

from __future__ import annotations

import ast
from pathlib import Path

import luthier


def test_every_error_for_the_user_has_a_fix() -> None:
    root = Path(luthier.__file__).parent
    without = []
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or getattr(node.func, "id", "") not in ("LuthierError", "Unmergeable"):
                continue
            fixes = [keyword.value for keyword in node.keywords if keyword.arg == "fix"]
            if not fixes or (isinstance(fixes[0], ast.Constant) and not fixes[0].value):
                without.append(f"{path.relative_to(root)}:{node.lineno}")
    assert not without
