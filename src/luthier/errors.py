"""The one kind of error a user is meant to read: what is wrong, where, and what to do about it."""

from __future__ import annotations


class LuthierError(Exception):
    """A fault the user can mend. The command line prints it without a traceback and exits with status 1.

    `what` says what is wrong, `where` names the file, line, row or key, and `fix` says what to do.
    """

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__(str(self))

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head}\n  → {self.fix}" if self.fix else head


class Told(Exception):
    """What went wrong has been told, by another process of the run. `status` is what to exit with."""

    def __init__(self, status: int = 1) -> None:
        self.status = status or 1
        super().__init__("another process of the run has told what went wrong")


def missing_extra(package: str, extra: str, feature: str) -> LuthierError:
    """The error for a feature whose optional dependency is absent."""
    return LuthierError(
        f"{feature} needs the package {package!r}, which is not installed",
        fix=f"pip install 'luthier[{extra}]'",
    )
