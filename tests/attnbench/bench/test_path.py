from __future__ import annotations

import sys
from pathlib import Path

import pytest

from attnbench.bench.path import put_instead


def test_folders_take_the_places_of_others_links_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "new")
    folders = ["/first", str(tmp_path / "new"), "", str(tmp_path / "link"), "/last"]
    monkeypatch.setattr(sys, "path", list(folders))
    put_instead([])
    assert sys.path == folders
    put_instead([(str(tmp_path / "new"), "/old"), (str(Path.cwd()), "/elsewhere"), ("/absent", "/unused")])
    assert sys.path == ["/first", "/old", "", "/old", "/last"]
