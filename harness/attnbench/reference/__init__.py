"""What results are judged by: the float64 answer, and how wrong the textbook is in the case's dtype."""

from __future__ import annotations

from attnbench.reference.exact import REFERENCES, Answer, answer, grad_out_on
from attnbench.reference.rows import few_rows, sampled_rows
from attnbench.reference.spread import smallest_step
from attnbench.reference.yardstick import YARDSTICKS, yardstick

__all__ = [
    "REFERENCES",
    "YARDSTICKS",
    "Answer",
    "answer",
    "few_rows",
    "grad_out_on",
    "sampled_rows",
    "smallest_step",
    "yardstick",
]
