"""Verbs that have a model answer: in the terminal, into a file, to clients."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from luthier.run import Run
from luthier.workflow.screen import console, say


def chat(
    model: Run | str | Path,
    *,
    system: str | None = None,
    temperature: float = 0.0,
    max_new_tokens: int = 512,
    both: bool = False,
    engine: str = "local",
) -> None:
    """Talk to a run (with the system message its data had) or to any model, in the terminal or through a pipe.

    `engine`: what answers, as a recipe names it, for instance "{openai: {url: …, model: …}}".
    """
    from luthier import serve
    from luthier.types import Sampling
    from luthier.workflow import speaker

    given = speaker.Speaker(model)
    opening = speaker.opening(speaker.named(engine))
    template = given.template(opening)
    if template.remark:
        say(template.remark)
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature)
    far = cast("serve.Streaming", given.engine(opening, template)) if opening.elsewhere else None
    answers = given.policy if far is None else serve.Elsewhere(far, given.name)
    system = (system if system is not None else given.system) or None
    serve.chat(answers, template, console(), system=system, sampling=sampling, both=both)


def generate(
    model: Run | str | Path,
    prompts: str | Path,
    out: str | Path,
    overrides: Sequence[str] = (),
    *,
    overwrite: bool = False,
) -> Path:
    """Answer the prompts of a file, a line an answer in `out`; the same command goes on where it was stopped.

    `overrides`: the keys of `recipe.Generation` by dotted names (n=4, temperature=0.8, engine.openai.url=…). Raises
    LuthierError where `out` holds answers made with other settings or weights, unless it is to `overwrite` them.
    """
    from luthier.recipe.generation import generation
    from luthier.workflow import generation as work
    from luthier.workflow.speaker import Speaker

    keys = generation([f"data.path={json.dumps(str(prompts))}", *overrides])  # JSON's text is YAML's, whatever is in it
    return work.generate(Speaker(model), keys, Path(out).expanduser(), overwrite=overwrite, say=say)


def serve(
    given: Sequence[str],
    *,
    adapters: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    keys: Sequence[str] = (),
) -> None:
    """Serve runs and models by OpenAI's API, and a chat page, until it is told to stop. `given`: runs and models, and
    settings (`serve.queue=64k`); `keys`: lines as in a file of keys."""
    from luthier.serve import listening

    listening.serve(given, adapters, (host, port), list(keys), say)
