"""What is drawn smoothed is called smoothed."""

from luthier.evaluate import report
from luthier.evaluate.curves import read_curves, smoothed
from luthier.run import Run


def test_a_curve_that_is_smoothed_says_so(tmp_path):
    run = Run(tmp_path)
    for step in range(1, 5):
        noise = 0.5 * (-1) ** step
        judged = {f"{what}_{side}": step + noise for what in ("reward", "logp") for side in ("better", "worse")}
        run.event("step", step=step, loss=step + noise, accuracy=0.5 + noise, kl=1.0 + noise, lr=1e-3, **judged)
    curves = read_curves(run)
    as_read = {*curves.steps.values(), curves.evaluation}
    for chart in report._charts(run):
        for line in chart["lines"]:
            assert (line.points in as_read) != ("smoothed" in line.name), (chart["title"], line.name)
    named = {chart["title"]: [line.name for line in chart["lines"]] for chart in report._charts(run)}
    assert named["Rewards"] == named["Log-probability of responses"] == ["better, smoothed", "worse, smoothed"]
    assert smoothed(curves.loss) not in as_read
