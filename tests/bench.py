"""A tiny chat model saved as a folder, rows to train it on, and a recipe: real runs by the command line in seconds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

CHATML = (
    "{% for m in messages %}"
    "{% if m['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role ' + m['role']) }}{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTEXT = 256


def save_tiny_model(folder: Path, *, seed: int = 0, hidden: int = 32) -> Path:
    """Two Llama layers with random weights, and a tokenizer of bytes with a ChatML template."""
    import tiny
    from tiny_tokenizers import letters

    start, turn, end = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
    tokenizer = letters(start, turn, end, bos_token=start, eos_token=end, pad_token=start, chat_template=CHATML)
    sizes = {"vocab_size": len(tokenizer), "hidden_size": hidden, "intermediate_size": 2 * hidden}
    ends = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0}
    tiny.model(seed, **sizes, **ends, max_position_embeddings=CONTEXT).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_rows(path: Path, count: int = 12) -> Path:
    rows = [{"prompt": f"count {n}", "completion": "ab" * (n % 4 + 1)} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class Bench:
    """A folder with a recipe that trains a tiny model, and the command line to run in it."""

    def __init__(self, folder: Path, model: Path, cache: Path) -> None:
        self.folder, self.cache = folder, cache
        write_rows(folder / "rows.jsonl")
        self.content: dict[str, Any] = {
            "model": {"name": str(model), "dtype": "fp32"},
            "data": "rows.jsonl",
            "adapt": {"lora": {"r": 4}},
            "train": {"batch": 4, "max_tokens": 128, "threads": 1, "lr": 1e-2},
            "output": "run",
        }

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def __call__(
        self, verb: str, *overrides: str, prefix: tuple[str, ...] = (), **content: Any
    ) -> subprocess.CompletedProcess[str]:
        """`luthier VERB recipe.yaml OVERRIDES`, the recipe's top-level keys changed by `content`."""
        (self.folder / "recipe.yaml").write_text(yaml.safe_dump({**self.content, **content}))
        return self.luthier(verb, "recipe.yaml", *overrides, prefix=prefix)

    def luthier(
        self, *arguments: str, prefix: tuple[str, ...] = (), **options: Any
    ) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "LUTHIER_CACHE": str(self.cache), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        environment.update(options.pop("env", {}))
        command = [*prefix, sys.executable, "-m", "luthier", *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, cwd=self.folder, env=environment, timeout=300, **options
        )

    def here(self, verb: str, *overrides: str, **content: Any) -> int:
        """As calling it, in this process (much faster); the exit status."""
        from luthier.cli import main

        (self.folder / "recipe.yaml").write_text(yaml.safe_dump({**self.content, **content}))
        return self.inside(main, verb, "recipe.yaml", *overrides)

    def killed(self, verb: str, *overrides: str, **content: Any) -> None:
        """As calling it, but killed as soon as the run has a checkpoint."""
        (self.folder / "recipe.yaml").write_text(yaml.safe_dump({**self.content, **content}))
        environment = {**os.environ, "LUTHIER_CACHE": str(self.cache), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "luthier", verb, "recipe.yaml", *overrides]
        process = subprocess.Popen(command, cwd=self.folder, env=environment, stderr=subprocess.DEVNULL)
        while not any((self.run / "checkpoints").glob("step-*")) and process.poll() is None:
            time.sleep(0.01)
        process.kill()
        assert process.wait() == -signal.SIGKILL, "the run was over before it could be killed"

    def inside(self, main: Callable[[list[str]], None], *arguments: str) -> int:
        """The exit status of the command line, run in this process and this bench's folder."""
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
            patch.chdir(self.folder)
            patch.setenv("LUTHIER_CACHE", str(self.cache))
            patch.setenv("HF_HUB_OFFLINE", "1")
            main(list(arguments))
        return int(ended.value.code or 0)
