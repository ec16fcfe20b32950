"""Benchmarks of a run by the command line: scored beside one another, shown, and not asked twice."""

from __future__ import annotations

import json

import pytest
from bench import Bench

from luthier.cli import main
from luthier.engines.local import LocalEngine
from luthier.run import Run


def lines(bench: Bench, name: str, rows: list[object]) -> str:
    path = bench.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def two_subjects(bench: Bench) -> str:
    """Two subjects, one of them with few questions."""
    for subject, count in (("philosophy", 12), ("anatomy", 4)):
        for split, rows in (("test", count), ("dev", 2)):
            path = bench.folder / "mmlu" / split / f"{subject}_{split}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"count {n},{n},two,three,four,{'ABCD'[n % 4]}\n" for n in range(rows)))
    return str(bench.folder / "mmlu")


def test_benchmarks_are_scored_shown_and_kept(
    bench: Bench, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    piqa = lines(bench, "dev.jsonl", [{"goal": f"{n}", "sol1": "a", "sol2": "bb", "label": n % 2} for n in range(6)])
    text = bench.folder / "text.txt"
    text.write_text("count to three and back again. " * 4)
    evaluate = [
        {"mmlu": {"path": two_subjects(bench), "shots": 1}},
        {"piqa": piqa, "base": False},
        {"perplexity": {"path": str(text), "window": 32}},
        {"gsm8k": {"path": lines(bench, "test.jsonl", [{"question": "1?", "answer": "#### 1"}] * 2), "shots": 0,
                   "max_new_tokens": 4}},
    ]  # fmt: skip
    assert bench.here("train", evaluate=evaluate) == 0
    out, err = capfd.readouterr()
    for shown in ("MMLU (version 1), 1 shot, plain text", "mmlu: acc by subject", "bits per byte", "gsm8k"):
        assert shown in out, err
    run = Run(bench.run)
    scores = run.read_json(run.summary_path)["scores"]
    assert set(scores) == {"mmlu", "piqa", "perplexity", "gsm8k"} and set(scores["piqa"]["systems"]) == {"tuned"}
    parts = {part["name"]: part["rows"] for part in scores["mmlu"]["parts"]}
    assert parts == {"philosophy": 12, "anatomy": 4, "humanities": 12, "stem": 4}
    assert "acc by subject" in (bench.run / "report.html").read_text()

    asked: list[int] = []
    ask = LocalEngine.logprobs
    monkeypatch.setattr(LocalEngine, "logprobs", lambda *given, **keys: asked.append(1) or ask(*given, **keys))
    assert bench.inside(main, "evaluate", str(bench.run)) == 0
    assert asked == [] and "16 of 16 answers were kept from before" in capfd.readouterr().out
    assert run.read_json(run.summary_path)["scores"]["mmlu"]["scores"] == scores["mmlu"]["scores"]
    assert bench.inside(main, "evaluate", str(bench.run), "--again") == 0
    assert asked and "kept from before" not in capfd.readouterr().out

    before = run.summary_path.read_bytes()
    assert bench.inside(main, "evaluate", str(bench.run), "--show", "2") == 0
    out = capfd.readouterr().out
    assert "(with answers) about philosophy.\n\ncount 0\nA. 0\nB. two\nC. three\nD. four\nAnswer: A\n\n" in out
    assert out.count("✓ ⟦ ") == 4 and "judged⟧" not in out and "Question: 1?\nAnswer:\n⟦expected⟧ #### 1" in out
    assert run.summary_path.read_bytes() == before, "nothing was scored"


def test_a_benchmark_that_cannot_be_read_is_told_before_training(
    bench: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    assert bench.here("train", evaluate=[{"mmlu": {"path": str(bench.folder)}}]) == 1
    assert "MMLU: no file of the split 'test'" in capfd.readouterr().err
    assert not (bench.run / "adapter").exists()
