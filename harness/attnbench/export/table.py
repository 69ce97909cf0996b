"""The table in other tools' formats."""

from __future__ import annotations

import json
import math
import os
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnbench.errors import UsageError
from attnbench.files import replace_file

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FORMATS", "export", "require_free", "rows_of", "write"]

FORMATS = ("csv", "parquet", "json")


def export(
    frame: pd.DataFrame, file_format: str, path: Path | None = None, *, overwrite: bool = False
) -> bytes:
    """`frame` as the bytes of a file, written to `path` when one is given. Equal frames give equal bytes.

    `csv`: UTF-8, a header line, what is null is empty. `json`: a list of rows, what is null is `null` and
    never NaN. `parquet`: the columns' types kept.

    Raises:
        UsageError: an unknown format, or a `path` that exists (unless `overwrite`) or is a folder.
        RunError: `path` cannot be written; what was there is unchanged.
    """
    if file_format not in FORMATS:
        raise UsageError(f"format: expected one of {', '.join(FORMATS)}, got {file_format!r}")
    if path is not None:
        require_free(Path(path), overwrite=overwrite)
    if file_format == "csv":
        data = frame.to_csv(index=False, lineterminator="\n").encode()
    elif file_format == "json":
        data = _json(frame)
    else:
        buffer = BytesIO()
        frame.to_parquet(buffer, index=False)
        data = buffer.getvalue()
    if path is not None:
        replace_file(Path(path), data)
    return data


def write(path: Path, data: bytes, *, overwrite: bool = False) -> None:
    """Write `data` to `path`, whole or not at all.

    Raises:
        UsageError: it exists (unless `overwrite`), or is a folder.
        RunError: it cannot be written; what was there is unchanged.
    """
    require_free(path, overwrite=overwrite)
    replace_file(path, data)


def require_free(path: Path, *, overwrite: bool) -> None:
    """Check that `path` can be written, before much is done for it.

    Raises:
        UsageError: it exists (unless `overwrite`), is a folder, or would stand in a folder there is not.
    """
    # os.path says no where pathlib raises: what is wrong with a name, writing it tells.
    if os.path.isdir(path):
        raise UsageError(f"{path}: is a folder; name a file in it")
    if os.path.lexists(path) and not overwrite:
        raise UsageError(f"{path}: exists; name another file, or overwrite it with --force")
    if not os.path.isdir(path.parent):
        raise UsageError(f"{path.parent}: there is no such folder; make it first, or name a file elsewhere")


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The table as JSON has it: a mapping a row, None for what is null or has no number there."""
    import pandas as pd

    def plain(value: Any) -> Any:
        if pd.isna(value) or (isinstance(value, float) and math.isinf(value)):
            return None
        return value.item() if hasattr(value, "item") else value

    columns = list(frame.columns)
    return [
        {name: plain(value) for name, value in zip(columns, row, strict=True)}
        for row in frame.itertuples(index=False, name=None)
    ]


def _json(frame: pd.DataFrame) -> bytes:
    return json.dumps(rows_of(frame), indent=2, allow_nan=False, ensure_ascii=False).encode() + b"\n"
