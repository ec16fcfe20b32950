"""The same steps on a local Ray: the same rows, the same counts. Skipped where Ray is not installed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from curated import ROWS, curated

from luthier.data.curation.lines import body, read
from luthier.errors import LuthierError

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    import ray.data

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield ray
    ray.shutdown()


@pytest.mark.slow
def test_rows_go_through_the_same_steps_as_on_one_machine(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from luthier.data.curation.on_ray import through

    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    kinds = [*ROWS["english"], *ROWS["chinese"], {"prompt": "broken", "completion": ""}, *ROWS["unicode"]]
    rows = [{**row, "prompt": f"{n // 2} {row['prompt']}"} for n, row in enumerate(kinds * 8)]
    steps: list[Any] = [
        {"length": {"min": 30}},
        {"exact": "answer"},
        {"select": {"by": ["words", "length"], "keep": 0.9}},
        {"length": {"max": 66}},
        {"sample": 2},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    here = curated([str(path)], *steps)
    there = through(cluster.data.from_items(rows, override_num_blocks=5), steps, allow_drop=1.0, name=str(path))
    found = [read(row["line"]) for row in there.dataset.take_all()]
    assert [(str(one.source), body(one)) for one in found] == [(str(one.source), body(one)) for one in here.examples()]
    assert len(found) == 2
    for one, other in zip(there.ledger.steps, here.ledger.steps, strict=True):
        assert {**one.to_json(), "seconds": 0, "wall": 0} == {**other.to_json(), "seconds": 0, "wall": 0}
    assert there.ledger.sources == here.ledger.sources
    assert len(there.events) == there.ledger.asked == here.ledger.asked
    with pytest.raises(LuthierError, match=r"drops .* and allow_drop is 10%"):
        through(cluster.data.from_items(rows), steps, allow_drop=0.1)
    with pytest.raises(LuthierError, match="asks for scorer, which Ray's processes lack"):
        through(cluster.data.from_items(rows), [{"select": {"by": "f1", "top": 3}}])
