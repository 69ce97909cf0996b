"""A report's folder: written aside, then swapped in, so that a failure never costs an older report."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnbench.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from attnbench.pairs import Pairs

__all__ = ["require_writable", "write"]

#: What a report consists of; anything else in its folder belongs to somebody else and is kept.
_OURS = ("index.html", "summary.md", "figures", "table.csv", "table.parquet")
_MARK_WITHIN_BYTES = 4096


def write(
    frame: pd.DataFrame, headers: Sequence[Mapping[str, Any]], out: Path, pairs: Pairs | None = None
) -> Path:
    """Write the report of a table into the folder `out` and return its index.html.

    `frame` has the columns of docs/columns.md, of one run or several; `headers` are the runs' run.json, in
    the order in which they appear; `pairs` are the samples behind the table (`Pairs.of`), without which
    fewer cases are told apart. The folder holds index.html, summary.md, figures/ (SVG and PNG), table.csv
    and table.parquet. The same input gives the same bytes. An older report is replaced as a whole; other
    files beside it stay.

    Raises:
        UsageError: `out` is something else than a report or an empty folder, or cannot be written.
    """
    out, aside = _aside(out)
    try:
        _fill(aside, frame, headers, pairs)
        _swap(aside, out)
    except OSError as error:
        raise _unwritable(out, error) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return out / "index.html"


def require_writable(out: Path) -> None:
    """Check that a report can be written into the folder `out`, before much is done for it.

    Raises:
        UsageError: `out` is something else than a report or an empty folder, or cannot be written.
    """
    _, aside = _aside(out)
    aside.rmdir()


def _aside(out: Path) -> tuple[Path, Path]:
    """The folder that `out` means, and a new empty one beside it."""
    out = Path(os.path.abspath(out))  # the folder may be a link: what is replaced is what it points to
    out = out.resolve() if out.is_symlink() else out
    _require_replaceable(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        aside = tempfile.mkdtemp(prefix=f".{out.name}-", suffix=".new", dir=out.parent)
    except OSError as error:
        raise _unwritable(out, error) from error
    return out, Path(aside)


def _unwritable(out: Path, error: OSError) -> UsageError:
    return UsageError(
        f"the report cannot be written to {out}: {error.strerror or error}. "
        "Choose another folder with -o, or make room and permission there."
    )


def _require_replaceable(out: Path) -> None:
    try:
        if not out.exists():
            return
        if not out.is_dir():
            raise UsageError(f"{out} is a file, and a report is a folder. Choose another place with -o.")
        if not any(out.iterdir()) or _is_report(out):
            return
    except OSError as error:
        raise _unwritable(out, error) from error
    raise UsageError(
        f"{out} holds something else than an attnbench report, and is not overwritten. "
        "Choose an empty or a new folder with -o."
    )


def _is_report(folder: Path) -> bool:
    from attnbench.report.html import GENERATOR

    try:
        with (folder / "index.html").open("rb") as page:
            return f'name="generator" content="{GENERATOR}"'.encode() in page.read(_MARK_WITHIN_BYTES)
    except FileNotFoundError:
        return False


def _fill(
    folder: Path, frame: pd.DataFrame, headers: Sequence[Mapping[str, Any]], pairs: Pairs | None
) -> None:
    from attnbench.plots import figures, png, svg
    from attnbench.report.conditions import conditions
    from attnbench.report.facts import precisions
    from attnbench.report.findings import findings
    from attnbench.report.html import page
    from attnbench.report.markdown import summary

    drawings = [(plot, svg(plot)) for plot in figures(frame)]
    found = [*conditions(headers), *findings(frame, precisions(headers), pairs)]
    (folder / "figures").mkdir()
    for plot, document in drawings:
        (folder / "figures" / f"{plot.id}.svg").write_text(document, encoding="utf-8")
        (folder / "figures" / f"{plot.id}.png").write_bytes(png(plot))
    (folder / "summary.md").write_text(summary(frame, headers, found), encoding="utf-8")
    frame.to_csv(folder / "table.csv", index=False, lineterminator="\n")
    frame.to_parquet(folder / "table.parquet", index=False, engine="pyarrow", compression="zstd")
    (folder / "index.html").write_text(page(frame, headers, drawings, found), encoding="utf-8")


def _swap(aside: Path, out: Path) -> None:
    """Put `aside` in the place of `out`; on failure `out` is as it was."""
    umask = os.umask(0)
    os.umask(umask)
    aside.chmod(0o777 & ~umask)  # a temporary folder is for its owner alone
    if not out.exists():
        aside.rename(out)
        return
    old = aside.with_suffix(".old")
    out.rename(old)
    try:
        aside.rename(out)
    except OSError:
        old.rename(out)
        raise
    for entry in old.iterdir():
        if entry.name not in _OURS:
            entry.rename(out / entry.name)
    shutil.rmtree(old)
