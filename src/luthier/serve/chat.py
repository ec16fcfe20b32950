"""Talk to a model in the terminal: streaming, with history, with and without its adapter."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from luthier.errors import LuthierError
from luthier.registry import suggest
from luthier.types import Request, Sampling, Turn

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from luthier.data import Template
    from luthier.models import Policy

HELP = """\
/reset        forget the conversation
/system TEXT  set the system message and begin anew (no TEXT: take it away)
/base         answer without the adapter; again: with it
/both         answer with and without the adapter, side by side; again: one answer
/help         this list
/exit         leave (so does the end of the input)"""
COMMANDS = ["/reset", "/system", "/base", "/both", "/help", "/exit", "/quit"]


class Streaming(Protocol):
    """What an engine elsewhere is asked for in a conversation."""

    def stream(self, prompt: Sequence[int], sampling: Sampling, turns: Sequence[Turn] = ()) -> Iterator[str]:
        """As `Engine.stream`; one that renders messages itself takes the turns."""
        ...


@dataclass(frozen=True)
class Elsewhere:
    """A model whose answers an engine with weights of its own gives."""

    engine: Streaming
    base: str
    """What the model is called."""
    has_adapter: ClassVar[bool] = False
    rewrites_base: ClassVar[bool] = False


def chat(
    policy: Policy | Elsewhere,
    template: Template,
    console: Console,
    *,
    system: str | None = None,
    sampling: Sampling | None = None,
    both: bool = False,
) -> None:
    """Read lines from stdin until it ends or says /exit, and answer each; works in a terminal and in a pipe.

    Raises LuthierError when `both` is asked of a model without an adapter, and at the end of a pipe some of whose
    lines could not be answered.
    """
    if sys.stdin is None:
        raise LuthierError("there is no input to read", fix="type in a terminal, or give lines through a pipe")
    talk = Chat(policy, template, console, system=system, sampling=sampling, both=both)
    if console.is_terminal:
        import readline  # noqa: F401  importing it gives input() editing and history

        console.print(f"{policy.base} · /help for what you can type", style="dim", markup=False)
    while True:
        try:
            line = console.input("[bold]you ▸[/] " if console.is_terminal else "")
        except (EOFError, KeyboardInterrupt):
            break
        if not talk.hear(line):
            break
    if talk.refused and not console.is_terminal:
        raise LuthierError(f"lines without an answer: {talk.refused}", fix="each says why where its answer would be")


def scores_only(model: str | Path, base: str | None = None) -> LuthierError:
    """The error of talking to a reward model: a run (then with its base), or a folder."""
    talk = f"; to talk to its base: luthier chat {base}" if base else ""
    run = "RUN" if base is None else model
    return LuthierError(
        "this is a reward model: it scores answers, it gives none",
        where=str(model),
        fix=f"name its run as a scorer in a recipe's `evaluate:`, as in `scorers: [{{reward_model: {run}}}]`, or let "
        f"it pick, `best_of: 8` with `by: {{reward_model: {run}}}`{talk}",
    )


class Chat:
    """One conversation; `hear` takes what the user typed."""

    def __init__(
        self,
        policy: Policy | Elsewhere,
        template: Template,
        console: Console,
        *,
        system: str | None = None,
        sampling: Sampling | None = None,
        both: bool = False,
    ) -> None:
        from luthier.engines import LocalEngine

        self._policy, self._template, self._console = policy, template, console
        if not isinstance(policy, Elsewhere):
            self._engine = LocalEngine(policy.module, policy.tokenizer, template.stop_ids)
        self._sampling = sampling or Sampling(max_new_tokens=512)
        self._tuned, self._both = policy.has_adapter, False
        self._system = system
        self.turns: list[Turn] = []
        self.refused = 0
        """Lines that could not be answered, and commands that are none."""
        self._reset()
        if both:
            self._require_adapter()
            self._both = True

    def hear(self, line: str) -> bool:
        """Answer a line, or do what a command says. False when the conversation is over."""
        line = line.strip()
        if line in ("/exit", "/quit"):
            return False
        try:
            if line.startswith("/"):
                self._command(line)
            elif line:
                self._answer(line)
        except LuthierError as error:
            self.refused += 1
            self._console.print(str(error), style="yellow", markup=False)
        return True

    def _command(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        if name == "/help":
            self._say(HELP)
        elif name == "/reset":
            self._reset()
            self._say("the conversation begins anew")
        elif name == "/system":
            self._system = rest.strip() or None
            self._reset()
            self._say("system message set" if self._system else "no system message of yours")
        elif name == "/base":
            self._require_adapter()
            self._tuned, self._both = not self._tuned, False
            self._say(f"adapter {'on' if self._tuned else 'off'}")
        elif name == "/both":
            self._require_adapter()
            self._both = not self._both
            self._say("both answers side by side" if self._both else f"adapter {'on' if self._tuned else 'off'}")
        else:
            raise LuthierError(f"unknown command {name}", fix=suggest(name, COMMANDS))

    def _answer(self, line: str) -> None:
        """One exchange. A prompt that cannot be answered leaves the conversation as it was."""
        turns = [*self.turns, Turn("user", line)]
        _must_be_text(turns)
        asked = Request(tuple(self._template.prompt_ids(turns)), self._sampling, turns=tuple(turns))
        answer = self._show_both(asked) if self._both else self._show_one(asked)
        self.turns = [*turns, self._template.answered(turns, answer)]

    def _show_one(self, asked: Request) -> str:
        said = ""
        try:
            for piece in self._pieces(asked, self._tuned):
                said += piece
                self._console.print(piece, end="", markup=False, highlight=False, soft_wrap=True)
        except KeyboardInterrupt:  # ends the answer, not the conversation
            self._console.print(" …", end="")
        self._console.print()
        return said

    def _show_both(self, asked: Request) -> str:
        """The tuned answer is the one that the conversation goes on from."""
        from rich.live import Live

        answers = {"base": "", "tuned": ""}
        live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None
        try:
            with live or nullcontext():
                for name in answers:
                    for piece in self._pieces(asked, name == "tuned"):
                        answers[name] += piece
                        if live is not None:
                            live.update(_columns(answers), refresh=True)
        except KeyboardInterrupt:
            pass
        if live is None:
            self._console.print(_columns(answers))
        return answers["tuned"]

    def _pieces(self, asked: Request, tuned: bool) -> Iterator[str]:
        if isinstance(self._policy, Elsewhere):
            yield from self._policy.engine.stream(asked.prompt, asked.sampling, asked.turns)
            return
        off = self._policy.has_adapter and not tuned
        with self._policy.adapter_off() if off else nullcontext():
            yield from self._engine.stream(asked.prompt, asked.sampling)

    def _reset(self) -> None:
        self.turns = [Turn("system", self._system)] if self._system else []

    def _require_adapter(self) -> None:
        if not self._policy.has_adapter or self._policy.rewrites_base:
            raise LuthierError(
                f"{self._policy.base} has no adapter to switch off", fix="give the folder of a run that trained one"
            )

    def _say(self, text: str) -> None:
        self._console.print(text, style="dim", markup=False, highlight=False)


def _must_be_text(turns: Sequence[Turn]) -> None:
    """Raises LuthierError for half characters, as bytes that are not UTF-8 come in: no tokenizer takes them."""
    try:
        for turn in turns:
            turn.text.encode()
    except UnicodeEncodeError:
        raise LuthierError("this is not UTF-8 text", fix="write it in UTF-8 (`locale` shows the terminal's)") from None


def _columns(answers: dict[str, str]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(*answers, expand=True, header_style="bold")
    table.add_row(*(Text(answer) for answer in answers.values()))
    return table
