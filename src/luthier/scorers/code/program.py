"""The program in what a model said, and where a row begins it, the whole of the two."""

from __future__ import annotations

import re

FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*```[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
PYTHON = ("python", "py", "python3")
LONGEST = 200_000
"""Characters of a program; a longer one is none."""


def program(said: str) -> str | None:
    """The last fenced block of Python, else the last without a language, else all that was said.

    None where all blocks are of other languages, or the program is longer than any that is meant. A block that is never
    closed goes to the end.
    """
    blocks = [(match.group(1).lower(), match.group(2)) for match in FENCE.finditer(said[: 5 * LONGEST])]
    if blocks:
        named = [text for language, text in blocks if language in PYTHON]
        bare = [text for language, text in blocks if not language]
        found = (named or bare or [None])[-1]
    else:
        found = said
    return None if found is None or len(found) > LONGEST or not found.strip() else found.replace("\r\n", "\n")


def completed(begins: str, found: str, entry: str) -> tuple[str, ...]:
    """The program where the row begins it (HumanEval): what it may mean, the likelier first; the first that compiles is
    run. A response may say the whole function again, go on where the row stops, or say its body without indentation."""
    if re.search(rf"^(?:async[ \t]+)?def[ \t]+{re.escape(entry)}\b", found, re.MULTILINE):
        return (f"{begins}\n{found}",)
    indented = "\n".join(f"    {line}" if line.strip() else line for line in found.split("\n"))
    return (begins + found, begins + indented, begins + _body(found))


def _body(found: str) -> str:
    """Lines as far as they are indented: a base model writes on, below the function."""
    lines = found.split("\n")
    end = next((i for i, line in enumerate(lines) if i and line.strip() and not line[0].isspace()), len(lines))
    return "\n".join(lines[:end])
