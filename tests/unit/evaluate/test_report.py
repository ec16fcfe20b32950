"""The report of a run, whole, in parts and empty; the curves behind it."""

import json
import math
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from luthier.evaluate import curve_text, environment, record_environment, write_plot, write_report
from luthier.evaluate.charts import tick
from luthier.evaluate.curves import read_curves, smoothed, thinned, ticks
from luthier.run import Run

EVIL = "</div><script>alert(1)</script> & \"quoted\" '单引号' <b>"


class Page(HTMLParser):
    """Collects what a browser would make of the page."""

    VOID = frozenset({"meta", "input", "br", "line", "circle", "polyline"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))


def page(run: Run) -> Page:
    return Page(write_report(run).read_text(encoding="utf-8"))


def steps(run: Run, losses: list[float], start: int = 1) -> None:
    for step, loss in enumerate(losses, start=start):
        run.event("step", step=step, epoch=step / 10, loss=loss, lr=2e-4, grad_norm=1.0, tokens_per_s=900.0)


def full(folder: Path, rows: int = 3) -> Run:
    run = Run(folder)
    run.recipe_path.write_text(f"model:\n  name: tiny # a {EVIL}\nseed: 0\n", encoding="utf-8")
    run.event("start")
    steps(run, [3.0, 2.5, 2.0, 1.5])
    run.event("evaluation", step=4, loss=1.75)
    run.event("warning", message=f"careful {EVIL}", step=4)
    run.event("checkpoint", step=4)
    run.event("end", step=4)
    dropped = {"too long": {"count": 12, "rows": [f"{EVIL}:{row}" for row in range(12)], "fix": None}}
    sources = {"my_file.jsonl": {"read": 20, "kept": 8}, EVIL: {"read": 0, "kept": 0}}
    ledger = {"tokens": {"total": 99}, "sources": sources, "dropped": dropped, "validation": None}
    run.write_json(run.ledger_path, ledger)
    estimate = {"value": 0.25, "low": 0.1, "high": 0.4}
    score = {
        "scorer": "json_match",
        "higher_is_better": True,
        "range": [0, 1],
        "rows": rows,
        "unscored": 1,
        "systems": {"base": estimate, "tuned": {"value": 0.9, "low": 0.8, "high": None}},
        "difference": {"tuned": {"value": 0.65, "low": 0.5, "high": 0.8}},
    }
    comparison = {"task": EVIL, "rows": rows, "systems": ["base", "tuned"], "cut": {"base": 2}, "scores": [score]}
    run.write_json(run.summary_path, {"seconds": 75.0, "peak_memory": 3 * 2**30, "scores": {EVIL: comparison}})
    with run.samples_path.open("w", encoding="utf-8") as file:
        for row in range(rows):
            answer = {"text": EVIL, "finish": "length", "scores": {"json_match": 0.0}}
            sample = {
                "task": EVIL,
                "row": row,
                "source": f"{EVIL}:{row}",
                "prompt": [{"role": "system", "text": EVIL}, {"role": "user", "text": f"问题 {row} {EVIL}"}],
                "expected": EVIL,
                "systems": {"base": answer, "tuned": {**answer, "scores": {"json_match": float(row % 2)}}},
            }
            file.write(json.dumps(sample, ensure_ascii=False) + "\n")
    return run


def test_a_whole_report_says_all_that_the_run_knows(tmp_path):
    run = full(tmp_path)
    record_environment(run)
    seen = page(run)
    for expected in (
        "0.250 → 0.900",
        "+0.650",
        "json_match",
        "问题 2",
        "too long",
        "1 min 15 s",
        "3.00 GiB",
        "torch",
        "my_file.jsonl",
        "and 2 more",
    ):
        assert expected in seen.text, expected
    assert "better 1" in seen.text and "same 2" in seen.text and "worse 0" in seen.text
    assert "2 of 3 answers were cut off" in seen.text and "1 of 4 rows could not be judged" in seen.text
    assert "1 checkpoint was written" in seen.text
    assert seen.tags.count("svg") >= 4
    assert "No " not in seen.text  # nothing is missing


def test_an_event_tells_no_list_of_nothing(tmp_path):
    run = full(tmp_path)
    run.event("start", reference="the base", first_loss_differs=[])
    run.event("start", reference="the base", first_loss_differs=["NEFTune adds noise"])
    seen = page(run).text
    assert "[]" not in seen and seen.count("first loss differs") == 1 and "NEFTune adds noise" in seen


def test_everything_is_escaped_and_nothing_is_loaded(tmp_path):
    seen = page(full(tmp_path))
    assert "script" not in seen.tags and seen.tags.count("b") == len(re.findall("<b[ >]", run_html(tmp_path)))
    assert EVIL in "".join(seen.words)
    assert not [
        value for name, value in seen.attributes if name in ("src", "srcset", "href") and not value.startswith("#")
    ]
    assert "@import" not in run_html(tmp_path) and "url(" not in run_html(tmp_path)


def run_html(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def test_an_empty_run_says_what_is_missing(tmp_path):
    seen = page(Run(tmp_path))
    for part in ("summary", "scores", "curves", "ledger", "samples", "recipe", "events"):
        assert f"No {part}" in seen.text, part
    assert "environment was not recorded" in seen.text
    assert not (tmp_path / "loss.png").exists()


@pytest.mark.parametrize("part", ["recipe_path", "events_path", "ledger_path", "summary_path", "samples_path"])
def test_any_part_may_be_missing(tmp_path, part):
    run = full(tmp_path)
    getattr(run, part).unlink()
    assert "No " in page(run).text


def test_many_and_long_samples(tmp_path):
    run = full(tmp_path, rows=200)
    lines = run.samples_path.read_text(encoding="utf-8").replace("问题", "长" * 20_000)
    run.samples_path.write_text(lines, encoding="utf-8")
    seen = page(run)
    assert "20 of 200 samples" in seen.text and seen.tags.count("article") == 20
    assert "more characters" in seen.text
    assert len(run_html(tmp_path)) < 1_000_000


def test_without_matplotlib_the_report_stands(tmp_path, monkeypatch, caplog):
    run = full(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # what an absent package looks like to the import system
    caplog.set_level("INFO")
    assert page(run).tags.count("svg") >= 4
    assert not (tmp_path / "loss.png").exists()
    assert "matplotlib is not installed" in caplog.text


def test_loss_png_is_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    assert write_plot(full(tmp_path)).read_bytes().startswith(b"\x89PNG")


def test_curves_of_a_resumed_run_with_a_bad_step(tmp_path):
    run = Run(tmp_path)
    steps(run, [3.0, 2.0, 9.0])
    steps(run, [1.5, math.nan], start=3)  # step 3 was taken again
    curves = read_curves(run)
    assert curves.loss == ((1, 3.0), (2, 2.0), (3, 1.5)) and curves.not_finite == 1
    assert "1 values were not finite" in page(run).text


def test_smoothing_and_thinning():
    flat = tuple((step, 2.0) for step in range(50))
    assert [y for _, y in smoothed(flat)] == pytest.approx([2.0] * 50)
    straight = tuple((step, float(step)) for step in range(100))
    assert [y for _, y in smoothed(straight)][10:90] == pytest.approx(list(range(10, 90)))  # not late
    assert smoothed(()) == () and smoothed(((1, 5.0),)) == ((1, 5.0),)
    thin = thinned(straight, 10)
    assert len(thin) <= 10 and thin[-1] == (99, 99.0) and all(x == y for x, y in thin)
    assert thinned(straight, 100) == straight


def test_ticks_are_round_and_inside():
    assert ticks(0.0, 1.0) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(1, 120) == pytest.approx([25, 50, 75, 100])
    assert ticks(3.0, 3.0) == [3.0]
    assert [tick(value) for value in (0, 2e-4, 0.25, 1250, 3.2e6)] == ["0", "2e-4", "0.25", "1,250", "3.2M"]


def test_what_was_paid_is_the_main_curve_whoever_paid(tmp_path):
    run = Run(tmp_path)
    steps(run, [0.0, 0.0, 0.0])
    for step in (1, 2, 3):  # of scorers that call nothing right, too
        run.event("rollout", step=step, reward=0.1 * step, length=3.0, cut=0.0, entropy=1.0)
    name, text = curve_text(run)
    assert name == "Reward" and text.splitlines()[0].startswith("0.2"), "smoothed a little"
    assert write_plot(run) == run.folder / "reward.png" and not (run.folder / "loss.png").exists()
    other = Run(tmp_path / "other")
    other.folder.mkdir()
    steps(other, [3.0, 2.0])
    other.event("rollout", step=2, reward=0.5, length=3.0, cut=0.0, entropy=1.0)
    assert curve_text(other)[0] == "Loss"


def test_loss_curve_for_the_terminal(tmp_path):
    run = Run(tmp_path)
    assert "fewer than two steps" in curve_text(run)[1]
    steps(run, [3.0 - 0.02 * step for step in range(100)])
    name, text = curve_text(run, width=40, height=8)
    assert name == "Loss"
    lines = text.splitlines()
    assert len(lines) == 10 and "2.9" in lines[0] and "1.0" in lines[7] and lines[-1].endswith("100")
    plot = [line.split("┤")[1] for line in lines[:8]]
    assert all(len(line) == 40 for line in plot)
    dots = [[index for index, char in enumerate(line) if char != "\u2800"] for line in plot]
    assert all(dots) and dots[0][0] == 0 and dots[-1][-1] == 39  # falls from the upper left to the lower right
    assert [row[0] for row in dots] == sorted(row[0] for row in dots)


def test_the_training_loop_knows_something_of_the_environment(tmp_path):
    run = Run(tmp_path)
    run.event("start", device="cpu", steps=3, versions={"torch": "9.9.9"})
    seen = page(run)
    assert "9.9.9" in seen.text and "environment was not recorded" not in seen.text


def test_environment_names_what_it_ran_on(tmp_path):
    seen = environment(tmp_path)
    assert seen["packages"]["torch"] and seen["memory_bytes"] > 2**20 and seen["cores"]["usable"] >= 1
    assert seen["project"] is None  # no repository there
    assert json.loads(json.dumps(seen)) == seen
