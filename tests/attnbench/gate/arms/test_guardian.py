from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from attnbench.errors import MeasuringError
from attnbench.gate.arms.guard import guarded, how_it_ended
from attnbench.gate.arms.guardian import PREFIX, remove

linux = pytest.mark.skipif(sys.platform != "linux", reason="orphans can be adopted on Linux only")

#: Starts a command that starts others: in its own group, and in a session of its own.
FAMILY = "sleep 600 & echo $! >> {pids}; setsid sleep 600 & sleep 0.2; echo $! >> {pids}; {then}"


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def shell(text: str) -> list[str]:
    return ["/bin/sh", "-c", text]


def eventually(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def pids_in(path: Path, count: int) -> list[int]:
    eventually(lambda: path.is_file() and len(path.read_text().split()) == count)
    return [int(word) for word in path.read_text().split()]


def test_a_command_runs_where_and_as_it_is_told_and_its_last_lines_are_kept(temporary: Path) -> None:
    with guarded() as guard:
        assert guard.folder.parent == temporary
        assert guard.folder.name.startswith(PREFIX)
        (guard.folder / "here").mkdir()
        code, said = guard.run(
            shell("seq 100; pwd >&2; echo $WORD; exit 3"),
            cwd=guard.folder / "here",
            environment={"WORD": "hello", "PATH": os.environ["PATH"]},
        )
        assert code == 3
        assert said.splitlines()[-3:] == ["100", str(guard.folder / "here"), "hello"]
        assert len(said.splitlines()) == 20
        assert guard.run(shell("kill -TERM $$"), cwd=guard.folder, environment={}) == (-signal.SIGTERM, "")
        with pytest.raises(MeasuringError, match="nonsense cannot be started"):
            guard.run(["nonsense"], cwd=guard.folder, environment={})
    assert list(temporary.iterdir()) == []


@linux
def test_what_a_command_leaves_running_ends_with_it(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    with guarded() as guard:
        code, _ = guard.run(
            shell(FAMILY.format(pids=pids, then="exit 0")), cwd=tmp_path, environment=dict(os.environ)
        )
        assert code == 0
        assert not any(map(is_running, pids_in(pids, 2)))


def test_what_it_leaves_elsewhere_is_removed_with_the_folder_of_it_if_that_is_empty(tmp_path: Path) -> None:
    alone, beside = tmp_path / "alone" / "left", tmp_path / "beside" / "left"
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "other").touch()
    with guarded() as guard:
        make = f"mkdir -p {alone} {beside}; touch {alone}/file"
        guard.run(shell(make), cwd=tmp_path, environment=dict(os.environ), leaves=[alone, beside])
        assert alone.exists()
        assert beside.exists()
    assert not (tmp_path / "alone").exists()
    assert [path.name for path in (tmp_path / "beside").iterdir()] == ["other"]


def test_folders_without_permissions_are_removed_and_links_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o555)
    folder = tmp_path / "folder"
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "file").touch()
    (folder / "link").symlink_to(elsewhere)
    for name in ("a/b", "a", "."):
        (folder / name).chmod(0o500)
    remove(folder)
    assert not folder.exists()
    assert elsewhere.stat().st_mode & 0o777 == 0o555


PARENT = """
import os, sys
from attnbench.gate.arms.guard import guarded

with guarded() as guard:
    guard.run(["/bin/sh", "-c", sys.argv[1]], cwd=guard.folder, environment=dict(os.environ))
"""


@linux
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_when_the_parent_ends_while_a_command_runs_all_of_it_ends(
    temporary: Path, tmp_path: Path, number: int
) -> None:
    pids = tmp_path / "pids"
    text = FAMILY.format(pids=pids, then=f"echo $$ $PPID >> {pids}; sleep 600")
    parent = subprocess.Popen([sys.executable, "-c", PARENT, text], stderr=subprocess.DEVNULL)
    started = pids_in(pids, 4)
    assert all(map(is_running, started))
    assert len(list(temporary.iterdir())) == 1
    parent.send_signal(number)
    parent.wait(30)
    eventually(lambda: not any(map(is_running, started)) and not list(temporary.iterdir()))


def test_signals_that_reach_the_guardian_do_not_end_it_and_commands_can_be_ended_by_them(
    temporary: Path,
) -> None:
    with guarded() as guard:
        guard.run(
            shell("kill -INT $PPID; kill -HUP $PPID; kill -TERM $PPID"), cwd=guard.folder, environment={}
        )
        ended = guard.run(shell("kill -INT $$; sleep 60"), cwd=guard.folder, environment={})
        assert ended == (-signal.SIGINT, "")
    assert list(temporary.iterdir()) == []


def test_if_somebody_ends_the_guardian_it_is_said() -> None:
    with guarded() as guard:
        folder = guard.folder
        with pytest.raises(MeasuringError, match="was ended by somebody else"):
            guard.run(shell("kill -KILL $PPID"), cwd=guard.folder, environment={})
    remove(folder)


def test_an_interpreter_that_cannot_be_started_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(MeasuringError, match="/nowhere/python cannot be started"), guarded():
        pass


def test_how_commands_end_is_told_in_words() -> None:
    assert how_it_ended(2) == "exited with status 2"
    assert how_it_ended(-9) == "was ended by SIGKILL"
    assert how_it_ended(-1000) == "was ended by signal 1000"
