from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from attnbench import files
from attnbench.errors import RunError


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    files.replace_file(file, b"first")
    files.replace_file(file, b"second")
    assert file.read_bytes() == b"second"

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(RunError, match="what was there is unchanged"):
        files.replace_file(file, b"third")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"second")]
