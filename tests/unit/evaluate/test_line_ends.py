"""Texts with line ends that are not "\\n" stay one text: in samples, in the report and on screen."""

import io

import pytest
from rich.console import Console

from luthier.evaluate.comparison import Answer, Comparison, Sample, Score, record
from luthier.evaluate.intervals import Estimate
from luthier.evaluate.report import write_report
from luthier.run import Run
from luthier.types import Example, Turn

ENDS = ["\x0b", "\x0c", "\r", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]
TEXT = "begin" + "x".join(ENDS) + "end"


def comparison(task: str) -> Comparison:
    score = Score(
        "f1", True, (0.0, 1.0), 1, 0, 1, {"base": Estimate(0.5), "tuned": Estimate(1.0)}, {"tuned": Estimate(0.5)}
    )
    answers = {name: Answer(TEXT, "stop", {"f1": 1.0}) for name in ("base", "tuned")}
    sample = Sample(Example((Turn("user", TEXT),)), TEXT, answers)
    return Comparison(task, ("base", "tuned"), (score,), (sample,), {"base": 0.0, "tuned": 0.0}, {})


def test_samples_are_read_back_whole_and_those_of_other_tasks_kept(tmp_path):
    run = Run(tmp_path)
    for task in ("one", "two", "one"):
        record(run, comparison(task))
    found = list(run.samples())
    assert [sample["task"] for sample in found] == ["two", "one"]
    assert all(sample["expected"] == sample["prompt"][0]["text"] == TEXT for sample in found)
    assert len(run.samples_path.read_text(encoding="utf-8").splitlines()) == 2


def test_the_report_holds_the_text_and_the_recipe_as_they_are(tmp_path):
    run = Run(tmp_path)
    run.recipe_path.write_text('model: "a\u2028b: c"\nseed: 0\n', encoding="utf-8")
    record(run, comparison("one"))
    page = write_report(run).read_text(encoding="utf-8")
    assert page.count("begin") >= 4 and "a\u2028b: c" in page


@pytest.mark.parametrize("end", ENDS, ids=[f"U+{ord(end):04X}" for end in ENDS])
def test_a_table_on_screen_is_not_broken(end):
    screen = io.StringIO()
    sample = Sample(Example((Turn("user", f"a{end}b"),)), "c", {})
    console = Console(file=screen, width=80)
    console.print(Comparison("one", (), (comparison("one").scores[0],), (sample,), {}, {}).sample_table())
    assert "a↵b" in screen.getvalue() and len(screen.getvalue().splitlines()) == screen.getvalue().count("\n")
