"""Evaluation: systems compared on tasks with intervals, and the report of a run."""

from luthier.evaluate.charts import write_plot
from luthier.evaluate.compare import check, compare
from luthier.evaluate.comparison import Comparison, record
from luthier.evaluate.curves import curve_text
from luthier.evaluate.environment import environment, record_environment
from luthier.evaluate.report import write_report
from luthier.evaluate.scored import ScoredTask

__all__ = [
    "Comparison",
    "ScoredTask",
    "check",
    "compare",
    "curve_text",
    "environment",
    "record",
    "record_environment",
    "write_plot",
    "write_report",
]
