"""A report's folder: written aside, then swapped in, so that a failure never costs an older report."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnbench.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from attnbench.pairs import Pairs
    from attnbench.plots import Plot

__all__ = ["REPORT", "Kind", "replaced", "require_writable", "write", "write_figures"]

_MARK_WITHIN_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of folder with a page in it.

    `generator` is the mark by which the page is known to be ours; `entries` is what the folder consists of:
    anything else in it belongs to somebody else and is kept.
    """

    name: str
    generator: str
    entries: tuple[str, ...]


REPORT = Kind(
    "report", "attnbench report", ("index.html", "summary.md", "figures", "table.csv", "table.parquet")
)


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
    return replaced(out, REPORT, lambda aside: _fill(aside, frame, headers, pairs))


def replaced(out: Path, kind: Kind, fill: Callable[[Path], None]) -> Path:
    """Let `fill` write a folder aside, put it in the place of `out` and return its index.html.

    Raises:
        UsageError: `out` is something else than a folder of this kind or an empty one, or cannot be written.
    """
    out, aside = _aside(out, kind)
    try:
        fill(aside)
        _swap(aside, out, kind)
    except OSError as error:
        raise _unwritable(out, kind, error) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return out / "index.html"


def require_writable(out: Path, kind: Kind = REPORT) -> None:
    """Check that a report can be written into the folder `out`, before much is done for it.

    Raises:
        UsageError: `out` is something else than a report or an empty folder, or cannot be written.
    """
    _, aside = _aside(out, kind)
    aside.rmdir()


def write_figures(folder: Path, drawings: Iterable[tuple[Plot, str]]) -> None:
    """Write figures, each given with its SVG document, as SVG and PNG into `folder`, which is made.

    Raises:
        OSError: they cannot be written.
    """
    from attnbench.plots import png

    folder.mkdir()
    for plot, document in drawings:
        (folder / f"{plot.id}.svg").write_text(document, encoding="utf-8")
        (folder / f"{plot.id}.png").write_bytes(png(plot))


def _aside(out: Path, kind: Kind) -> tuple[Path, Path]:
    """The folder that `out` means, and a new empty one beside it."""
    out = Path(os.path.abspath(out))  # the folder may be a link: what is replaced is what it points to
    out = out.resolve() if out.is_symlink() else out
    _require_replaceable(out, kind)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        aside = tempfile.mkdtemp(prefix=f".{out.name}-", suffix=".new", dir=out.parent)
    except OSError as error:
        raise _unwritable(out, kind, error) from error
    return out, Path(aside)


def _unwritable(out: Path, kind: Kind, error: OSError) -> UsageError:
    return UsageError(
        f"the {kind.name} cannot be written to {out}: {error.strerror or error}. "
        "Choose another folder with -o, or make room and permission there."
    )


def _require_replaceable(out: Path, kind: Kind) -> None:
    try:
        if not out.exists():
            return
        if not out.is_dir():
            raise UsageError(f"{out} is a file, and a {kind.name} is a folder. Choose another place with -o.")
        if not any(out.iterdir()) or _is_ours(out, kind):
            return
    except OSError as error:
        raise _unwritable(out, kind, error) from error
    raise UsageError(
        f"{out} holds something else than an {kind.generator}, and is not overwritten. "
        "Choose an empty or a new folder with -o."
    )


def _is_ours(folder: Path, kind: Kind) -> bool:
    try:
        with (folder / "index.html").open("rb") as page:
            return f'name="generator" content="{kind.generator}"'.encode() in page.read(_MARK_WITHIN_BYTES)
    except FileNotFoundError:
        return False


def _fill(
    folder: Path, frame: pd.DataFrame, headers: Sequence[Mapping[str, Any]], pairs: Pairs | None
) -> None:
    from attnbench.plots import figures, svg
    from attnbench.report.conditions import conditions
    from attnbench.report.facts import precisions
    from attnbench.report.findings import findings
    from attnbench.report.html import page
    from attnbench.report.markdown import summary

    drawings = [(plot, svg(plot)) for plot in figures(frame)]
    found = [*conditions(headers), *findings(frame, precisions(headers), pairs)]
    write_figures(folder / "figures", drawings)
    (folder / "summary.md").write_text(summary(frame, headers, found), encoding="utf-8")
    frame.to_csv(folder / "table.csv", index=False, lineterminator="\n")
    frame.to_parquet(folder / "table.parquet", index=False, engine="pyarrow", compression="zstd")
    (folder / "index.html").write_text(page(frame, headers, drawings, found), encoding="utf-8")


def _swap(aside: Path, out: Path, kind: Kind) -> None:
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
        if entry.name not in kind.entries:
            entry.rename(out / entry.name)
    shutil.rmtree(old)
