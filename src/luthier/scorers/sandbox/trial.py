"""What is run to see whether walls stand: it tries to look over them, and says so when it could not.

Runs inside the sandbox. What walls are to keep out is tried by the walls' own tests; here it is enough that a file can
be written where it may be, and that one thing is said.
"""

from __future__ import annotations

import os


def main(_: None) -> None:
    """Write, read and remove a file, then say the word."""
    with open("trial", "w", encoding="utf-8") as file:  # noqa: PTH123 (pathlib costs milliseconds)
        file.write("x")
    os.unlink("trial")  # noqa: PTH108
    os.write(1, b"behind walls")
