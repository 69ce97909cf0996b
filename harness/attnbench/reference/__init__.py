"""What results are judged by: the float64 answer, and how wrong the textbook is in the case's dtype."""

from __future__ import annotations

from attnbench.reference.answer import Answer, rounding, smallest_step
from attnbench.reference.exact import grad_out_on
from attnbench.reference.operations import REFERENCES, YARDSTICKS, answer, textbook_answers, yardstick
from attnbench.reference.rows import few_rows, sampled_rows

__all__ = [
    "REFERENCES",
    "YARDSTICKS",
    "Answer",
    "answer",
    "few_rows",
    "grad_out_on",
    "rounding",
    "sampled_rows",
    "smallest_step",
    "textbook_answers",
    "yardstick",
]
