"""`luthier diagnose` on runs that were broken on purpose, each in its own way: what broke it is told first."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bench import Bench

from luthier import verbs
from luthier.cli import main
from luthier.evaluate.diagnosis import Finding
from luthier.evaluate.diagnosis.answers import repeats

PAIRS = [{"prompt": f"pick {n}", "chosen": f"it is {n} and so", "rejected": f"it is {n} or so"} for n in range(16)]
ASKED = [{"prompt": f"say {letter}", "answer": letter} for letter in "abcdefgh"]
STEADY = {"batch": 4, "max_tokens": 128, "threads": 1, "lr": 1e-2}
Broken = Callable[[Bench, pytest.MonkeyPatch], None]


def _write(bench: Bench, name: str, rows: list[dict[str, Any]]) -> str:
    (bench.folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


def _memory(bench: Bench, patch: pytest.MonkeyPatch) -> None:
    from luthier.train.loop.accumulation import Accumulation

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    patch.setattr(Accumulation, "gradients", full)
    assert bench.here("train", train=STEADY) == 1


def _no_number(bench: Bench, _: pytest.MonkeyPatch) -> None:
    assert bench.here("train", train={**STEADY, "lr": 1e30, "clip": 0, "warmup": 0, "epochs": 5}, adapt="full") == 1


def _flat(bench: Bench, _: pytest.MonkeyPatch) -> None:
    assert bench.here("train", train={**STEADY, "lr": 1e-7, "steps": 15}) == 0


def _rate(bench: Bench, _: pytest.MonkeyPatch) -> None:
    assert bench.here("train", train={**STEADY, "lr": 1.0, "steps": 15, "warmup": 0}, adapt="full") == 0


def _by_heart(bench: Bench, _: pytest.MonkeyPatch) -> None:
    others = [{"prompt": f"count {n}", "completion": "ba" * (5 - n % 4)} for n in range(20, 26)]
    held = {"data": _write(bench, "others.jsonl", others), "every": 5, "keep_best": False}
    assert bench.here("train", train={**STEADY, "steps": 40}, validate=held, adapt="full") == 0


def _cut(bench: Bench, _: pytest.MonkeyPatch) -> None:
    asked = [{"prompt": f"new {n}", "completion": "abababababababab"} for n in range(8)]
    task = {"data": _write(bench, "asked.jsonl", asked), "max_new_tokens": 3}
    assert bench.here("train", train={**STEADY, "steps": 12}, evaluate=task) == 0


def _circles(bench: Bench, _: pytest.MonkeyPatch) -> None:
    rows = [{"prompt": f"tell {n}", "completion": "round and " * 10} for n in range(12)]
    asked = [{"prompt": f"new {n}", "completion": f"{n} things"} for n in range(8)]
    task = {"data": _write(bench, "asked.jsonl", asked), "max_new_tokens": 60}
    data = _write(bench, "round.jsonl", rows)
    assert bench.here("train", train={**STEADY, "steps": 30, "lr": 3e-2}, data=data, evaluate=task) == 0


def _both_fall(bench: Bench, _: pytest.MonkeyPatch) -> None:
    better = [{"prompt": pair["prompt"], "completion": pair["chosen"]} for pair in PAIRS]
    known = {"data": _write(bench, "better.jsonl", better), "adapt": "full", "output": "known"}
    assert bench.here("train", train={**STEADY, "steps": 60}, **known) == 0
    model, data = {"name": "known", "dtype": "fp32"}, _write(bench, "pairs.jsonl", PAIRS)
    train = {**STEADY, "steps": 40, "lr": 3e-3}
    assert bench.here("train", train=train, data=data, objective="dpo", adapt="full", model=model) == 0


def _silent(bench: Bench, _: pytest.MonkeyPatch) -> None:
    keys: dict[str, Any] = {"rollout": {"n": 4, "max_new_tokens": 4}, "reward": [{"contains": {}}]}
    data = _write(bench, "asked.jsonl", [{**row, "answer": "no such word"} for row in ASKED])
    train = {**STEADY, "batch": 2, "steps": 12}
    assert bench.here("train", train=train, data=data, objective="grpo", **keys) == 1


def _leak(bench: Bench, _: pytest.MonkeyPatch) -> None:
    text = "how many of the grey pigeons on the old town's roofs fly south before the first snow of year"
    rows = [{"prompt": f"{text} {n}", "completion": "ab" * (n % 4 + 1)} for n in range(12)]
    data = _write(bench, "known.jsonl", rows)
    assert (
        bench.here(
            "train", train={**STEADY, "steps": 12}, data=data, evaluate={"data": data, "limit": 8, "max_overlap": 1}
        )
        == 0
    )


def _template(bench: Bench, _: pytest.MonkeyPatch) -> None:
    assert bench.here("train", train={**STEADY, "steps": 12}, export="merged") == 0
    template = bench.run / "merged" / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|im_end|>\n", "<|im_end|>"))


def _forgets(bench: Bench, _: pytest.MonkeyPatch) -> None:
    asked = [{"prompt": f"{n}: the quick", "completion": "brown fox jumps over the lazy dog"} for n in range(12)]
    task = {"data": _write(bench, "general.jsonl", asked), "scorers": ["perplexity"]}
    assert bench.here("train", train={**STEADY, "steps": 25, "lr": 5e-2}, evaluate=task) == 0


def _killed(bench: Bench, _: pytest.MonkeyPatch) -> None:
    bench.killed("train", "train.steps=400", "train.save_every=1", train=STEADY)


BROKEN: dict[str, tuple[Broken, str]] = {
    "memory": (_memory, "memory"),
    "no number": (_no_number, "diverged"),
    "flat": (_flat, "flat"),
    "rate": (_rate, "rate"),
    "by heart": (_by_heart, "reciting"),
    "cut": (_cut, "cut"),
    "circles": (_circles, "repetition"),
    "both fall": (_both_fall, "falling"),
    "silent": (_silent, "silent"),
    "leak": (_leak, "leak"),
    "template": (_template, "template"),
    "forgets": (_forgets, "forgetting"),
    "killed": (_killed, "unfinished"),
}


def found(bench: Bench) -> list[Finding]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(bench.folder)
        return verbs.diagnose(bench.run)


@pytest.mark.parametrize("how", BROKEN)
def test_what_broke_a_run_is_told_first(bench: Bench, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    broken, name = BROKEN[how]
    with monkeypatch.context() as patch:
        broken(bench, patch)
    told = found(bench)
    assert [finding.name for finding in told][:1] == [name], [(one.name, one.weight, one.evidence) for one in told]
    first = told[0]
    assert first.evidence and (first.changes or first.advice)
    for change in first.changes:  # each can be pasted as it is
        assert bench.inside(main, "explain", "run/recipe.lock.yaml", *change.split()) == 0, change


def test_a_sound_run_has_nothing_grave(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": f"count {n}", "completion": "ab" * (n % 4 + 1)} for n in range(120)]
    train = {**STEADY, "steps": 15}
    assert bench.here("train", train=train, data=_write(bench, "more.jsonl", rows)) == 0
    assert found(bench) == []
    assert "checks have found nothing wrong" in capfd.readouterr().out


def test_a_folder_that_is_no_run_or_has_not_begun(bench: Bench, tmp_path: Path) -> None:
    assert bench.inside(main, "diagnose", "rows.jsonl") == 1
    assert bench.inside(main, "diagnose", "nowhere") == 1


def test_a_fault_is_an_event_and_goes_when_the_run_goes_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        _memory(bench, patch)
    assert next(finding.name for finding in found(bench)) == "memory"
    assert bench.here("train", train=STEADY) == 0
    assert "memory" not in [finding.name for finding in found(bench)]


def test_a_low_loss_is_no_fault_where_held_out_rows_are_answered_better(bench: Bench) -> None:
    asked = [{"prompt": f"count {n}", "completion": "ab" * (n % 4 + 1)} for n in range(12, 24)]
    task = {"data": _write(bench, "asked.jsonl", asked), "scorers": ["perplexity"]}
    assert bench.here("train", train={**STEADY, "steps": 60}, adapt="full", evaluate=task) == 0
    told = {finding.name: finding for finding in found(bench)}
    assert told["reciting"].weight < 0.2 and any("perplexity" in line for line in told["reciting"].evidence)


def test_what_repeats_itself() -> None:
    assert repeats("one two three four five six seven eight nine ten") == 0
    assert repeats("and so on " * 20) > 0.9
    assert repeats("好的" * 20) > 0.9
    assert repeats("short") == 0
