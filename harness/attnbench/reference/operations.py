"""Each operation's reference and yardstick."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from attnbench.inputs import Drawn
from attnbench.reference import exact
from attnbench.reference import yardstick as rounded
from attnbench.reference.answer import Answer
from attnbench.workload import SHAPES

if TYPE_CHECKING:
    import torch

__all__ = ["REFERENCES", "YARDSTICKS", "answer", "textbook_answers", "yardstick"]

Rows = npt.NDArray[np.int64]


def _answer_of_module(drawn: Any, rows: Rows | None) -> Answer:
    from attnbench.reference import modules

    return modules.answer(drawn)


def _yardstick_of_module(drawn: Any, rows: Rows | None) -> dict[str, torch.Tensor]:
    from attnbench.reference import modules

    return modules.yardstick(drawn)


#: The reference of each operation: `(drawn, rows) -> answer`. Of modules all rows are known, whatever `rows`.
REFERENCES: dict[str, Callable[[Any, Rows | None], Answer]] = {
    **dict.fromkeys(SHAPES, _answer_of_module),
    "attention": exact.attention,
}

#: The yardstick of each operation: `(drawn, rows) -> results`, shaped as `Answer.results`.
YARDSTICKS: dict[str, Callable[[Any, Rows | None], dict[str, torch.Tensor]]] = {
    **dict.fromkeys(SHAPES, _yardstick_of_module),
    "attention": rounded.attention,
}


def answer(drawn: Drawn, rows: Rows | None = None) -> Answer:
    """The right answer to what was drawn; of attention on the query rows `rows` (None: `sampled_rows`)."""
    return REFERENCES[drawn.workload.operation](drawn, rows)


def yardstick(drawn: Drawn, rows: Rows | None = None) -> dict[str, torch.Tensor]:
    """What the textbook algorithm makes of what was drawn, in the workload's dtype, on the same rows."""
    return YARDSTICKS[drawn.workload.operation](drawn, rows)


def textbook_answers(drawn: Any) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A module's results as the yardstick has them, and more precisely: in float64, or float32 of halves."""
    from attnbench.reference import modules

    return modules.yardstick(drawn), modules.precise(drawn)
