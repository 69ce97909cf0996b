"""A bar on a terminal while something lasts; gone at the end, when the answer is printed.

It is drawn when it is told to and at no other time: what redraws itself takes a core from what is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, ConsoleRenderable

__all__ = ["TransientBar"]

#: Columns of the bar itself.
NARROWEST, WIDEST = 10, 40


class TransientBar:
    """A bar with a text beside it, and whatever stands above and below."""

    def __init__(self, console: Console) -> None:
        from rich.live import Live

        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def start(self) -> None:
        """Take a place on the terminal."""
        self._live.start()

    def stop(self) -> None:
        """Give it back."""
        self._live.stop()

    def draw(
        self,
        done: float,
        total: float,
        text: str,
        *,
        above: Sequence[ConsoleRenderable] = (),
        below: str | None = None,
    ) -> None:
        """Show `done` of `total` with `text` beside it, and `below` in a dim line; no bar of nothing."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        parts = list(above)
        if total > 0:
            bar = Table.grid(padding=(0, 1))
            width = max(NARROWEST, min(WIDEST, self._console.width - 50))
            bar.add_row(ProgressBar(total=total, completed=done, width=width), Text(text))
            parts.append(bar)
        if below is not None:
            parts.append(Text(below, style="dim", no_wrap=True, overflow="ellipsis"))
        self._live.update(Group(*parts), refresh=True)
