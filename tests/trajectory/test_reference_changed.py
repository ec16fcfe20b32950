"""A second model that a run compares with is the same model when the run goes on and when it is scored."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from bench import Bench


def test_a_reference_that_changed_in_place_is_noticed(
    bench: Bench, another_model: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = [{"prompt": f"count {n}", "chosen": "ab" * (n % 3 + 1), "rejected": "ba"} for n in range(8)]
    (bench.folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    bench.content |= {
        "reference": {"model": {"name": str(another_model("reference", seed=1)), "dtype": "fp32"}},
        "objective": "dpo",
        "evaluate": {"data": "rows.jsonl", "scorers": ["preference_accuracy"], "max_overlap": 1},
    }
    bench.content["train"] |= {"steps": 2}
    assert bench.here("train") == 0
    another_model("reference", seed=2)
    capsys.readouterr()
    from luthier.cli import main

    assert bench.inside(main, "evaluate", "run") == 1
    assert "is not the one that was trained with" in capsys.readouterr().err
    (bench.run / "adapter").rename(bench.folder / "gone")  # as if it had been stopped before its end
    assert bench.here("train") == 1
    assert "is not the one that was trained with" in capsys.readouterr().err
